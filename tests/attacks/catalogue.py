"""The known attacks, by number, and which test carries each of them out.

    SIDESPAWN_WRITE_RESULTS=1 ./dev test attacks     writes results.json again, instead of comparing with it
    .venv/bin/python -m tests.attacks.catalogue      writes docs/known-attacks.md again

A test says with `@attack(NUMBER, …)` what it carries out, wherever it stands; the rows of `tests/attacks/requests.py`
have numbers of their own.  `results.json` beside this file holds what a run found against theirs.  A test in
tests/contract holds the page to the tests and the results.
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
        the request file is a link to a file of root's | a directory on the way becomes a link
        a pipe in place of the request file | a device node there | a hard link there
        a sparse file of 1 TiB; growth without end | a file swapped between check and read
        a file edited while it is read
        a file system mounted over the spool | a file system that never answers, to stall the reader
        the same at the name that PID 1 watches | a link to itself there | the timestamp is a link or a directory
        the disk filled | the inodes used up | a deep tree or very many names, to slow cleaning up
        an immutable file or a mount inside | a setuid file left in the state directory
        a script that the host runs is rewritten | the path of a log is a link | labels and access lists""",
    "Locks": """
        a lock held forever | a lock through a read-only mount | the lock's file replaced | flock against fcntl
        each side locks another file | a lock that a child inherits | a writer stopped while it has the lock""",
    "Parsing": """
        bytes that are not UTF-8 | NUL | line ends, control and bidirectional characters
        what only some readers take for a line's end | a line of 100 MB | deep nesting | a key twice
        NaN and 1e999 | an integer of 5,000 digits | lone surrogates | letters and digits that look like others
        values of the wrong type, keys that no one knows | a last line that is torn | a first line that poisons the rest
        globs and quotes | text for sed and awk""",
    "Injection into engines and units": """
        a line end in a unit's property | `$X` and `${X}` | `%h` | the prefixes of ExecStart: `+ ! - @ :`
        a blank or a colon in a path to mount | a comma in `--mount` | a variable named without a value, as `-e NAME`
        an image that is an option or a transport | a container's name with `../`
        names that the engine takes for regular expressions | labels and annotations that change the runtime
        variables that a loader or an interpreter obeys | a working directory | unknown and abbreviated options
        a value that looks like an option | `--` and positional arguments | 100,000 arguments
        a repeated option overrides the first | Kubernetes: names in a pod's fields, hostPath""",
    "What the programs themselves can do": """
        dnsmasq: options that run, read, write or change identity | the same in its configuration files, nested too
        haproxy: options that run, read, write or signal | haproxy: directives that run code
        haproxy: directives that read, write or reach another tenant | keepalived: options that write, read or run
        keepalived: directives that run, read, write or include | radvd: options that read, write or change identity
        dibbler: scripts, directories, logs | a configuration file edited behind the check, then HUP
        a file of secrets named as the configuration | a program's own checker run on the host""",
    "Namespaces": """
        a path in place of the name | a link at the name | the host's own namespace bound at the name
        another tenant's namespace bound at the name | a pipe or a file at the name
        the namespace swapped between check and start | a restart that follows a stale path
        the namespace deleted and recreated | a namespace of another user namespace
        a mount over, or under, the directory of names""",
    "Pids and signals": """
        a pid that is used again | a pid of the host's, or of another service | -1, 0, 1, self, 2^40 as pid
        a forged pid file | odd signals | a kill script that needs nsenter | a program that forks away""",
    "Out of the side container": """
        privileged, or in the host's network or pids | mounts that are shared and writable | setuid files of the image
        new namespaces | /proc, /sys, devices, sysctl | raw sockets, to spoof in its own namespace
        a socket of the host inside | /dev/shm, state or tasks used up | the agent itself is privileged""",
    "Denial of service, and state": """
        a flood of requests | a start limit that ends the unit | a wake-up that is lost | a trigger that never clears
        one agent starves the others | an engine or a pull that hangs | a program that is never ready, again and again
        thousands of namespaces | a flood of the journal | killed behind the launch, before the record
        killed behind the claim, before the launch | a reboot with an old spool | an old request sent again
        a torn state file | an old wrapper and a new host""",
    "Replies, logs, policy": """
        a path as the id | a link among the replies | ids that others use | the replies fill the disk
        escapes, line ends and priorities for the log | text that makes a regular expression run forever
        a line end behind a name | `..` and a sibling that begins alike | a link under an allowed path
        a policy that others can write | a policy's key that no one knows""",
    "Between services": """
        a service and an instance whose names, put together, read like another's""",
    "Waking the service": """
        a doorbell rung without end, filled up, or emptied | something else in the doorbell's place""",
    "File systems of which an agent holds a mount": """
        fanotify on the whole file system of one mounted file | the operator's request answered by the agent
        `..` from a directory that the host opened and fanotify handed out
        what the agent is given remounted with other sizes and flags, and filled
        the wrapper rewritten, emptied, grown, made setuid | a reply forged before or after the answer""",
    "As others on the host, and through what its verbs read": """
        garbage of many kinds wherever a verb of the command reads | records that another user wrote into the journal
        the command run by another user | processes whose names are no text, or read like lines of their status
        links to what waits forever among the scripts of an agent
        a second agent: signals for the first's programs
        a second agent: the directory of names hidden by what never answers
        a file system that never answers where a verb looks into the agent
        a side container: pid files that lie, are links, or name others
        another user reaches into a service's directories | requests of nothing but empty lines
        another user stops, starts or masks a service's units | all that a run may hold, full of arguments""",
    "Out of the agent's container": """
        a fresh file system mounted | the same and more by the new mount API
        what masks or protects /proc and /sys bound, unmounted or remounted
        the files of a mount namespace that has ended
        what the agent is given remounted, or resized | a whole file system through one of its files
        files and environment of a process of the host | its signals, limits, processors and priorities
        its memory and descriptors | a forged event of the kernel | interfaces of the kernel: bpf, keys, user namespaces
        mounts moved, the root changed | mount flags with the legacy magic | mounts with other flags
        a descriptor below a mask | setuid files owned by root for others on the host
        files owned by root and devices in the agent's own directory | the host's file systems frozen, its swap
        command lines, maps and descriptors of the host's processes | signals by a descriptor
        the namespaces of a process of the host | its memory moved, its control group frozen
        the kernel's log and audit | the console | io_uring, userfaultfd, clone3 | sockets of other families""",
    "What policies have come to say": """
        dnsmasq: a file read by way of an interface's name | a directive behind or within quotes
        a comment that only one of two readers takes for one | blanks around a name, an equals sign or a comma
        lists: too long, with empty members or with signs | a log in a line that is left out
        DNS servers: an address or interface to send from | a path next to, above or around a root
        a log in a root that is only read, or of another tenant | a link, or a mount, in a root
        a checked file at the place of a mount | a mount over the program, or over a script of the policy
        a password that is more than one word | a rule for a password that lets other words through
        the second namespace of a router, of another tenant | the state-change monitor: words and options put in
        the user of the metadata proxy | the metadata socket elsewhere
        the metadata proxy's address with more behind it
        a line longer than the policy allows | a long line of what takes long to judge
        a child replaced by a process of another's | an agent's files that never answer who looks for its release""",
    "In a side container of each engine": """
        what the engine left: descriptors, a working directory, its own program, variables
        namespaces made, or entered by what can be opened
        another network by the socket of its output | another network by a pid or a pidfd
        another network by the other end of a veth
        mounts, by mount(2) and by the new mount API | settings of the kernel: core_pattern, sysrq, binary formats, /sys
        device nodes made and opened, terminals | another process traced; its memory, files, descriptors, namespaces
        another process signalled | another process: limits, processors, priorities
        keys of its user's other processes, and of root | control groups written and made
        sockets of the host by their paths | abstract sockets of the host and of other tenants
        its own limits raised, memory of others
        the kernel: bpf, io_uring, clock, modules, restart, another architecture
        uevents, and sockets of families without namespaces | lies to systemd and to the journal
        a table of sockets without end where the host waits for a port
        a pid that was a child's when it was listed, and is another's
        a directory moved by its agent while the program is in it
        lines in its output that read like others', and that turn text around
        the file that it is ready by: a link, a pipe, a directory, a socket
        the file that names its child: links, lies, a lease on it
        what lies where the pid file should, and a pid file that names another process
        its agent's disk filled, the inodes used up | a program that will not go""",
    "As another user of the host": """
        locks on all files that it can open | names taken in /tmp, /dev/shm and without a file
        a process that looks like a side container's program""",
    "As a second agent that shares /run/netns": """
        a start in the first's namespace | the first's namespace gone, replaced or hidden while its program runs
        the host's /run filled by way of the directory of names""",
    "By way of Kubernetes": """
        a pod of somebody else with the class of side containers | a copy of a pod whose uid was used
        uids that are paths | the class mapped to plain runc | a side container entered, or saved
        a second start in a pod, by restartPolicy or by hand | a pod of the time before a reboot
        a pod changed between sidespawn and containerd | a start that comes when its request is given up
        a pod that the node's list does not name with the agents' class
        a listed agent that is root, privileged, or has the host's pids or more capabilities
        an agent of that class: user namespaces by clone(2), mounts, settings of the kernel""",
    "What the host writes and shows, once more": """
        a link instead of a wrapper, made in the directory that fanotify handed out
        ten thousand lines that are refused, each with an id, before an operator's request
        the name of a mount that reads like a row for another mount | the name of a socket that reads like a row
        a program's name that reads like a line of its status
        any number of mount namespaces, for an operator who looks at agents
        root's inotify instances, 128 in all containers and on the host together, used up
        a setuid program of its image shown to the host's users | generic netlink, by which drivers take commands
        hundreds of mounts among the names of namespaces""",
}
# Groups whose numbers do not go on from those of the group before.
FIRST = {"Out of the agent's container": 150, "What policies have come to say": 176}


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

# What no test carries out, and why.
NOT_APPLICABLE: dict[int, str] = {}
# What is carried out, works, and no one can stop: said in docs/security.md.
STAYS_POSSIBLE = {
    79: "who can bind another namespace at a name can enter that namespace without us",
    98: "a program may spoof in its own namespace when its policy grants NET_RAW",
    101: "a privileged agent needs no help",
    201: "held by podman and docker; systemd as the engine gives its own socket to who may have NET_ADMIN",
    202: "held by podman and docker; systemd has no pid namespace before 257, and NET_ADMIN needs but a pid",
    203: "who has NET_ADMIN reaches the namespace of the other end, with every engine",
    208: "held by podman and docker; systemd has no pid namespace before 257",
    209: "held by podman and docker; systemd has no pid namespace before 257",
    232: "podman starts nothing while /run is full; what runs is stopped as ever",
    252: "what an agent may bind it may bind in /run/netns; give it an image without setuid programs",
    254: "anyone who may bind there can make mounts on the host until its limit is reached (fs.mount-max)",
}
# What would do harm to the machine that the tests run on.
THEIRS_NOT_TRIED = {
    6: "not tried: it may take all memory of the machine",
    10: "not tried: the host's reader would hang",
    11: "not tried: PID 1 would hang for good",
}


def attack(*numbers: int, answer: str = "") -> pytest.MarkDecorator:
    """This test carries these attacks out. `answer`: the reason code that the attacker's request gets, if it is one."""
    return pytest.mark.attack(*numbers, answer=answer)


@dataclass(frozen=True)
class Carried:
    """One attack of one test."""

    number: int
    test: str  # FILE::NAME
    answer: str


def carried_out() -> tuple[Carried, ...]:
    """From the sources of all tests, so that nothing has to run."""
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
    """What the tests of theirs found, by test: `attacks`, the numbers, and `found`, "held" or "succeeded: …"."""
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def theirs() -> dict[int, str]:
    """By number. One way that succeeds is enough."""
    verdicts: dict[int, str] = {}
    for each in results().values():
        for number in each["attacks"]:
            if not verdicts.get(number, "").startswith("succeeded"):
                verdicts[number] = each["found"]
    return verdicts


def page() -> str:
    """docs/known-attacks.md, whole."""
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
# By reading 0.1.0, where its parts have other names than those that a test calls.
READ = {
    245: "the wrappers lay where fanotify hands out the directory, and were written through links",
    246: "refused lines were answered before anything else was taken",
    251: "without an inotify instance each run ended with an error, and the agent's list of calls had inotify",
}


def on_the_first_version() -> str:
    """What tests/attacks/on_the_first_version.py found, and what is known without trying."""
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
Some of these tests were run against services that 0.1.0 had enabled (`tests/attacks/on_the_first_version.py`), each
alone. Where the test fails, the attack succeeded there. Attacks on what 0.1.0 does not have are not among them: `scan`,
`top`, `agent-options`, and what `check` reads of mounts and agents.
"""

INTRODUCTION = """\
# Known attacks

What somebody will try who is root in an agent's container, by number; made by `tests/attacks/catalogue.py` and held to
the tests and their results by a test. Do not edit it.

Each attack is carried out in a machine with a real systemd and podman, from inside an agent container with NET_ADMIN,
SYS_ADMIN, the host's pids and a shared `/run/netns`; where it takes more, from one with more capabilities, shared
mounts and a FUSE device. It is *held* if the request was answered with the reason code shown (where there is a
request), a file of root's kept its content, inode and times, nothing ran on the host, the service and its units were
well, PID 1 answered, and another agent was served.

*Theirs* is this pattern as TripleO first shipped it, rewritten in a few lines
([tripleo.py](../tests/attacks/tripleo.py)) and attacked from the same container by the same tests: a wrapper writes
arguments and a timestamp under one lock, a `.path` unit watches the timestamp, a script reads, empties and runs
`podman run --privileged`, under another lock.

Those from 150 to 175 are an agent's ways out of its container, which it would have even without sidespawn. They are
tried in the recipe of `sidespawn agent-options`; [agents.md](agents.md#what-was-tried) compares it with others.
Those from 233 are tried under containerd 1.6, 1.7 and 2.1, by a client that makes a kubelet's calls
([kubernetes.md](kubernetes.md#what-was-tried)).

**Numbers of which an attack succeeded: ours 0 of {held}, theirs {succeeded} of {tried}.** The rest is not applicable,
stays possible with or without sidespawn (see the end), or was not tried on theirs for the sake of the machine.
"""


if __name__ == "__main__":
    PAGE.write_text(page())
