"""The rows of requests.py, carried out: each is refused for its expected reason, and the valid request is served."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.attacks import inside
from tests.attacks.catalogue import attack
from tests.attacks.requests import CASES, NETWORK, NO_ANSWER, TRACE, Case
from tests.attacks.stage import Attacker, Ours, Stage, agent_of, boottime_ms
from tests.attacks.tripleo import TripleO
from tests.lab import test_haproxy, test_keepalived, test_radvd
from tests.lab.networks import Service, command, wait_until

CHUNK = 512 * 1024  # size of a claim in bytes
STATE = "/var/lib/neutron"
KEY = f"{NETWORK}:{NETWORK}:qr-1"
# For each program of a router: arguments, path of its configuration file, and a valid one.
ROUTERS = {
    "haproxy": (
        ["-f", f"{STATE}/@CASE@/{NETWORK}.conf"],
        f"@CASE@/{NETWORK}.conf",
        test_haproxy.CONFIGURATION.format(id=NETWORK),
    ),
    "keepalived": (
        ["-P", "-f", f"{STATE}/@CASE@/{NETWORK}/keepalived.conf", "-p", f"{STATE}/@CASE@/{NETWORK}.pid.keepalived",
         "-r", f"{STATE}/@CASE@/{NETWORK}.pid.keepalived-vrrp"],
        f"@CASE@/{NETWORK}/keepalived.conf",
        test_keepalived.CONFIGURATION.format(address="198.51.100.7"),
    ),
    "radvd": (
        ["-C", f"{STATE}/@CASE@/{NETWORK}.radvd.conf", "-p", f"{STATE}/@CASE@/{NETWORK}.pid.radvd", "-m", "syslog",
         "-u", "root"],
        f"@CASE@/{NETWORK}.radvd.conf",
        test_radvd.ADVERTISEMENT.format(prefix="2001:db8:1::/64"),
    ),
    "dibbler-client": (
        ["start", "-w", f"{STATE}/@CASE@/{KEY}"],
        f"@CASE@/{KEY}/client.conf",
        f'log-level 7\nscript "{STATE}/@CASE@/{KEY}/notify.sh"\n',
    ),
}  # fmt: skip
TAGS = {"dibbler-client": f"dibbler-{KEY}"}


@dataclass
class Run:
    """All cases of one service: the answers, by the case's index in CASES."""

    reasons: dict[int, str | None]
    last: str  # answers to the valid requests after them
    journal: list[dict[str, str]]
    restarts: str


class Batch:
    def __init__(self, ours: Ours, attacker: Attacker, service: Service, network: str) -> None:
        self.ours, self.attacker, self.service, self.network = ours, attacker, service, network
        self.requests = f"{service.places.spool}/processes"

    def proper(self, program: str) -> dict[str, Any]:
        if program == "dnsmasq":
            return self.ours.request()
        arguments, _, _ = ROUTERS[program]
        return {
            "v": 1, "id": uuid.uuid4().hex, "op": "start", "deadline": boottime_ms() + 120_000,
            "argv": [program, *arguments], "netns": f"qrouter-{self.network}",
            "env": {"PROCESS_TAG": TAGS.get(program, f"{program}-{NETWORK}").replace(NETWORK, self.network)},
        }  # fmt: skip

    def filled_in(self, text: str) -> str:
        return text.replace(NETWORK, self.network).replace(TRACE, str(self.ours.files.trace))

    def line(self, case: Case, request: dict[str, Any]) -> bytes:
        line = self.filled_in(case.line(request).decode("latin-1")).encode("latin-1")
        return line.replace(b"@CASE@", case.place.encode())

    def write_configuration(self, service: str, place: str, text: str) -> None:
        """Write it as the agent, if a request names it, after a valid text for programs that always have one."""
        path, proper = ROUTERS[service][1:] if service in ROUTERS else ("@CASE@", "")
        path = self.filled_in(f"{STATE}/{path}").replace("@CASE@", place)
        self.ours.neutron(inside.run, ["mkdir", "-p", path.rpartition("/")[0]])
        whole = self.filled_in(proper + text).replace("@CASE@", place)
        self.ours.neutron(inside.write, path, whole.encode())

    def write(self, lines: list[bytes]) -> None:
        self.attacker(inside.write, self.requests, b"\n".join(lines) + b"\n")
        self.attacker(inside.ring, str(self.service.places.doorbell))

    def has_answer(self, request_id: str) -> bool:
        return (self.service.places.replies / f"{request_id}.json").exists()

    def reason(self, request_id: str) -> str:
        return str(json.loads((self.service.places.replies / f"{request_id}.json").read_text())["reason"])

    def run(self, program: str) -> Run:
        before = len(self.service.journal())
        chosen = [number for number, case in enumerate(CASES) if case.service == program]
        ids, lines = {}, []
        for number in chosen:
            request = self.proper(program)
            ids[number] = request["id"]
            if CASES[number].file:
                self.write_configuration(program, CASES[number].place, CASES[number].file)
            lines.append(self.line(CASES[number], request))
        self.write_all(lines)
        wait_until(lambda: all(self.has_answer(ids[n]) for n in chosen if CASES[n].answer != NO_ANSWER), patience=60)
        if program in ROUTERS:
            command("ip", "netns", "del", f"qrouter-{self.network}")
        last = self.proper(program)
        self.write_all([b"poison", self.filled_in(json.dumps(last)).replace("@CASE@", "proper").encode()])
        wait_until(lambda: self.has_answer(last["id"]), patience=60)
        show = ("systemctl", "show", "--property=NRestarts", "--value", self.service.unit)
        return Run(
            reasons={number: self.reason(ids[number]) if self.has_answer(ids[number]) else None for number in chosen},
            last=self.reason(last["id"]),
            journal=self.service.journal()[before:],
            restarts=command(*show).stdout.strip(),
        )

    def write_all(self, lines: list[bytes]) -> None:
        """Write them in as few claims as possible."""
        while lines:
            chunk = [lines.pop(0)]
            while lines and sum(map(len, chunk)) + len(lines[0]) < CHUNK:
                chunk.append(lines.pop(0))
            self.write(chunk)
            wait_until(lambda: not list(self.service.places.spool.iterdir()), patience=30)


@pytest.fixture(scope="module")
def runs(stage: Stage, ours: Ours) -> Iterator[dict[str, Run]]:
    """Carry out all cases."""
    services = {
        name: stage.service(name, f"neutron-l3-{name.removesuffix('-client')}", stage.state) for name in ROUTERS
    }
    agent = stage.agent(agent_of("routers", stage.state, *services.values()))
    attacker = stage.attacker(agent.name)
    done = {"dnsmasq": Batch(ours, ours.attacker, ours.service, ours.network.id).run("dnsmasq")}
    for program, service in services.items():
        router = str(uuid.uuid4())
        command("ip", "netns", "add", f"qrouter-{router}")
        try:
            batch = Batch(ours, attacker, service, router)
            batch.write_configuration(program, "proper", "")
            done[program] = batch.run(program)
        finally:
            command("ip", "netns", "del", f"qrouter-{router}", check=False)
    yield done
    for service in services.values():
        service.disable()


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n].number}-{n}")
def test_each_request_gets_its_answer(runs: dict[str, Run], number: int) -> None:
    case = CASES[number]
    assert runs[case.service].reasons[number] == (case.answer or None), f"{case.number}: {case.what}"


@attack(42)
@pytest.mark.parametrize("program", ["dnsmasq", *ROUTERS])
def test_the_proper_request_behind_them_is_served(runs: dict[str, Run], program: str) -> None:
    """dnsmasq already runs; a router's program gets as far as its namespace, which is gone by then."""
    run = runs[program]
    assert run.last == ("ok" if program == "dnsmasq" else "namespace-unusable")
    assert run.restarts == "0"


@attack(121)
@pytest.mark.parametrize("program", ["dnsmasq", *ROUTERS])
def test_the_journal_has_all_of_them_and_none_unescaped(runs: dict[str, Run], program: str) -> None:
    journal = runs[program].journal
    cases = [case for case in CASES if case.service == program]
    events = Counter(each["SIDESPAWN_EVENT"] for each in journal)
    # The poison precedes the last request; a deadline too far ahead is detected only at its request's turn.
    poison, too_late = 1, sum("2305843009213693952" in case.what for case in cases)
    unreadable = sum(case.answer in (NO_ANSWER, "bad-request") for case in cases)
    assert events["unreadable"] == unreadable + poison - too_late
    assert events["rejected"] == sum(case.answer != NO_ANSWER and case.answer != "no-such-process" for case in cases)
    assert set(events) <= {"unreadable", "rejected", "answered", "failed"}  # no program was started
    assert {each["PRIORITY"] for each in journal} <= {"3", "4", "6"}
    for each in journal:
        assert all(value.isprintable() for value in each.values()), each


@attack(64, 65, 67, 70, 75)
def test_no_request_has_touched_the_host(runs: dict[str, Run], ours: Ours) -> None:
    ours.expect_held()


THEIRS = [
    pytest.param(case.options, id=case.what.split()[0], marks=attack(case.number)) for case in CASES if case.theirs
]


@pytest.mark.parametrize("options", THEIRS)
def test_the_same_is_asked_of_a_pattern_without_a_policy(theirs: TripleO, options: tuple[str, ...]) -> None:
    """It succeeded if the program got it as an argument, or got what the shell made of it."""
    netns = theirs.new_namespace()
    theirs.ask(netns, "--port=0", *options)
    theirs.expect_not_started(netns, *options)
