"""Programs of the development machine, run to their end."""

from __future__ import annotations

import subprocess

from vm.errors import VmError

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def run(*argv: str, seconds: float) -> str:
    """Return what the program printed. Raises VmError with its last words when it fails."""
    try:
        done = subprocess.run(argv, env=_ENVIRONMENT, timeout=seconds, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise VmError(f"{argv[0]} failed ({error.returncode}):\n{error.stderr.strip()}") from error
    except FileNotFoundError as error:
        raise VmError(f"{argv[0]} is not installed", hint="./dev vm installs it") from error
    except subprocess.TimeoutExpired as error:
        raise VmError(f"{argv[0]} took more than {seconds:.0f} s") from error
    return done.stdout
