"""The real programs' own checkers accept what the policies make of the releases' configuration files.

They run without a network in a directory to which the side containers' image is unpacked: never on the host's files.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.core.decide import beneath, decide
from sidespawn.errors import Denied
from tests.data.releases import RELEASE_CALLS
from tests.fuzz.targets import CHECKOUT
from tests.unit.shipped import preset
from tests.unit.small import start_request

FILE = "/checked.conf"
CHECKERS = {
    "haproxy": ("haproxy", "-c", "-f", FILE),
    "dnsmasq": ("dnsmasq", "--test", f"--conf-file={FILE}"),
    "radvd": ("radvd", "--configtest", "-C", FILE),
    "keepalived": ("keepalived", "--config-test", f"--use-file={FILE}"),
}
# keepalived's message about a valid file if there are no interfaces.
NO_INTERFACE = ("doesn't exist", "Non-existent interface", "Unknown interface", "is not in the same", "interface")


def texts() -> Iterator[tuple[str, str]]:
    for call in RELEASE_CALLS:
        policy = preset(call.preset)
        if policy.table.program not in CHECKERS:
            continue
        try:
            files = {beneath(policy, path): text.encode() for path, text in call.files.items()}
            request = start_request(call.argv, call.netns, dict(sorted(call.env.items())))
            plan = decide(policy, request, files.get).plan
        except Denied:
            continue
        yield from ((policy.table.program, each.text or "") for each in plan.configuration)


TEXTS = tuple(dict.fromkeys(texts()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("chroot(8) needs root")
    target = tmp_path_factory.mktemp("image")
    tars = sorted((CHECKOUT / ".cache/images").glob("sidespawn-helpers-*.tar"), key=lambda path: path.stat().st_mtime)
    assert tars, "the images' tars are made by `./dev fuzz` and `./dev test`"
    subprocess.run(["tar", "--extract", f"--file={tars[-1]}", f"--directory={target}"], timeout=300, check=True)
    return target


def test_there_are_texts_of_each_program() -> None:
    assert {program for program, _ in TEXTS} == CHECKERS.keys()
    assert len(TEXTS) > 50


@pytest.mark.parametrize(("program", "text"), TEXTS, ids=[f"{program}-{n}" for n, (program, _) in enumerate(TEXTS)])
def test_the_program_takes_what_was_accepted(root: Path, program: str, text: str) -> None:
    (root / FILE[1:]).write_text(text)
    command = ["unshare", "--net", "chroot", str(root), *CHECKERS[program]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if program == "keepalived":
        assert [line for line in said if not any(each in line for each in NO_INTERFACE)] == []
    else:
        assert done.returncode == 0, said
