"""A child's pid, as the program writes it, leads to exactly that child on the host, or nowhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sidespawn.core.plan import ChildPidFile
from sidespawn.host import children
from sidespawn.host.children import find_child, find_children
from sidespawn.system.processes import Process, end, identify
from tests.attacks.catalogue import attack

# PID 1 of a namespace, like a side container's program. It reports the pids of its child, of a grandchild, and of a
# process in a nested pid namespace.
PROGRAM = """
import pathlib, subprocess, sys, time
sleep = ["/bin/sleep", "60"]
def below(*argv):
    outer = subprocess.Popen([*argv, *sleep])
    children = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while not children.read_text():
        time.sleep(0.01)
    return children.read_text().strip()
child = subprocess.Popen(sleep)
print(child.pid, below("/bin/sh", "-c", '"$@" & wait', "sh"), below("/usr/bin/unshare", "--pid", "--fork"), flush=True)
child.wait()
time.sleep(60)
"""


@dataclass
class Program:
    process: Process
    child: str
    grandchild: str
    nested: str
    file: Path

    def find(self, content: str | bytes) -> Process | None:
        self.file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.look()

    def look(self) -> Process | None:
        return find_child(self.process, str(self.file))


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    if os.geteuid() != 0:
        pytest.skip("needs root for a pid namespace of its own")
    apart = ("/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    with subprocess.Popen([*apart, sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as unshare:
        assert unshare.stdout is not None
        child, grandchild, nested = unshare.stdout.readline().split()
        pid = int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text())
        process = identify(pid)
        assert process is not None
        yield Program(process, child, grandchild, nested, tmp_path / "child.pid")
        end(process, "KILL", 10)


def parent_of(process: Process) -> int:
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("end_of_line", ["\n", ""])
def test_a_child_is_found_by_its_pid_in_the_side_container(program: Program, end_of_line: str) -> None:
    found = program.find(program.child + end_of_line)
    assert found is not None
    assert parent_of(found) == program.process.pid
    assert str(found.pid) != program.child


def test_a_childs_child_is_found(program: Program) -> None:
    found = program.find(program.grandchild)
    assert found is not None
    assert parent_of(found) != program.process.pid


@attack(145)
def test_a_process_of_another_namespace_is_never_accepted(program: Program) -> None:
    assert program.find(program.nested) is None  # its pid in the program's namespace
    assert program.find("1") is None  # its pid in its own namespace, and the program's own pid, not a child's
    assert program.find(str(os.getpid())) is None
    assert program.find(str(program.process.pid)) is None


@pytest.mark.parametrize(
    "content",
    [
        *("", "\n", "0", "-2", "+2", " 2", "2 ", "02", "0x2", "2.0", "2\n\n", "2\n3\n", "\n2", "2\0", "2\r\n", "²"),
        *(b"\xff", "two", "99999", str(2**64 + 2), "9" * 5000, "2" + "\n" * 40, "../2"),
    ],
    ids=lambda content: ascii(content[:20]),
)
def test_invalid_pids_name_no_child(program: Program, content: str | bytes) -> None:
    assert program.child == "2"
    assert program.find(content) is None


@attack(145)
def test_only_a_regular_file_is_read(program: Program) -> None:
    assert program.look() is None
    other = program.file.with_name("other")
    other.write_text(program.child)
    program.file.symlink_to(other)
    assert program.look() is None
    program.file.unlink()
    os.mkfifo(program.file)
    assert program.look() is None
    program.file.unlink()
    program.file.mkdir()
    assert program.look() is None


def test_a_zombie_is_not_a_child(program: Program) -> None:
    child = program.find(program.grandchild)
    assert child is not None
    end(child, "KILL", 10)
    assert program.look() is None


def test_a_program_that_is_gone_has_no_children(program: Program) -> None:
    assert program.find(program.child) is not None
    assert find_child(replace(program.process, started=1), str(program.file)) is None
    end(program.process, "KILL", 10)
    assert program.look() is None


@attack(219)
def test_a_pid_that_was_a_childs_when_it_was_listed_and_is_anothers_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the engine has no pid namespace, the pid may by now belong to a process of the host."""
    with subprocess.Popen(["/bin/sleep", "60"]) as program, subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        lists = [[stranger.pid]]
        monkeypatch.setattr(children, "descendants", lambda _: iter(lists.pop() if lists else []))
        process, file = identify(program.pid), tmp_path / "child.pid"
        file.write_text(str(stranger.pid))
        assert process is not None
        assert find_child(process, str(file)) is None
        for each in (program, stranger):
            each.kill()


def test_all_that_are_wanted_must_be_there(program: Program) -> None:
    second = program.file.with_name("second")
    wanted = tuple(ChildPidFile(beneath=path.name, inside=str(path)) for path in (program.file, second))
    child = program.find(program.child)
    assert child is not None
    assert find_children(program.process, wanted) is None
    second.write_text(program.grandchild)
    found = find_children(program.process, wanted)
    assert found is not None
    assert found["child.pid"] == [child.pid, child.started]
    assert found["second"] != found["child.pid"]
    assert find_children(program.process, ()) == {}


@attack(197)
def test_a_program_that_names_a_process_of_another_side_container_gets_none(program: Program, tmp_path: Path) -> None:
    """Pids repeat across namespaces: a child's pid in this one is a stranger's pid in another."""
    other = ("/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    with subprocess.Popen([*other, sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as unshare:
        assert unshare.stdout is not None
        child, *_ = unshare.stdout.readline().split()
        stranger = int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text())
        assert child == program.child
        found = program.find(child)
        assert found is not None
        assert parent_of(found) == program.process.pid
        os.kill(found.pid, signal.SIGKILL)  # not replaced: the stranger with that pid is not taken instead
        wait_for_end(found)
        assert program.find(child) is None
        for pid in (stranger, unshare.pid, os.getpid(), os.getppid()):
            assert program.find(str(pid)) is None
        os.kill(stranger, signal.SIGKILL)


def wait_for_end(process: Process) -> None:
    end(process, "KILL", 10)
