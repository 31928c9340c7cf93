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


@pytest.mark.parametrize(
    ("name", "patterns", "holds"),
    [
        ("qdhcp-1", "qdhcp-{network}", True),
        ("qdhcp-1", "qdhcp-<uuid>", True),
        ("qrouter-1", "qrouter-{router} or snat-{router}", True),
        ("snat-1", "qrouter-{router} or snat-{router}", True),
        ("fixed", "fixed", True),
        ("qrouter-1", "qdhcp-{network}", False),
        ("qdhcp-", "qdhcp-{network}", False),
        ("", "qdhcp-{network}", False),
        ("my-qdhcp-1", "qdhcp-{network}", False),
        ("qdhcp-1\n", "qdhcp-1", False),
        ("qdhcp-1/2", "qdhcp-{network}", False),
        ("axb", "a.b", False),
        ("qdhcp-1", "none: the host's own network", False),
        ("none: the host's own network", "none: the host's own network", False),
    ],
)
def test_namespaces_of_a_policy(helpers: ModuleType, name: str, patterns: str, holds: bool) -> None:
    assert helpers.in_namespaces(name, patterns) is holds


def test_helpers_of_another_agent_are_not_served(helpers: ModuleType) -> None:
    rows = [
        {"program": program, "netns": netns, "pid": 1}
        for program in ("dnsmasq", "haproxy")
        for netns in ("qdhcp-1", "qrouter-1")
    ]
    serves = [
        {"service": "l3", "program": "haproxy", "namespaces": "qrouter-{router}"},
        {"service": "metadata", "program": "haproxy", "namespaces": "ovnmeta-{network}"},
    ]
    assert helpers.served(rows, serves) == [{"program": "haproxy", "netns": "qrouter-1", "pid": 1}]
    assert helpers.served(rows, []) == []
