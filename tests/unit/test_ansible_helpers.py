"""How the Ansible collection finds named network namespaces: in the kernel's list of mounts, without touching them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "integrations/ansible/plugins/module_utils/helpers.py"
NSFS = "rw shared:6 - nsfs nsfs rw"


@pytest.fixture(scope="module")
def helpers() -> ModuleType:
    specification = importlib.util.spec_from_file_location("ansible_helpers", SOURCE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["net:[4026532000] /run/netns/qdhcp-1"], {4026532000: "qdhcp-1"}),
        (["net:[1] /run/netns/a", "net:[2] /run/netns/b"], {1: "a", 2: "b"}),
        (["net:[1] /run/netns/b", "net:[1] /run/netns/a"], {1: "a"}),
        (["net:[1] /run/netns/with\\040blank"], {1: "with blank"}),
        (["net:[1] /run/netns/a\u2028b\vc"], {1: "a\u2028b\vc"}),
        # Another mount hides the name, which would hang if it were looked at.
        (["net:[1] /run/netns/a", "/ /run/netns/a"], {}),
        (["/ /run/netns/a", "net:[1] /run/netns/a"], {1: "a"}),
        (["mnt:[1] /run/netns/a"], {}),
        (["/net:[1] /run/netns/a"], {}),  # a file of that name
        (["net:[1]x /run/netns/a"], {}),
        (["net:[] /run/netns/a"], {}),
        (["net:[1] /run/netns", "net:[2] /run/netns-of-mine/a", "net:[3] /run/docker/netns/a"], {}),
        (["net:[1] /run/netns/a/b"], {}),
        ([], {}),
    ],
)
def test_names_are_those_of_mounts_of_network_namespaces(
    helpers: ModuleType, rows: list[str], found: dict[int, str]
) -> None:
    table = "".join(f"{number} 20 0:4 {row} {NSFS}\n" for number, row in enumerate(rows, 30))
    assert helpers.namespaces_in(table.encode()) == found


@pytest.mark.parametrize("table", [b"", b"\n", b"1 2 3\n", b"\xff \xfe", b"1 2 3 net:[1]\n"])
def test_what_is_no_row_is_no_name(helpers: ModuleType, table: bytes) -> None:
    assert helpers.namespaces_in(table) == {}


def test_links_and_file_systems_in_the_directory_are_not_touched(
    helpers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/proc/self/ns/net")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(helpers, "NAMESPACES", str(tmp_path))
    assert helpers.namespaces() == {}
