"""Names that anyone may choose, in kernel tables that root's tools read."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from sidespawn.cli import top
from sidespawn.errors import LaunchError, Reason
from sidespawn.host_report import agents, mount_namespaces, network_namespaces
from sidespawn.host_report.findings import State, Topic
from sidespawn.host_scan import sources
from sidespawn.system import tables
from tests.attacks.catalogue import attack

# What Python treats as the end of a line or word and the kernel does not escape.
ENDS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
BLANKS = ("\r", "\x1f", "\xa0", "\u2003", "\u3000")
TRUE = "25 1 0:22 / /run rw shared:5 - tmpfs tmpfs rw\n26 25 0:22 /netns /run/netns rw shared:7 - tmpfs tmpfs rw\n"


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_name_with_what_is_an_end_of_a_line_to_others_is_one_row(tmp_path: Path, end: str) -> None:
    path = written(tmp_path, TRUE + f"27 26 0:4 net:[1] /run/netns/a{end}b rw - nsfs nsfs rw\n")
    assert [row[4] for row in tables.mounts(path)] == ["/run", "/run/netns", f"/run/netns/a{end}b"]


def test_no_row_is_shorter_than_can_be(tmp_path: Path) -> None:
    path = written(tmp_path, "\n\na b c\n1 2 3 4 5\n")
    assert list(tables.mounts(path)) == [["1", "2", "3", "4", "5"]]


@pytest.mark.parametrize("text", [TRUE * 3, f"{TRUE}{'x' * len(TRUE)}"], ids=["many rows", "a long row"])
def test_of_a_table_without_end_only_the_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(tables, "MOST", len(TRUE))
    assert len(list(tables.rows(written(tmp_path, TRUE)))) == 2
    read = []
    with pytest.raises(LaunchError, match="more than"):
        for row in tables.rows(written(tmp_path, text)):
            read.append(row[4])
    assert read == ["/run", "/run/netns"]


@attack(247)
@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_the_name_of_a_mount_is_no_row_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, blank: str
) -> None:
    """Agents share /run/netns, so the names of their mount points appear among the host's mounts."""
    lie = blank.join(("99", "1", "7:7", "/", "/run/sidespawn/other/spool", "rw"))
    (tmp_path / "self").mkdir()
    path = tmp_path / "self/mountinfo"
    path.write_bytes(f"{TRUE}27 26 0:4 net:[1] /run/netns/a{end}{lie} rw shared:9 - nsfs nsfs rw\n".encode())
    every, mounts, wanted = list(tables.mounts(path)), tables.mounts, frozenset({"/run/sidespawn/other/spool"})
    monkeypatch.setattr(tables, "mounts", lambda _: every)
    assert not agents.devices(1, wanted)
    assert not mount_namespaces.mount_points(wanted)
    assert {each.point for each in sources.host_mounts(tmp_path)} == {row[4] for row in every}
    covers = blank.join(("99", "1", "7:7", "/", "/run/netns", "rw", "-"))
    path.write_bytes(f"{TRUE}27 26 0:4 net:[1] /run/netns/a{end}{covers} rw shared:9 - nsfs nsfs rw\n".encode())
    assert network_namespaces.is_shared(mounts(path), "/run/netns")


@attack(248)
@pytest.mark.parametrize("name", [b"/tmp/a\n\n/x", b"/tmp/a\x85\xe2\x80\xa8", b"/tmp/a\x0c\x0c b", b"\n"], ids=ascii)
def test_the_name_of_a_socket_keeps_no_one_from_reading_the_others(tmp_path: Path, name: bytes) -> None:
    """Processes in the host's network can create one; the kernel escapes no part of its name."""
    (tmp_path / "net").mkdir()
    row = b"0000: 00000002 00000000 00010000 0001 01 %5d %s\n"
    (tmp_path / "net/unix").write_bytes(
        b"Num RefCount Protocol Flags Type St Inode Path\n" + row % (1, name) + row % (2, b"/opt/x/docker.sock")
    )
    assert list(sources.listening(tmp_path)) == ["/opt/x/docker.sock"]


@attack(249)
@pytest.mark.parametrize("end", ["\x0c", "\x0b", "\x1e"], ids=ascii)
def test_a_program_that_names_itself_as_a_line_of_its_status_hides_no_memory(end: str) -> None:
    """`top` shows the kernel's figures, not the process's name."""
    libc, own, named = ctypes.CDLL(None), Path("/proc/self/comm").read_text().strip(), threading.get_native_id()
    assert named == os.getpid(), "the name of the process is that of its first thread"
    assert libc.prctl(15, f"x{end}VmRSS: 9 kB".encode()) == 0  # PR_SET_NAME
    try:
        assert (top.memory(os.getpid()) or 0) > 1 << 20
    finally:
        libc.prctl(15, own.encode())


@attack(250)
def test_of_an_agent_with_any_number_of_mount_namespaces_one_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at one may take seconds, since agents' files may not answer: a thousand would take an hour."""
    container = f"0::/machine.slice/libpod-{'a' * 64}.scope"
    host = Host(monkeypatch, {pid: f"{container}/made-by-the-agent-{pid}" for pid in range(100, 150)})
    (found,) = agents.look(["a"])
    assert (found.pid, host.read, host.looked_at) == (100, [1, 100], [100])


def test_who_has_more_mounts_than_are_read_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read little: the kernel writes a name of 4 KiB as up to 16, and 100,000 mounts as gigabytes."""
    groups = {pid: f"0::/machine.slice/libpod-{'a' * 64}.scope/{pid}" for pid in range(100, 150)}
    host = Host(monkeypatch, groups | {200: f"0::/machine.slice/libpod-{'b' * 64}.scope"})
    host.endless = set(range(100, 150))
    found = agents.look(["a"])
    assert ([each.pid for each in found], host.read) == ([100, 200], [1, 100, 200])
    (told,) = agents.judge(found, has_apparmor=False)
    assert (told.id, told.state, told.subject) == (Topic.NOT_LOOKED_AT, State.WARNING, "agents")
    assert "process 100" in told.found
    assert "16 MiB" in told.found
    assert "systemctl status 100" in told.hint


def test_a_user_namespace_with_an_agents_mounts_is_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip it: any user can make one, and put what is to be restarted into the name of its control group."""
    real = f"0::/machine.slice/libpod-{'a' * 64}.scope"
    host = Host(monkeypatch, {100: real, 101: "0::/user.slice", 102: real})
    host.users = {100: ["theirs"], 101: ["host", "theirs"]}  # it makes its own while it is examined
    (found,) = agents.look(["a"])
    assert (found.pid, found.restart) == (102, "podman restart aaaaaaaaaaaa")
    assert host.read == [1, 101, 102]


class Host:
    """A host with the service `a`, whose processes all have an agent's mounts, each in its own namespace."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, groups: dict[int, str]) -> None:
        self.groups = groups
        self.users: dict[int, list[str]] = {}  # what a process has, as it is read again
        self.endless: set[int] = set()
        self.read: list[int] = []  # the processes whose mounts were read
        self.looked_at: list[int] = []
        monkeypatch.setattr(Path, "glob", lambda *_: [Path(f"/proc/{pid}") for pid in (1, *groups)])
        monkeypatch.setattr(Path, "read_bytes", lambda path: groups.get(int(path.parts[2]), "0::/init.scope").encode())
        monkeypatch.setattr(os, "readlink", self.readlink)
        monkeypatch.setattr(agents, "devices", self.devices)
        monkeypatch.setattr(agents, "look_at", self.look_at)

    def readlink(self, path: str) -> str:
        pid, kind = int(path.split("/")[2]), path.rpartition("/")[2]
        if kind == "mnt":
            return f"mnt:[{pid}]"
        known = self.users.get(pid, ["host"])
        return known.pop(0) if len(known) > 1 else known[0]

    def devices(self, pid: int, _: frozenset[str]) -> dict[str, str]:
        self.read.append(pid)
        if pid in self.endless:
            raise LaunchError(Reason.HOST_UNSUITABLE, "too long")
        return {"/run/sidespawn/a/spool": "0:9"} | ({"/run/sidespawn/a": "0:8"} if pid == 1 else {})

    def look_at(self, service: str, pid: int, *_: object) -> agents.Agent:
        self.looked_at.append(pid)
        return agents.Agent(service=service, pid=pid)


def test_a_scan_says_that_a_table_was_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("net", "self"):
        (tmp_path / name).mkdir()
    (tmp_path / "net/unix").write_text("1: 2 0 0 1 1 7 /opt/x/docker.sock\n" * 9)
    (tmp_path / "self/mountinfo").write_text(TRUE)
    monkeypatch.setattr(tables, "MOST", len(TRUE))
    found = sources.look(tmp_path)
    assert "/opt/x/docker.sock" in found.sockets, "what was read counts"
    (said,) = found.not_looked_at
    assert said.startswith(f"{tmp_path}/net/unix has more than ")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table"
    path.write_bytes(text.encode())
    return path
