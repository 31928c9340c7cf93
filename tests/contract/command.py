"""The command as a user runs it: in a separate process, with a chosen environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import sidespawn

SOURCE = Path(sidespawn.__file__).parent.parent
NOBODY = 65534


# An ordinary user who may also read a checkout that only root can reach.
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
)


def sidespawn_command(*arguments: object, as_nobody: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    launcher = (sys.executable, "-c", "from sidespawn.cli.main import main; main()")
    return subprocess.run(
        [*(AS_NOBODY if as_nobody else ()), *launcher, *map(str, arguments)],
        env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def printed_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
