"""Names that anyone may choose, in kernel tables that root's tools read."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from sidespawn.cli import top
from sidespawn.host_report import agents, mount_namespaces, network_namespaces
from sidespawn.host_scan import sources
from sidespawn.system import tables
from tests.attacks.catalogue import attack

# What Python treats as the end of a line or word and the kernel does not escape.
ENDS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
BLANKS = ("\r", "\x1f", "\xa0", "\u2003", "\u3000")
TRUE = "25 1 0:22 / /run rw shared:5 - tmpfs tmpfs rw\n26 25 0:22 /netns /run/netns rw shared:7 - tmpfs tmpfs rw\n"


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_name_with_what_is_an_end_of_a_line_to_others_is_one_row(end: str) -> None:
    text = TRUE + f"27 26 0:4 net:[1] /run/netns/a{end}b rw - nsfs nsfs rw\n"
    assert [row[4] for row in tables.mounts(text)] == ["/run", "/run/netns", f"/run/netns/a{end}b"]


def test_no_row_is_shorter_than_can_be() -> None:
    assert tables.mounts("\n\na b c\n1 2 3 4 5\n") == [["1", "2", "3", "4", "5"]]


@attack(247)
@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_the_name_of_a_mount_is_no_row_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, blank: str
) -> None:
    """Agents share /run/netns, so the names of their mount points appear among the host's mounts."""
    lie = blank.join(("99", "1", "7:7", "/", "/run/sidespawn/other/spool", "rw"))
    text = TRUE + f"27 26 0:4 net:[1] /run/netns/a{end}{lie} rw shared:9 - nsfs nsfs rw\n"
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(text, encoding="utf-8", newline="")
    monkeypatch.setattr(tables, "read", lambda _: text)
    assert "/run/sidespawn/other/spool" not in agents.devices(1)
    assert "/run/sidespawn/other/spool" not in mount_namespaces.mount_points()
    assert {each.point for each in sources.host_mounts(tmp_path)} == {row[4] for row in tables.mounts(text)}
    covers = blank.join(("99", "1", "7:7", "/", "/run/netns", "rw", "-"))
    text = TRUE + f"27 26 0:4 net:[1] /run/netns/a{end}{covers} rw shared:9 - nsfs nsfs rw\n"
    assert network_namespaces.is_shared(text, "/run/netns")


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
    looked = []
    container = f"0::/machine.slice/libpod-{'a' * 64}.scope"
    known = {1: ("host", "0::/init.scope")} | {
        pid: (f"mnt:[{pid}]", f"{container}/made-by-the-agent-{pid}") for pid in range(100, 150)
    }

    def look_at(service: str, pid: int, *_: object) -> agents.Agent:
        looked.append(pid)
        return agents.Agent(service=service, pid=pid)

    monkeypatch.setattr(Path, "glob", lambda *_: [Path(f"/proc/{pid}") for pid in known])
    monkeypatch.setattr(os, "readlink", lambda path: known[int(str(path).split("/")[2])][0])
    monkeypatch.setattr(Path, "read_bytes", lambda path: known[int(path.parts[2])][1].encode())
    spools = {"/run/sidespawn/a/spool": "0:9"}
    monkeypatch.setattr(agents, "devices", lambda pid: spools | ({"/run/sidespawn/a": "0:8"} if pid == 1 else {}))
    monkeypatch.setattr(agents, "look_at", look_at)
    (found,) = agents.look(["a"])
    assert (found.pid, looked) == (100, [100])
