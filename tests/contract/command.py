"""The command as a user runs it: in a process of its own, with an environment of our choice."""

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


def sidespawn_command(*arguments: object, as_nobody: bool = False) -> subprocess.CompletedProcess[str]:
    """`as_nobody` runs it as an ordinary user. The code is handed over, since nobody may not read a checkout."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    launcher = [sys.executable, "-c", "from sidespawn.cli.main import main; main()"]
    if as_nobody:
        drop = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
        imports = "import sidespawn.cli.explain, sidespawn.cli.check, sidespawn.engines.podman"
        launcher[2] = f"from sidespawn.cli.main import main; {imports}; {drop}; main()"
    return subprocess.run(
        [*launcher, *map(str, arguments)],
        env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def printed_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
