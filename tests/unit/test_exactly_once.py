"""Whatever is killed at any time, each request is answered once, each instance runs once, and nothing leaks.

The wrapper's spool, the service's run, keeper, ledger and claims are the real ones, in a temporary directory. Only the
engine, its processes and its mounts are simulated, as files, so that they outlive a run like real ones. A run is a
separate process and dies by a real SIGKILL before any step that changes a file. hypothesis generates schedules of
requests, kills, engine faults and torn files; docs/exactly-once.md has the argument that this tries to refute.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidespawn.agent import wrapper
from sidespawn.core.plan import Plan
from sidespawn.core.policy import Policy
from sidespawn.engines import Found, NameTaken, Pins
from sidespawn.errors import LaunchError, Reason
from sidespawn.host import keeper as keeper_module
from sidespawn.host import launch as launch_module
from sidespawn.host import ledger as ledger_module
from sidespawn.host import state as state_module
from sidespawn.host.journal import Journal
from sidespawn.host.keeper import Keeper
from sidespawn.host.service import Serving
from sidespawn.host.sync import Sync
from sidespawn.system.namespaces import PinnedNamespace
from sidespawn.system.places import Places
from sidespawn.system.processes import Process
from tests.lab.dying import install
from tests.unit.small import changed, parse

NETWORKS = [f"{number}0000000-0000-4000-8000-000000000000" for number in range(3)]
INODE = 4711
EXAMPLES = int(os.environ.get("SIDESPAWN_SCHEDULES", "25"))


class PretendedEngine:
    """Simulates containers and processes with files. Each change is a step at which the run can be killed."""

    def __init__(self, home: Path) -> None:
        self.containers, self.processes, self.fault = home / "containers", home / "processes", home / "fault"

    def start(self, plan: Plan, pins: Pins, request: str) -> tuple[str, int]:
        self.fail_if("start-before")
        path = self.containers / plan.name
        if path.exists():
            raise NameTaken(plan.name)
        container = {"id": request, "instance": plan.instance, "digest": plan.digest, "request": request, "pid": None}
        self.save(path, container)
        self.fail_if("start-created")
        assert not any(each.read_text() == plan.instance for each in self.processes.iterdir()), "it would run twice"
        pid = self.new_pid()
        (self.processes / f"{pid}.new").write_text(plan.instance)
        os.rename(self.processes / f"{pid}.new", self.processes / f"{pid}")
        self.fail_if("start-orphan")
        self.save(path, container | {"pid": pid})
        self.fail_if("start-after")
        return request, pid

    def new_pid(self) -> int:
        """Return an unused pid. Launches run in parallel."""
        for pid in itertools.count(1000):
            with suppress(FileExistsError):
                (self.containers.parent / f"born{pid}").touch(exist_ok=False)
                return pid
        raise AssertionError

    def save(self, path: Path, container: Mapping[str, object]) -> None:
        new = self.containers.parent / f"{path.name}.new"
        new.write_text(json.dumps(container))
        os.rename(new, path)

    def find(self, name: str) -> Found | None:
        self.fail_if("find")
        return self.seen(self.containers / name) if (self.containers / name).exists() else None

    def seen(self, path: Path) -> Found:
        container = json.loads(path.read_text())
        runs = container["pid"] is not None and (self.processes / str(container["pid"])).exists()
        state = "running" if runs else "created" if container["pid"] is None else "exited"
        return Found(
            id=container["id"], name=path.name, pid=container["pid"] if runs else None, state=state,
            instance=container["instance"], digest=container["digest"], request=container["request"],
            netns=f"ns-{container['instance']}",
        )  # fmt: skip

    def list(self, service: str) -> tuple[Found, ...]:
        self.fail_if("list")
        return tuple(self.seen(path) for path in sorted(self.containers.iterdir()))

    def others(self) -> tuple[()]:
        return ()

    def remove(self, name: str) -> None:
        self.fail_if("remove")
        path = self.containers / name
        if path.exists():
            pid = json.loads(path.read_text())["pid"]
            (self.processes / str(pid)).unlink(missing_ok=True)
            path.unlink()

    def reap(self, service: str) -> None:
        """Remove processes whose container is not known to run, as podman does."""
        known = {each.pid: each for each in self.list(service)}
        for path in self.processes.iterdir():
            if path.suffix == ".new" or int(path.name) not in known:
                instance = path.read_text()
                path.unlink()
                for each in known.values():
                    if each.instance == instance and each.pid is None:
                        (self.containers / each.name).unlink()

    def fail_if(self, point: str) -> None:
        if self.fault.exists() and self.fault.read_text() == point:
            self.fault.unlink()
            raise LaunchError(Reason.ENGINE_FAILED, f"the engine fails at {point}")


@contextmanager
def pretended_pin(*arguments: object, **_named: object) -> Iterator[object]:
    target = next(each for each in arguments if isinstance(each, Path))
    target.touch()
    try:
        yield PinnedNamespace(target, INODE) if isinstance(arguments[0], str | None) else target
    finally:
        target.unlink()


class Host:
    """A service in a directory, the agent's side of it, and runs that end as instructed."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sidespawn-"))
        self.places = Places("small", run=self.home / "run", policies=self.home / "etc")
        places = self.places
        for path in (
            places.operator,
            places.claims,
            places.ledger,
            places.pins,
            places.snapshots,
            places.answers,
            places.replies,
        ):
            path.mkdir(parents=True)
        for path in (places.spool, self.home / "etc", self.home / "containers", self.home / "processes"):
            path.mkdir(parents=True)
        places.lock.touch()
        for network in NETWORKS:
            (self.home / "state" / network).mkdir(parents=True)
        for name in ("one", "two"):
            (self.home / "state" / f"{name}.conf").write_text("log-queries\n")
        text = changed(('"/host/state"', f'"{self.home}/state"'), ("uid = 1000", f"uid = {os.getuid()}"))
        text = text.replace("gid = 1000", f"gid = {os.getgid()}") + "\n[pace]\nlinger = 0\nparallel = 2\n"
        self.policy: Policy = parse(f"{text}\n[limits]\nbackoff = 0\nburst = 100000\n")
        self.steps: list[str] = []
        self.answers_before: dict[str, int] = {}

    def engine(self) -> PretendedEngine:
        return PretendedEngine(self.home)

    def run(self, fatal: int) -> bool:
        """Run once, killed before that step, and return whether the run finished. Its steps are in `steps`."""
        log_path = self.home / "steps"
        log_path.unlink(missing_ok=True)
        self.answers_before = self.answers()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self.child(fatal, os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
                code = 0
            except BaseException:  # noqa: BLE001 - the parent is told by the exit code
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        self.steps = log_path.read_text().splitlines()
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or os.waitstatus_to_exitcode(status) == 0, "a run ended by an error"
        if killed:
            self.steps.pop()  # that one was no longer accepted
        return not killed

    def child(self, fatal: int, log: int) -> None:
        engine = self.engine()

        def is_alive(process: Process) -> bool:
            return (engine.processes / str(process.pid)).exists()

        def end(process: Process, name: str, grace: float) -> None:
            (engine.processes / str(process.pid)).unlink(missing_ok=True)

        pretended = {
            "identify": lambda pid: Process(pid, 1) if is_alive(Process(pid, 1)) else None,
            "end": end,
            "send": lambda process, name: is_alive(process),
            "namespace_of": lambda pid: INODE,
            "pinned_namespace": pretended_pin,
            "wait_until_ready": lambda plan, process, hint: {},
        }
        for name, instead in pretended.items():
            uses = [module for module in (keeper_module, launch_module) if hasattr(module, name)]
            assert uses
            for module in uses:
                setattr(module, name, instead)
        vars(state_module)["pinned"] = pretended_pin
        vars(ledger_module)["is_alive"] = is_alive
        keeper = Keeper(self.policy, self.places, engine, Journal("small", str(self.home / "nobody")))
        install(fatal, log)
        Sync(self.places, keeper.journal, Serving(keeper), {}, ()).run()

    def replies_made(self) -> list[str]:
        """Return the ids of the answers that the last run recorded. The agent's copy may be made again after a kill.

        A thread reports its step before taking it, and may be killed in between: then the file is unchanged.
        """
        paths = [Path(step.split()[-1]) for step in self.steps if " os.rename " in step]
        ids = [path.name[1:33] for path in paths if path.parent == self.places.answers]
        after = self.answers()
        return [each for each in ids if ids.count(each) > 1 or after.get(each) != self.answers_before.get(each)]

    def answers(self) -> dict[str, int]:
        """Return the file of each answer; an answer that is written again has another file."""
        return {path.stem: path.stat().st_ino for path in self.places.answers.glob("[!.]*.json")}

    def reply(self, request_id: str) -> dict[str, object] | None:
        path = self.places.replies / f"{request_id}.json"
        return json.loads(path.read_text()) if path.exists() else None


class Schedule(RuleBasedStateMachine):
    """Requests, kills, faults and torn files in any order. After each, the host must become idle."""

    @initialize()
    def begin(self) -> None:
        self.host = Host()
        self.sent: dict[str, dict[str, object]] = {}  # request by id, in order
        self.lines: dict[str, bytes] = {}
        self.made: Counter[str] = Counter()  # reply by id
        self.runs: dict[str, int | None] = dict.fromkeys(NETWORKS)  # what the answers say: pid by network
        self.read = 0  # those of `sent` whose answers have been counted

    def hand_over(self, network: str, body: dict[str, object]) -> None:
        request_id = f"{len(self.sent):032x}"
        deadline = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + 600_000
        line = json.dumps({"v": 1, "id": request_id, "deadline": deadline, **body}).encode() + b"\n"
        assert wrapper.try_to_hand_over(str(self.host.places.spool), str(self.host.places.doorbell), line, request_id)
        self.sent[request_id] = {"network": network, **body}
        self.lines[request_id] = line

    @rule(network=st.sampled_from(NETWORKS), plan=st.sampled_from(["", "--quiet", "--file=/state/one.conf"]))
    def start(self, network: str, plan: str) -> None:
        argv = ["tool", f"--data=/state/{network}/data", *([plan] if plan else [])]
        self.hand_over(network, {"op": "start", "argv": argv, "netns": f"ns-{network}", "env": {}})

    @rule(network=st.sampled_from(NETWORKS), name=st.sampled_from(["TERM", "HUP"]))
    def signal(self, network: str, name: str) -> None:
        pid_file = self.host.home / "state" / network / "pid"
        if pid_file.exists():
            pid = int(pid_file.read_text())
            self.hand_over(network, {"op": "signal", "signal": name, "pid": pid})

    @rule(number=st.integers(0, 5))
    def repeat(self, number: int) -> None:
        """Write the same line again, as a wrapper does whose file was taken while it wrote."""
        for line in list(self.lines.values())[-1 - number :][:1]:
            assert wrapper.try_to_hand_over(str(self.host.places.spool), str(self.host.places.doorbell), line, "again")

    @rule(rubbish=st.sampled_from([b"\n", b"{}\n", b"\xff\n", b"torn"]))
    def rubbish(self, rubbish: bytes) -> None:
        with (self.host.places.spool / "processes").open("ab") as file:
            file.write(rubbish)

    @rule(step=st.integers(1, 60))
    def run_and_kill(self, step: int) -> None:
        self.run_once(step)

    @rule(
        point=st.sampled_from(
            ["start-before", "start-created", "start-orphan", "start-after", "find", "list", "remove"]
        )
    )
    def break_engine(self, point: str) -> None:
        self.host.engine().fault.write_text(point)

    @rule(network=st.sampled_from(NETWORKS), length=st.integers(0, 400))
    def tear(self, network: str, length: int) -> None:
        """Truncate a ledger record at any length while no operation depends on it alone."""
        for path in self.host.places.ledger.glob(f"*{network}*.json"):
            path.write_bytes(path.read_bytes()[:length])

    @rule()
    def run_to_the_end(self) -> None:
        self.run_once(0)

    def run_once(self, step: int) -> bool:
        ended = self.host.run(step)
        self.made.update(self.host.replies_made())
        return ended

    @invariant()
    def nothing_runs_or_is_answered_twice(self) -> None:
        if hasattr(self, "host"):
            assert all(count == 1 for count in self.made.values()), self.made
            running = Counter(path.read_text() for path in self.host.engine().processes.iterdir())
            assert all(count == 1 for count in running.values()), running

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        try:
            self.host.engine().fault.unlink(missing_ok=True)
            for _ in range(2):  # the first serves what waits; the second has only to sweep, like the timer's
                self.run_once(0)
            self.nothing_runs_or_is_answered_twice()
            self.all_is_answered()
            self.what_was_answered_is_so()
            self.nothing_is_left()
        finally:
            shutil.rmtree(self.host.home)

    def all_is_answered(self) -> None:
        assert set(self.made) == set(self.sent), "lost"
        for request_id in self.sent:
            answer = self.host.places.answers / f"{request_id}.json"
            assert self.host.reply(request_id) == json.loads(answer.read_text()), "the agent was told something else"

    def what_was_answered_is_so(self) -> None:
        runs: dict[str, object] = dict.fromkeys(NETWORKS)
        for request_id, request in self.sent.items():
            reply, network = self.host.reply(request_id) or {}, str(request["network"])
            if request["op"] == "start":
                assert reply["status"] == "running" or reply["reason"] in ("engine-failed", "internal"), reply
                runs[network] = reply.get("pid")
            elif request["pid"] == runs[network]:
                assert reply["status"] == "done" or reply["reason"] == "engine-failed", reply
                runs[network] = runs[network] if request["signal"] == "HUP" else None
        alive = {path.read_text(): int(path.name) for path in self.host.engine().processes.iterdir()}
        assert {network: runs[network] for network in NETWORKS if runs[network]} == alive

    def nothing_is_left(self) -> None:
        places, engine = self.host.places, self.host.engine()
        alive = {path.read_text() for path in engine.processes.iterdir()}
        assert {path.name for path in engine.containers.iterdir()} == {f"small_{instance}" for instance in alive}
        assert [*places.pins.iterdir(), *places.claims.iterdir(), *places.spool.iterdir()] == []
        assert {path.suffix for path in (*places.replies.iterdir(), *places.answers.iterdir())} <= {".json"}, "bells"
        records = {path.stem for path in places.ledger.iterdir() if path.suffix == ".json"}
        assert {path.suffix for path in places.ledger.iterdir()} <= {".json", ".falls"}
        assert records <= alive
        assert {path.name.partition(".")[0] for path in places.snapshots.iterdir()} <= alive
        for network in NETWORKS:
            pid_file = self.host.home / "state" / network / "pid"
            if network in alive:
                assert (engine.processes / pid_file.read_text().strip()).exists()


START, REPLACE = "--file=/state/one.conf", "--quiet"


def test_what_was_answered_as_running_stays_also_when_its_record_is_torn() -> None:
    """Killed before each of the last steps, some of which come after the reply."""
    for fatal in itertools.count(20):
        schedule = Schedule()
        schedule.begin()
        schedule.start(NETWORKS[0], START)
        ended = schedule.run_once(fatal)
        schedule.tear(NETWORKS[0], 141)
        schedule.teardown()
        if ended:
            break
    assert fatal > 22, "a run has more steps than that"


@pytest.mark.parametrize("what", ["replace", "TERM"])
def test_killed_before_every_step(what: str) -> None:
    """Kill a separate run before each step."""
    for step in itertools.count(1):
        schedule = Schedule()
        schedule.begin()
        network = NETWORKS[0]
        schedule.start(network, START)
        schedule.run_to_the_end()
        if what == "replace":
            schedule.start(network, REPLACE)
        else:
            schedule.signal(network, what)
        ended = schedule.run_once(step)
        schedule.teardown()
        if ended:
            break
    assert step > 20, "a run has more steps than that"


@pytest.mark.parametrize("torn", ["*.json", "*.tried"])
def test_killed_before_every_step_of_a_stop_and_the_ledger_is_torn(torn: str) -> None:
    for step in itertools.count(1):
        schedule = Schedule()
        schedule.begin()
        network = NETWORKS[0]
        schedule.start(network, "")
        schedule.run_to_the_end()
        schedule.signal(network, "TERM")
        ended = schedule.run_once(step)
        for path in schedule.host.places.ledger.glob(torn):
            path.write_bytes(path.read_bytes()[: step % 40])
        schedule.teardown()
        if ended:
            break
    assert step > 10, "a run has more steps than that"


def started_and_killed(step: int) -> Schedule:
    schedule = Schedule()
    schedule.begin()
    schedule.start(NETWORKS[0], START)
    schedule.run_once(step)
    return schedule


def test_killed_again_before_every_step_of_taking_over() -> None:
    """Kill a start after its program ran. Then kill the next run, which ends that program and starts again."""
    last = 0  # the step of a start at which the program runs and is not recorded yet
    for step in itertools.count(1):
        schedule = started_and_killed(step)
        runs = any(schedule.host.engine().processes.iterdir())
        known = any(schedule.host.places.ledger.glob("[!.]*.json"))
        schedule.teardown()
        if known:
            break
        last = step if runs else last
    assert last, "there is such a step"
    for step in itertools.count(1):
        schedule = started_and_killed(last)
        ended = schedule.run_once(step)
        schedule.teardown()  # it was reported as running, and runs
        if ended:
            break
    assert step > 20, "a run has more steps than that"


TestSchedule = Schedule.TestCase
TestSchedule.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    derandomize="SIDESPAWN_SCHEDULES" not in os.environ,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
