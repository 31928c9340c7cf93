"""A namespace's name leads to a network namespace that is not the host's, or nowhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SETUP = """
import fcntl, os, subprocess
from sidespawn.errors import LaunchError, Reason
from sidespawn.system.namespaces import namespace_of, pinned_namespace
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
def bind(kind, name, other=True):
    (names / name).touch()
    new = ["unshare", "--" + kind] if other else []
    subprocess.run([*new, "mount", "--bind", f"/proc/self/ns/{kind}", names / name], check=True)
mount("-t", "tmpfs", "none", tmp_path)
names = tmp_path / "netns"
names.mkdir()
pin = tmp_path / "pin"
def refused(name, said=""):
    try:
        with pinned_namespace(name, pin, names):
            raise AssertionError(f"{name} was used")
    except LaunchError as error:
        assert error.reason is Reason.NAMESPACE_UNUSABLE
        assert said in error.message, error.message
    assert not pin.exists()
"""


def test_a_namespace_is_pinned_and_stays_the_same_when_its_name_is_taken_away(apart: Callable[[str], str]) -> None:
    apart(
        SETUP
        + """
bind("net", "ns-1")
with pinned_namespace("ns-1", pin, names) as pinned:
    inode = os.stat(names / "ns-1").st_ino
    assert pinned.inode == inode == os.stat(pin).st_ino
    subprocess.run(["umount", "--lazy", names / "ns-1"], check=True)  # as `ip netns delete` does
    assert os.stat(pin).st_ino == inode
assert not pin.exists()
"""
    )


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        ("pass", "ns-1", "No such file"),
        ("(names / 'ns-1').touch()", "ns-1", "it is not a namespace"),
        ("(names / 'ns-1').mkdir()", "ns-1", "it is not a namespace"),
        ("os.mkfifo(names / 'ns-1')", "ns-1", "it is not a namespace"),
        ("bind('net', 'ns-2'); (names / 'ns-1').symlink_to('ns-2')", "ns-1", ""),
        ("(names / 'ns-1').symlink_to('/proc/1/ns/net')", "ns-1", ""),
        ("(names / 'ns-1').symlink_to('/proc/self/ns/net')", "ns-1", ""),
        ("bind('uts', 'ns-1')", "ns-1", "another type"),
        ("bind('ipc', 'ns-1')", "ns-1", "another type"),
        ("(names / 'ns-1').touch(); mount('--bind', '/proc/1/ns/net', names / 'ns-1')", "ns-1", "the host's own"),
        ("bind('net', '../ns-1')", "../ns-1", ""),
        ("bind('net', 'ns-1')", "/proc/1/ns/net", ""),
        ("bind('net', 'ns-1'); mount('-t', 'tmpfs', 'none', names); bind('net', 'ns-1')", "ns-1", "mounted over"),
        ("mount('-t', 'proc', 'none', names)", "self/ns/net", ""),
    ],
    ids=[
        *("nothing", "a file", "a directory", "a pipe", "a link to another", "a link to the host's", "a magic link"),
        *("another type", "yet another type", "a mount of the host's", "a path up", "an absolute path"),
        *("a file system over the names", "proc over the names"),
    ],
)
def test_refused(apart: Callable[[str], str], make: str, name: str, said: str) -> None:
    apart(f"{SETUP}\n{make}\nrefused({name!r}, {said!r})")


def test_the_namespace_of_a_process(apart: Callable[[str], str]) -> None:
    apart(
        SETUP
        + """
here = os.stat("/proc/self/ns/net").st_ino
assert namespace_of(os.getpid()) == here
other = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; sleep 60"], stdout=subprocess.PIPE)
other.stdout.readline()
assert namespace_of(other.pid) not in (None, here)
other.kill()
other.wait()
assert namespace_of(other.pid) is None
assert namespace_of(2**22 - 1) is None
"""
    )


def test_the_hosts_own_is_pinned_when_it_is_asked_for_as_such(apart: Callable[[str], str]) -> None:
    apart(
        SETUP
        + """
with pinned_namespace(None, pin, names) as pinned:
    assert pinned.inode == os.stat("/proc/1/ns/net").st_ino == os.stat(pin).st_ino
assert not pin.exists()
"""
    )
