"""Directories outside the agent's state whose files an agent may name: which paths are inside, which are writable."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidespawn.core.decide import beneath
from sidespawn.core.policy import Policy
from sidespawn.errors import Denied, LaunchError, PolicyError
from sidespawn.host.state import AgentState
from tests.unit.shipped import policy_of
from tests.unit.small import load

ROOTS = """[agent.roots]
etc = { path = "/etc/tool", on_host = "/srv/etc" }
logs = { path = "/var/log/tool", on_host = "/var/log/host", writable = true }

[names]"""


def with_roots(*changes: tuple[str, str]) -> Policy:
    return load(("[names]", ROOTS), *changes)


ALLOWED = [
    ("/state/a", "a"),
    ("/etc/tool/x.conf", "/srv/etc//x.conf"),
    ("/etc/tool/d/x:y", "/srv/etc//d/x:y"),
    ("/var/log/tool/a/b", "/var/log/host//a/b"),
]
REFUSED = [
    *("/etc/tool", "/etc/tool/", "/etc/tool/..", "/etc/tool/../x", "/etc/tool/./x", "/etc/tool//x", "/etc/tool-evil/x"),
    *("/etc/toolx", "/etc/x", "/srv/etc/x", "/var/log/host/x", "/etc/tool/x\n", "/etc/tool/x,y", "etc/tool/x", "", "/"),
    *("/etc/tool/\0", "//etc/tool/x", "/var/log/x", "/etc/tool/\u0430"),
]


@pytest.mark.parametrize(("path", "expected"), ALLOWED)
def test_a_path_in_a_root_is_relative_to_it(path: str, expected: str) -> None:
    assert beneath(with_roots(), path) == expected


@pytest.mark.parametrize("path", REFUSED, ids=ascii)
def test_no_other_path_is_in_one(path: str) -> None:
    with pytest.raises(Denied, match="is not under /state, /etc/tool, /var/log/tool"):
        beneath(with_roots(), path)


def test_only_a_writable_root_is_written_to() -> None:
    assert beneath(with_roots(), "/var/log/tool/x", writes=True) == "/var/log/host//x"
    with pytest.raises(Denied, match="is not under /state, /var/log/tool"):
        beneath(with_roots(), "/etc/tool/x", writes=True)


def test_a_whole_root_can_be_read_and_not_written() -> None:
    assert beneath(with_roots(), "/etc/tool", or_all=True) == "/srv/etc//."
    assert beneath(with_roots(), "/state", or_all=True) == "."


@pytest.mark.parametrize(
    ("path", "on_host"),
    [
        ("/state", "/srv/x"),
        ("/state/etc", "/srv/x"),
        ("/etc/tool", "/host/state/etc"),
        ("/etc/tool", "/host"),
        ("/etc/tool", "/var/log/host"),
        ("/var/log/tool/x", "/srv/x"),
        ("/var/log", "/srv/x"),
    ],
)
def test_no_root_is_inside_another(path: str, on_host: str) -> None:
    """Writers in the outer one could replace the inner one with a link."""
    text = ROOTS.replace("/etc/tool", path).replace("/srv/etc", on_host)
    with pytest.raises(PolicyError, match=r"small.toml:\d+: agent.roots.* overlap"):
        load(("[names]", text))


@pytest.mark.parametrize(
    "change",
    [
        ('"/srv/etc"', '"srv/etc"'),
        ('"/srv/etc"', '"/srv/../etc"'),
        (', on_host = "/srv/etc"', ""),
        ('"/srv/etc"', '"/srv/etc", mode = 1'),
    ],
)
def test_syntax(change: tuple[str, str]) -> None:
    with pytest.raises(PolicyError, match=r"small.toml:\d+: agent.roots.etc"):
        load(("[names]", ROOTS.replace(*change)))


def test_the_host_reads_and_writes_there(tmp_path: Path) -> None:
    for name in ("state", "logs", "elsewhere"):
        (tmp_path / name / "a").mkdir(parents=True)
    (tmp_path / "logs/a/x").write_text("x")
    state = AgentState(str(tmp_path / "state"))
    assert state.read(f"{tmp_path}/logs//a/x", 10) == b"x"
    state.write(f"{tmp_path}/logs//a/y", b"y", (0, 0))
    state.write(f"{tmp_path}/logs//y", b"y", (0, 0))
    state.write("a/y", b"y", (0, 0))
    assert [str(each.relative_to(tmp_path)) for each in sorted(tmp_path.rglob("y"))] == [
        "logs/a/y",
        "logs/y",
        "state/a/y",
    ]
    state.remove(f"{tmp_path}/logs//a/y")
    assert not (tmp_path / "logs/a/y").exists()
    with state.directory(f"{tmp_path}/logs//."):
        pass
    (tmp_path / "logs/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    for path in (f"{tmp_path}/logs//link/x", f"{tmp_path}/logs//../elsewhere", f"{tmp_path}/root//a"):
        with pytest.raises(LaunchError), state.directory(path):
            pass


def test_parameters_follow_those_before_them() -> None:
    policy = policy_of('extends = "neutron-l3-haproxy"\n[parameters]\nstate = "/var/lib/neutron/kolla"\n')
    assert policy.names["sockets"][0].source == "/var/lib/neutron/kolla"
    with pytest.raises(PolicyError, match="character that a parameter cannot have"):
        policy_of('extends = "neutron-l3-haproxy"\n[parameters]\nstate = "{run_dir}"\n')
