"""The command of the units, with less patience for podman: python3 -I -S hurried.py sync SERVICE.

A test that has podman hang would otherwise wait for a minute each time.  `SIDESPAWN_PATIENCE=60` is what the service
really has.  Production has nothing of this: a test puts it into a drop-in of its unit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PATIENCE = float(os.environ.get("SIDESPAWN_PATIENCE", "6"))  # seconds for a start, half of it for anything else
PACKAGE = Path(__file__).parents[2] / "src"


def main(arguments: list[str]) -> int:
    sys.path.append(str(PACKAGE))
    from sidespawn import run
    from sidespawn.engines import podman

    podman.START_TIMEOUT, podman.QUERY_TIMEOUT = PATIENCE, PATIENCE / 2
    return run.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
