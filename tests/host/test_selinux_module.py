"""SELinux's module is installed with the first service and removed with the last; no denial is unlisted.

The host must have no enabled service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.setup import selinux
from tests.host import avc
from tests.lab.networks import SIDESPAWN, command

DOCS = Path(__file__).parents[2] / "docs/selinux.md"
ROW = re.compile(r"^\| `(\w+)` \| `([\w ]+)` of `(\w+):(\w+)` \|", re.MULTILINE)
STORE = Path("/var/lib/selinux")
CONTEXTS = Path("/etc/selinux")


def documented() -> set[tuple[str, str]]:
    """Return who is denied what, by the table in the docs."""
    rows = ROW.findall(DOCS.read_text(encoding="utf-8"))
    return {(source, f"{permissions} of {target}:{kind}") for source, permissions, target, kind in rows}


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[dict[str, object], list[avc.Denial]]]:
    """Run the demo on a host without the module, before and after. Return its results, and the denials."""
    assert not selinux.is_installed(), "a service is enabled, or the last one left the module behind"
    since = avc.position()
    done = command(*SIDESPAWN, "demo", "--json", check=False, timeout=300)
    yield json.loads(done.stdout.splitlines()[-1]), avc.denials(since)


def test_the_demo_passes_and_nothing_is_denied_that_the_docs_do_not_list(
    played: tuple[dict[str, object], list[avc.Denial]],
) -> None:
    shown, denials = played
    assert shown["ok"], shown
    rows = {each.row for each in denials}
    assert rows - documented() == set()
    assert rows, "the demo tries what is denied"


def test_nothing_is_left_of_the_module(played: tuple[dict[str, object], list[avc.Denial]]) -> None:
    assert played[0]["ok"]
    assert not selinux.is_installed()
    assert "sidespawn" not in command("/usr/sbin/semodule", "-l").stdout
    assert [str(path) for path in STORE.rglob("*sidespawn*")] == []
    texts = (path for path in CONTEXTS.rglob("file_contexts*") if path.suffix != ".bin")
    assert [str(path) for path in texts if "sidespawn" in path.read_text(encoding="utf-8")] == []
