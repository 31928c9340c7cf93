"""The known attacks, by number, and the tests that carry them out.

    SIDESPAWN_WRITE_RESULTS=1 ./dev test attacks     rewrites results.json instead of comparing with it
    .venv/bin/python -m tests.attacks.catalogue      rewrites docs/known-attacks.md

A test anywhere in tests/ names the attacks that it carries out with `@attack(NUMBER, …)`, and so do the rows of
`tests/attacks/requests.py`. `results.json` next to this file holds the results against theirs. A test in
tests/contract compares the page with the tests and the results.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs/known-attacks.md"
RESULTS = Path(__file__).parent / "results.json"

GROUPS = {
    "Files": """
        the request file is a link to a file that root owns | a directory in the path becomes a link
        a pipe in place of the request file | a device node there | a hard link there
        a sparse file of 1 TiB; growth without end | a file swapped between check and read
        a file edited while it is read
        a file system mounted over the spool | a file system that never answers, to stall the reader
        such a file system at the name that PID 1 watches | a link to itself there
        the timestamp is a link or a directory
        the disk filled | the inodes used up | a deep tree or very many names, to slow cleanup
        an immutable file or a mount inside | a setuid file left in the state directory
        a script that the host runs is rewritten | the path of a log is a link | labels and access lists""",
    "Locks": """
        a lock held forever | a lock through a read-only mount | the lock's file replaced
        flock on one side, fcntl on the other
        each side locks another file | a lock that a child inherits | a writer stopped while it holds the lock""",
    "Parsing": """
        bytes that are not UTF-8 | NUL | line ends, control and bidirectional characters
        line ends that only some readers recognise | a line of 100 MB | deep nesting | a key twice
        NaN and 1e999 | an integer of 5,000 digits | lone surrogates | lookalike letters and digits
        values of the wrong type, unknown keys | a torn last line | a first line that invalidates the rest
        globs and quotes | text for sed and awk""",
    "Injection into engines and units": """
        a line end in a unit's property | `$X` and `${X}` | `%h` | the prefixes of ExecStart: `+ ! - @ :`
        a blank or a colon in a path to mount | a comma in `--mount` | a variable without a value, such as `-e NAME`
        an image that is an option or a transport | a container's name with `../`
        names that the engine reads as regular expressions | labels and annotations that change the runtime
        variables that a loader or an interpreter obeys | a working directory | unknown and abbreviated options
        a value that looks like an option | `--` and positional arguments | 100,000 arguments
        a repeated option overrides the first | Kubernetes: names in a pod's fields, hostPath""",
    "What the programs themselves can do": """
        dnsmasq: options that run, read, write or change identity
        the same in its configuration files, including nested ones
        haproxy: options that run, read, write or signal | haproxy: directives that run code
        haproxy: directives that read, write or reach another tenant | keepalived: options that write, read or run
        keepalived: directives that run, read, write or include | radvd: options that read, write or change identity
        dibbler: scripts, directories, logs | a configuration file edited after the check, then HUP
        a file of secrets given as the configuration | a program's own checker run on the host""",
    "Namespaces": """
        a path in place of the name | a link at the name | the host's own namespace bound at the name
        another tenant's namespace bound at the name | a pipe or a file at the name
        the namespace swapped between check and start | a restart that follows a stale path
        the namespace deleted and recreated | a namespace of another user namespace
        a mount over, or under, the directory of names""",
    "Pids and signals": """
        a reused pid | a pid of the host or of another service | -1, 0, 1, self, 2^40 as pid
        a forged pid file | odd signals | a kill script that needs nsenter
        a program that forks into the background""",
    "Out of the side container": """
        privileged, or with the host's network or pids | mounts that are shared and writable | setuid files of the image
        new namespaces | /proc, /sys, devices, sysctl | raw sockets, for spoofing in its own namespace
        a socket of the host inside | /dev/shm, state or tasks used up | the agent itself is privileged""",
    "Denial of service, and state": """
        a flood of requests | a start limit that ends the unit | a wake-up that is lost | a trigger that never clears
        one agent starving the others | an engine or a pull that hangs | a program that is never ready, again and again
        thousands of namespaces | flooding the journal | killed after the launch, before the record
        killed after the claim, before the launch | a reboot with an old spool | an old request replayed
        a torn state file | an old wrapper and a new host""",
    "Replies, logs, policy": """
        a path as the id | a link among the replies | ids that others use | the replies fill the disk
        escapes, line ends and priorities for the log | text that makes a regular expression run forever
        a line end after a name | `..` and a sibling with the same prefix | a link under an allowed path
        a policy that others can write | an unknown key in a policy""",
    "Between services": """
        a service and an instance whose combined name equals another's""",
    "Waking the service": """
        a doorbell rung without end, filled up, or emptied | something else in place of the doorbell""",
    "File systems that an agent has a mount of": """
        fanotify on the whole file system of one mounted file | the operator's request answered by the agent
        `..` from a directory that the host opened and fanotify passed on
        the agent's mounts remounted with other sizes and flags, and filled
        the wrapper rewritten, emptied, grown, made setuid | a reply forged before or after the answer""",
    "As other users of the host, and through what the command's verbs read": """
        many kinds of garbage wherever a verb of the command reads | records that another user wrote into the journal
        the command run by another user | processes whose names are not text, or look like lines of their status
        links among an agent's scripts to something that blocks forever
        a second agent: signals for the first's programs
        a second agent: the directory of names hidden by something that never answers
        a file system that never answers where a verb reads the agent's files
        a side container: pid files that lie, are links, or name others
        another user reaches into a service's directories | requests of nothing but empty lines
        another user stops, starts or masks a service's units
        as many requests as a run may hold, full of arguments""",
    "Out of the agent's container": """
        a new file system mounted | the same and more with the new mount API
        the mounts that mask or protect /proc and /sys bound, unmounted or remounted
        the files of a mount namespace that no longer exists
        the agent's mounts remounted or resized | a whole file system through one of its files
        files and environment of a host process | its signals, limits, processors and priorities
        its memory and descriptors | a forged kernel event | kernel interfaces: bpf, keys, user namespaces
        mounts moved, the root changed | mount flags with the legacy magic number | mounts with other flags
        a descriptor from under a mask | setuid files owned by root for others on the host
        files owned by root and devices in the agent's own directory | the host's file systems frozen, its swap
        command lines, maps and descriptors of host processes | signals through a descriptor
        the namespaces of a host process | its memory moved, its control group frozen
        the kernel's log and audit | the console | io_uring, userfaultfd, clone3 | sockets of other families""",
    "Later features of policies": """
        dnsmasq: a file read through an interface's name | a directive after or within quotes
        a comment that only one of two readers recognises | blanks around a name, an equals sign or a comma
        lists: too long, with empty members or with signs | a log in a line that the check skips
        DNS servers: an address or interface to send from | a path next to, above or around a root
        a log in a read-only root, or in another tenant's | a link, or a mount, in a root
        a checked file where a mount goes | a mount over the program, or over a script of the policy
        a password of more than one word | a rule for a password that accepts other words
        the second namespace of another tenant's router | the state-change monitor: words and options added
        the user of the metadata proxy | the metadata socket elsewhere
        the metadata proxy's address with more after it
        a line longer than the policy allows | a long line of values that take long to judge
        a child replaced by a process of another side container
        an agent's files that block the search for its release""",
    "In a side container of each engine": """
        left over from the engine: descriptors, a working directory, its own program, variables
        namespaces made, or entered through what can be opened
        another network through the socket of its output | another network through a pid or a pidfd
        another network through the other end of a veth
        mounts, with mount(2) and with the new mount API | kernel settings: core_pattern, sysrq, binary formats, /sys
        device nodes made and opened, terminals | another process traced; its memory, files, descriptors, namespaces
        another process signalled | another process: limits, processors, priorities
        keys of its user's other processes, and of root | control groups written and made
        sockets of the host by their paths | abstract sockets of the host and of other tenants
        its own limits raised, memory of others
        the kernel: bpf, io_uring, clock, modules, reboot, another architecture
        uevents, and sockets of families without namespaces | lies to systemd and to the journal
        an endless table of sockets while the host waits for a port
        a listed child's pid, reused by another process
        a directory moved by its agent while the program is in it
        lines in its output that look like others', and that reverse text
        the file that shows it is ready: a link, a pipe, a directory, a socket
        the file that names its child: links, lies, a lease on it
        something else in place of the pid file, and a pid file that names another process
        its agent's disk filled, the inodes used up | a program that does not exit""",
    "As another user of the host": """
        locks on all files that it can open | names taken in /tmp, /dev/shm and without a file
        a process that looks like a side container's program""",
    "As a second agent that shares /run/netns": """
        a start in the first agent's namespace
        the first's namespace removed, replaced or hidden while its program runs
        the host's /run filled through the directory of names""",
    "Through Kubernetes": """
        another user's pod with the class of side containers | a copy of a pod with a used uid
        uids that are paths | the class mapped to plain runc | exec into a side container, or a checkpoint of it
        a second start in a pod, by restartPolicy or by hand | a pod from before a reboot
        a pod changed between sidespawn and containerd | a start that comes after its request was given up
        a pod with the agents' class that is not in the node's list
        a listed agent that is root, privileged, or has the host's pids or more capabilities
        an agent of that class: user namespaces with clone(2), mounts, kernel settings""",
    "More on what the host writes and shows": """
        a link instead of a wrapper, made in a directory opened through fanotify
        ten thousand refused lines with ids, before an operator's request
        a mount's name that looks like the row of another mount | a socket's name that looks like a row
        a program's name that looks like a line of its status
        any number of mount namespaces, to slow an operator who inspects agents
        root's inotify instances used up, 128 for the host and all containers together
        a setuid program of its image exposed to the host's users | generic netlink, through which drivers take commands
        hundreds of mounts in the directory of names""",
    "Waiting, counting and guessing": """
        a lock on the directory of Kubernetes' static pods | a lock on the directory of names, at which iproute2 waits
        requests without a pause, so that no sweep notices what has ended
        a file system that takes a request and never answers, so that no signal ends its reader
        the doorbell filled again while a run empties it
        so many answers that a service takes its own for forged ones, and as many records that one cannot be written
        the pid of a program that is being started, asked for before it is ready""",
    "Taken for another": """
        another user's message on the bus that looks like an answer of PID 1
        one request id for two services of an agent at once | an instance that gives the name of another's container
        a link that is changed between the runtime that judges a mount and runc""",
    "More of policies": """
        a mount inside another mount, in whose place a link has it mounted over a checked file
        a value in monitor mode that reads like a pattern, for an operator to paste
        a file that the agent may not read, named as a configuration file so that the refusal quotes it""",
    "More through Kubernetes, and beside engines": """
        a tenant's image whose name ends like that of the helpers' image
        a link in place of a name in /run/netns that an engine is about to mount a namespace on
        a link that leads elsewhere each time the agents' runtime looks
        a debug container added to an agent's pod""",
}
# Groups whose numbers do not follow those of the previous group.
FIRST = {"Out of the agent's container": 150, "Later features of policies": 176}


def numbered() -> dict[int, str]:
    made: dict[int, str] = {}
    number = 0
    for group, text in GROUPS.items():
        number = FIRST.get(group, number + 1) - 1
        for title in filter(str.strip, text.replace("\n", "|").split("|")):
            number += 1
            made[number] = " ".join(title.split())
    return made


TITLES = numbered()

# Attacks that no test carries out, and why.
NOT_APPLICABLE: dict[int, str] = {}
# Attacks that are carried out, succeed, and cannot be stopped; docs/security.md describes them.
STAYS_POSSIBLE = {
    79: "an agent that can bind another namespace at a name can enter that namespace without us",
    98: "a program may spoof in its own namespace if its policy grants NET_RAW",
    101: "a privileged agent needs no help",
    201: "held by podman and docker; the systemd engine gives its own socket to programs that may have NET_ADMIN",
    202: "held by podman and docker; systemd has no pid namespace before 257, and with NET_ADMIN a pid is enough",
    203: "a program with NET_ADMIN reaches the namespace of the other end, with every engine",
    208: "held by podman and docker; systemd has no pid namespace before 257",
    209: "held by podman and docker; systemd has no pid namespace before 257",
    232: "podman starts nothing while /run is full; stopping works as usual",
    252: "whatever an agent can bind, it can bind in /run/netns; give it an image without setuid programs",
    256: "iproute2 waits for this lock without a limit, and anyone who can read the directory can take it",
    254: "anyone who may bind there can make mounts on the host, up to its limit (fs.mount-max)",
    270: "anyone who may make names there can replace others; `check` says so if an engine keeps its names there",
}
# Attacks that would harm the machine that runs the tests.
THEIRS_NOT_TRIED = {
    6: "not tried: it may take all memory of the machine",
    10: "not tried: the host's reader would hang",
    11: "not tried: PID 1 would hang for good",
}


def attack(*numbers: int, answer: str = "") -> pytest.MarkDecorator:
    """Mark a test that carries out these attacks. `answer` is the reason code of the attacker's request, if any."""
    return pytest.mark.attack(*numbers, answer=answer)


@dataclass(frozen=True)
class Carried:
    """One attack in one test."""

    number: int
    test: str  # FILE::NAME
    answer: str


def carried_out() -> tuple[Carried, ...]:
    """Find the attacks in the sources of all tests, so that no test needs to run."""
    found = []
    for path in sorted((CHECKOUT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "attack":
                    answers = [ast.literal_eval(each.value) for each in decorator.keywords]
                    test = f"{path.relative_to(CHECKOUT)}::{node.name}"
                    found += [
                        Carried(ast.literal_eval(each), test, answers[0] if answers else "") for each in decorator.args
                    ]
    from tests.attacks.requests import CASES

    test = "tests/attacks/test_requests.py::test_each_request_gets_its_answer"
    return (*found, *(Carried(case.number, test, case.answer) for case in CASES))


def results() -> dict[str, dict[str, Any]]:
    """Return the results against theirs by test: `attacks`, the numbers, and `found`, "held" or "succeeded: …"."""
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def theirs() -> dict[int, str]:
    """Return the results against theirs by number. One successful attempt suffices."""
    verdicts: dict[int, str] = {}
    for each in results().values():
        for number in each["attacks"]:
            if not verdicts.get(number, "").startswith("succeeded"):
                verdicts[number] = each["found"]
    return verdicts


def page() -> str:
    """Return the text of docs/known-attacks.md."""
    by_number: dict[int, list[Carried]] = defaultdict(list)
    for each in carried_out():
        by_number[each.number].append(each)
    found, rows, number = theirs(), [], 0
    for group, text in GROUPS.items():
        number = FIRST.get(group, number + 1) - 1
        rows += ["", f"## {group}", "", "| | attack | answer | ours | theirs | test |", "| " + "--- | " * 6]
        for _ in filter(str.strip, text.replace("\n", "|").split("|")):
            number += 1
            answers = ", ".join(sorted({f"`{each.answer}`" for each in by_number[number] if each.answer}))
            tests = ", ".join(dict.fromkeys(link(each.test) for each in by_number[number]))
            verdict = found.get(number, THEIRS_NOT_TRIED.get(number, "not applicable"))
            rows.append(f"| {number} | {TITLES[number]} | {answers} | {ours(number)} | {verdict} | {tests} |")
    held = sum(ours(each) == "held" for each in TITLES)
    succeeded = sum(each.startswith("succeeded") for each in found.values())
    introduction = INTRODUCTION.format(held=held, succeeded=succeeded, tried=len(found))
    tables = "\n".join(rows).replace("|  |", "| |").replace(" \n", "\n")
    return f"{introduction}{tables}\n{notes()}{on_the_first_version()}"


def link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name}](../{path})"


def ours(number: int) -> str:
    if number in NOT_APPLICABLE:
        return "not applicable"
    return "stays possible" if number in STAYS_POSSIBLE else "held"


def notes() -> str:
    rows = [f"- {number}: {why}." for number, why in sorted({**NOT_APPLICABLE, **STAYS_POSSIBLE}.items())]
    return "\n## Where ours is not held\n\n" + "\n".join(rows) + "\n"


FIRST_VERSION = Path(__file__).parent / "first_version.json"
# Found by reading 0.1.0, where its parts have other names than the tests call.
READ = {
    245: "wrappers were in a directory that can be opened through fanotify, and were written through links",
    246: "refused lines were answered before other requests were taken",
    251: "without an inotify instance each run ended with an error, and the agent's system call list allowed inotify",
    258: "the service waited without a limit for a command that it had killed",
    262: "the engine systemd used the message bus, and took any message with the call's number for the answer",
    263: "docker's records had the names of requests",
    264: "a container of that name was ended and removed, even if sidespawn had not started it",
    268: "any regular file in the state directory was read",
}


def on_the_first_version() -> str:
    """Return what tests/attacks/on_the_first_version.py found, and what reading the source showed."""
    found: dict[str, str] = json.loads(FIRST_VERSION.read_text()) if FIRST_VERSION.exists() else {}
    numbers: dict[str, list[int]] = defaultdict(list)
    for each in carried_out():
        numbers[each.test.removeprefix("tests/attacks/")].append(each.number)
    rows = [
        f"- {', '.join(map(str, numbers[test]))}: {said.partition(':')[0]}, {link(f'tests/attacks/{test}')}"
        for test, said in sorted(found.items(), key=lambda each: (numbers[each[0]], each[0]))
    ]
    rows += [f"- {number}: {why} (from its source)" for number, why in READ.items()]
    return f"\n## On 0.1.0\n\n{ON_THE_FIRST_VERSION}\n" + "\n".join(rows) + "\n"


ON_THE_FIRST_VERSION = """\
Some of these tests were run against services that 0.1.0 had enabled (`tests/attacks/on_the_first_version.py`), one at a
time. If a test fails, the attack succeeded there; if a command of the host fails on the way, this is unclear. Attacks
on features that 0.1.0 does not have are not included: `scan`, `top`, `agent-options`, and the checks of mounts and
agents in `check`.
"""

INTRODUCTION = """\
# Known attacks

This page numbers the attacks that someone with root in an agent's container may try. `tests/attacks/catalogue.py`
generates it, and a test compares it with the tests and their results. Do not edit it.

Each attack is carried out in a machine with a real systemd and podman, from inside an agent container with NET_ADMIN,
SYS_ADMIN, the host's pids and a shared `/run/netns`. If an attack needs more, the container has more capabilities,
shared mounts and a FUSE device. An attack is *held* if the request was answered with the reason code shown (if there is
a request), a file that root owns kept its content, inode and times, nothing ran on the host, the service and its units
were well, PID 1 answered, and another agent was served.

*Theirs* is this pattern as TripleO first shipped it, rewritten in a few lines
([tripleo.py](../tests/attacks/tripleo.py)) and attacked from the same container by the same tests. A wrapper writes
arguments and a timestamp under one lock, a `.path` unit watches the timestamp, and a script reads and empties the file
and runs `podman run --privileged`, under another lock.

Attacks 150 to 175 are ways out of an agent's container, which exist even without sidespawn. They are tried in the
recipe of `sidespawn agent-options`; [agents.md](agents.md#what-was-tried) compares it with others.
Attacks 233 to 244 are tried under containerd 1.6, 1.7 and 2.1, by a client that makes a kubelet's calls
([kubernetes.md](kubernetes.md#what-was-tried)).

**Attacks that succeeded: ours 0 of {held}, theirs {succeeded} of {tried}.** The others are not applicable, stay
possible with or without sidespawn (see the end), or were not tried on theirs because they could harm the machine.
"""


if __name__ == "__main__":
    PAGE.write_text(page())
