"""The units' command with a shorter timeout for podman: python3 -I -S hurried.py sync SERVICE.

Otherwise a test with a hanging podman would wait for a minute each time. `SIDESPAWN_PATIENCE=60` is the service's real
timeout. Production has none of this: a test sets it in a drop-in of its unit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PATIENCE = float(os.environ.get("SIDESPAWN_PATIENCE", "6"))  # seconds for a start; half of it for all else
PACKAGE = Path(__file__).parents[2] / "src"


def main(arguments: list[str]) -> int:
    sys.path.append(str(PACKAGE))
    from sidespawn import run
    from sidespawn.engines import podman

    podman.START_TIMEOUT, podman.QUERY_TIMEOUT = PATIENCE, PATIENCE / 2
    return run.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
