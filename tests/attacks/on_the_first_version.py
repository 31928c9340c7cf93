"""Try which attacks succeed on 0.1.0, and write tests/attacks/first_version.json.

    .venv/bin/python -m tests.attacks.on_the_first_version [TEST]...     where systemd is PID 1

Each test in TESTS attacks services enabled by 0.1.0, on a fresh stage, since leftovers of one test could break the
next. An attack succeeded if its test fails there; the message says how. If a command fails, the result is unclear.
Tests of what 0.1.0 does not have are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.lab import before

FOLDER = Path(__file__).parent
FOUND = FOLDER / "first_version.json"
COMMAND_FAILED = "AssertionError: env PYTHONPATH="
TESTS = (
    "test_superblocks.py::test_fanotify_hands_out_nothing_that_the_host_trusts",
    "test_superblocks.py::test_wrappers_that_the_agent_changed_are_written_again_by_enable",
    "test_superblocks.py::test_no_directory_that_the_host_opens_leads_to_its_root",
    "test_replies.py::test_an_operator_is_not_answered_by_the_agent",
    "test_replies.py::test_the_replies_fill_the_disk",
    "test_replies.py::test_links_among_the_replies",
)


def main(arguments: list[str]) -> None:
    known = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        place = Path(name)
        place.chmod(0o755)
        source = before.unpack(place).without_private_network().source
        for test in arguments or TESTS:
            known[test] = found(test, source, place / "report.xml")
            print(test, known[test], file=sys.stderr)
            FOUND.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def found(test: str, source: Path, report: Path) -> str:
    command = (sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", str(FOLDER / test))
    environment = {**os.environ, "SIDESPAWN_SOURCE": str(source)}
    report.unlink(missing_ok=True)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    case = next(each for each in ElementTree.parse(report).iter("testcase") if each.get("name") != "None")
    said = [each.get("message", "").splitlines()[0][:300] for each in case.iter("failure")]
    if said and said[0].startswith(COMMAND_FAILED):  # because of the attack or not; its text has paths of this machine
        return f"unclear: a command failed with exit code {said[0].rpartition(' ')[2]}"
    return f"succeeded: {said[0]}" if said else "held"


if __name__ == "__main__":
    main(sys.argv[1:])
