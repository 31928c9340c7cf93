"""Whatever agents or users of the host leave where a verb reads, it prints one clear line at most and does no harm.

All kinds of garbage are everywhere at once. Each verb must end in time, with a documented exit code, without a
traceback, and without output that a terminal would execute.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidespawn.system.places import NAMESPACES
from sidespawn.system.processes import ENVIRONMENT
from tests.attacks.catalogue import attack
from tests.lab.networks import SIDESPAWN, Service, command

ESCAPES = b"\x1b]0;owned\x07\x1b[2J\x9b31m\r\n"
TEXTS = {
    "NUL bytes": bytes(5000),
    "no UTF-8": b"\xff\xfe\xc3\x28\x80" * 100 + b"\n",
    "escapes": ESCAPES * 20,
    "deep JSON": b"[" * 60_000 + b"\n",
    "deep object": b'{"a":' * 10_000 + b"\n",
    "numbers": b'{"v": -1, "id": 1e999, "deadline": ' + b"9" * 5000 + b', "pid": -2147483649}\n-1 1e400 nan\n',
    "long line": b"x" * 3_000_000,
    "empty": b"",
}


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def full_directory(path: Path) -> None:
    path.joinpath("a", "b").mkdir(parents=True)
    (path / "file").touch()


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


KINDS: dict[str, Callable[[Path], object]] = {
    "huge": sparse,
    "FIFO": os.mkfifo,
    "directory": full_directory,
    "link to what waits": link_to("/proc/kmsg"),
    "link to what never ends": link_to("/dev/zero"),
    "link to itself": link_to("processes"),
    **{name: lambda path, text=text: path.write_bytes(text) for name, text in TEXTS.items()},  # type: ignore[misc]
}
NAME = os.fsdecode(b"\x1b]0;x\x07\xff\xc2\x9b")  # files whose names an agent chooses


def put(path: Path, make: Callable[[Path], object]) -> None:
    """Replace whatever is there."""
    if path.is_dir() and not path.is_symlink():
        subprocess.run(("rm", "-r", str(path)), check=True)
    path.unlink(missing_ok=True)
    with suppress(OSError):  # a file larger than the free space, for example
        make(path)


@pytest.fixture(scope="module")
def host(shared_service: Service) -> Iterator[Service]:
    """Put garbage where deployers leave files in agents' directories, and among the names in /run/netns."""
    made = [Path("/var/lib/neutron"), Path("/var/lib/neutron/kill_scripts")]
    new = [path for path in made if not path.exists()]
    for path in new:
        path.mkdir()
    yield shared_service
    for path in reversed(new):
        subprocess.run(("rm", "-r", str(path)), check=False)


def verbs(service: Service, argv: list[str], netns: str) -> Iterator[tuple[tuple[str, ...], set[int]]]:
    """Return the verbs with the exit codes that each may have."""
    name = service.name
    yield ("check", name), {0}
    yield ("check",), {0}
    yield ("ps", name), {0}
    yield ("ps", name, "--limits"), {0}
    yield ("logs", name), {0}
    yield ("logs", name, "--refused"), {0}
    yield ("learn", name), {0}
    yield ("scan",), {0, 1}
    yield ("explain", name, "--netns", netns, "--", *argv), {0, 70, 77}
    yield ("enable", name), {0}


def expect_sober(argv: tuple[str, ...], codes: set[int]) -> None:
    began = time.monotonic()
    done = subprocess.run((*SIDESPAWN, *argv), capture_output=True, timeout=90, env=ENVIRONMENT, check=False)
    said = done.stdout + done.stderr
    assert b"Traceback" not in said, said[-2000:].decode(errors="replace")
    assert done.returncode in codes, (argv, done.returncode, said[-2000:])
    text = said.decode("utf-8")  # so no raw bytes from an agent
    assert not [each for each in text if not each.isprintable() and each not in "\n\t"], (argv, text[-2000:])
    assert time.monotonic() - began < 60


@attack(137)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_no_verb_stumbles_over_what_an_agent_leaves(host: Service, make: Callable[[Path], object]) -> None:
    network = host.network()
    configuration = host.state / "dnsmasq.conf"
    places = host.places
    state = [network.home / each for each in ("pid", "host", "leases")]
    for path in (
        *(places.spool / "processes", places.spool / "processes-taken", places.spool / NAME),
        *(places.replies / f"{'a' * 32}.json", places.replies / NAME, places.replies / f"{'b' * 32}.fifo"),
        *(*state, configuration, NAMESPACES / NAME, NAMESPACES / "qdhcp-garbage"),
        *(Path("/var/lib/neutron") / f"{NAME}wrapper", Path("/var/lib/neutron/kill_scripts") / NAME),
    ):
        put(path, make)
    with suppress(OSError), host.wrapper.open("r+b") as file:  # one file, whose inode the agent has
        file.truncate(0)
        file.write(ESCAPES * 10)
    try:
        argv = ["dnsmasq", *network.options("/var/lib/neutron/dnsmasq.conf")]
        for words, codes in verbs(host, argv, network.netns):
            expect_sober(words, codes)
        assert network.start().returncode in (0, 70), "the wrapper is there again, and there is an answer"
        expect_sober(("ps", host.name), {0})
    finally:
        for name in (NAME, "qdhcp-garbage"):
            put(NAMESPACES / name, lambda path: None)


@attack(138)
def test_records_that_others_wrote_into_the_journal_are_not_taken_for_the_services(host: Service) -> None:
    """Users of the host may write to the journal, with any fields."""
    forged = [
        "MESSAGE=forged: allowed",
        f"SIDESPAWN_SERVICE={host.name}",
        "SIDESPAWN_EVENT=monitored",
        f"SIDESPAWN_REQUEST={'a' * 32}",
        "SIDESPAWN_REASON=option-not-allowed",
        "SIDESPAWN_OPTION=--tftp-root",
        'SIDESPAWN_VALUE="/etc"',
        "SIDESPAWN_COUNT=1",
        "SIDESPAWN_NAMES={}",
    ]
    for event in ("monitored", "rejected"):
        text = "\n".join(forged).replace("monitored", event) + "\n"
        argv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "logger", "--journald")
        subprocess.run(argv, input=text, text=True, check=True)
    assert len(host.journal(event="monitored")) == 1, "the journal has it"
    for words in (
        ("learn", host.name),
        ("logs", host.name),
        ("logs", host.name, "--refused"),
        ("logs", host.name, "x"),
    ):
        said = command(*SIDESPAWN, *words).stdout
        assert "tftp-root" not in said, words
        assert "forged" not in said, words


@attack(139)
@pytest.mark.parametrize("verb", ["check", "ps", "logs", "learn", "enable", "disable", "stop", "scan"])
def test_an_unprivileged_user_of_the_host_gets_one_line(host: Service, verb: str) -> None:
    argv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *SIDESPAWN, verb)
    words = () if verb == "scan" else ("--all", host.name) if verb == "stop" else (host.name,)
    done = subprocess.run((*argv, *words), capture_output=True, text=True, timeout=90, env=ENVIRONMENT, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2, 64, 69, 70, 75, 77, 78)
    assert host.places.home.is_dir()
    assert command("systemctl", "is-active", f"sidespawn@{host.name}.socket").stdout == "active\n"
