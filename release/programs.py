"""Programs of the machine, run to their end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from release.errors import BuildError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    *argv: str,
    seconds: float,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    called: str = "",
) -> str:
    """Return what the program printed. Raises BuildError with all that it said when it fails; there it is `called`
    so."""
    # PIP_… says how this machine reaches Python's packages.
    built = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    built |= {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", **(environment or {})}
    try:
        done = subprocess.run(
            argv, cwd=directory, env=built, timeout=seconds, check=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{called or ' '.join(argv)} failed ({error.returncode}):\n{error.stdout.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{argv[0]}: {error}") from error
    return done.stdout


def say(message: str) -> None:
    print(f"release: {message}", file=sys.stderr, flush=True)
