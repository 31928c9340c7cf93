"""The exact output of verbs that need services, an engine or the journal. Stand-ins replace them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidespawn import __version__, host_scan
from sidespawn.agent import wrapper
from sidespawn.cli import agent_options, disable, doctor, enable, learn, logs, metrics, options, ps, signal
from sidespawn.cli import main as command
from sidespawn.cli.main import cli
from sidespawn.core.policy import Policy
from sidespawn.engines import Found
from sidespawn.host import seccomp
from sidespawn.host_report.findings import State, Topic
from sidespawn.host_scan.findings import Deployment, Finding, Kind
from sidespawn.service_report import journal
from sidespawn.service_report.diagnosis import Diagnosis
from sidespawn.service_report.diagnosis.ailments import Ailment, Sign
from sidespawn.service_report.usage import Usage
from sidespawn.setup import agent_options as setup_options
from sidespawn.setup import changes, coverage, hardening, selinux, services
from sidespawn.setup.changes import Change
from sidespawn.system.places import Places
from tests.contract import test_golden as golden
from tests.data.corpus import RADVD
from tests.unit.shipped import preset

DHCP, OTHER = "neutron-dhcp-dnsmasq", "neutron-l3-radvd"
NETWORK, CRASHING = f"qdhcp-{golden.UUID}", "qdhcp-two"
CALL = RADVD[0]
CASES = {
    "agent-options": f"agent-options {DHCP}",
    "agent-options-json": f"agent-options {DHCP} --json",
    "agent-options-kubernetes": f"agent-options {DHCP} --for kubernetes",
    "agent-options-kubernetes-json": f"agent-options {DHCP} --for kubernetes --json",
    "disable": f"disable {DHCP} --dry-run",
    "disable-json": f"disable {DHCP} --dry-run --json",
    "doctor": "doctor",
    "doctor-json": "doctor --json",
    "enable": f"enable {DHCP} --dry-run",
    "enable-json": f"enable {DHCP} --dry-run --json",
    "explain": f"explain --preset {OTHER} --root ROOT --netns {CALL.netns} -- {shlex.join(CALL.argv)}",
    "explain-json": f"explain --preset {OTHER} --root ROOT --netns {CALL.netns} --json -- {shlex.join(CALL.argv)}",
    "learn": f"learn {OTHER}",
    "learn-json": f"learn {OTHER} --json",
    "logs": f"logs {DHCP}",
    "logs-json": f"logs {DHCP} --json",
    "metrics": "metrics",
    "options": f"options {DHCP}",
    "options-json": f"options {DHCP} --json",
    "ps": "ps",
    "ps-json": "ps --json",
    "ps-limits": "ps --limits",
    "ps-limits-json": "ps --limits --json",
    "scan": "scan",
    "scan-json": "scan --json",
    "signal": f"signal {DHCP} {NETWORK} HUP",
    "signal-json": f"signal {DHCP} {NETWORK} HUP --json",
    "signal-unknown": f"signal {DHCP} qdhcp-three HUP",
    "stop": f"stop {DHCP} --all",
    "stop-json": f"stop {DHCP} {NETWORK} --json",
    "stop-partly": f"stop {DHCP} qdhcp-three {NETWORK}",
    "stop-partly-json": f"stop {DHCP} qdhcp-three {NETWORK} --json",
    "stop-unnamed": f"stop {DHCP}",
}
RUNNING = Found(
    id="1f2e3d4c5b6a", name=f"{DHCP}_{NETWORK}", pid=4711, state="running", instance=NETWORK, digest="0" * 32,
    request="1" * 32, netns=NETWORK,
)  # fmt: skip
ROW = {
    "service": DHCP, "instance": NETWORK, "name": RUNNING.name, "state": "running", "pid": 4711,
    "since": "2026-11-29 12:00:00", "netns": NETWORK, "request": RUNNING.request, "container": RUNNING.id,
    "adopted": False, "orphan": False, "mode": "enforce",
}  # fmt: skip
GONE = ROW | {"instance": CRASHING, "name": f"{DHCP}_{CRASHING}", "netns": CRASHING, "orphan": True, "pid": 4712}
USED = Usage(
    service=DHCP, instances=2, most_instances=2, requests_left=0, burst=2000, rate=20, waiting=2048,
    backing_off={CRASHING: 12.0},
)  # fmt: skip
ILL = Diagnosis(
    causes=(
        Ailment(
            id=Topic.PODMAN, state=State.PROBLEM, found="/usr/bin/podman is missing", message="no program can start",
            command="apt-get install podman", service=DHCP,
            consequences=(
                Ailment(
                    id=Sign.REQUESTS_FAIL, state=State.PROBLEM, message="agents do not get what they asked for",
                    found=f"requests for {DHCP} have failed since the last success: 3 engine-failed", service=DHCP,
                ),
            ),
        ),
    ),
    not_looked_at=("root: only root can read the policies",),
)  # fmt: skip
SCANNED = host_scan.Report(
    findings=(
        Finding(
            kind=Kind.ENGINE_SOCKET, where="podman:neutron_dhcp_agent", found="/run/podman/podman.sock is mounted",
            deployment=Deployment.KOLLA,
        ),
    ),
    notes=("/run/docker.sock listens",), not_looked_at=("docker did not answer",), containers=3,
)  # fmt: skip
RECORDS = [
    {
        "SIDESPAWN_REQUEST": f"{number:032x}", "SIDESPAWN_REASON": "option-not-allowed", "SIDESPAWN_OPTION": option,
        "SIDESPAWN_COUNT": "1", "SIDESPAWN_VALUE": json.dumps(value), "SIDESPAWN_NAMES": "{}",
    }
    for number, (option, value) in enumerate([("debug", "3"), ("debug", "5"), ("chrootdir", "/srv")])
]  # fmt: skip
JOURNAL = f"""\
2026-11-29T12:00:00+0000 host sidespawn[400]: {NETWORK} runs as {RUNNING.name}, pid 4711
2026-11-29T12:00:05+0000 host dnsmasq[4711]: started, version 2.90 cachesize 150
"""


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the host: directories, policies, engine, journal and security modules."""
    run, policies = tmp_path / "run", tmp_path / "etc"
    policies.mkdir()
    for name in (DHCP, OTHER):
        (run / name).mkdir(parents=True)
        (policies / f"{name}.toml").write_text(f'extends = "{name}"\n')
    monkeypatch.setattr(Places.__init__, "__defaults__", (run, policies))
    for module in (services, metrics):
        monkeypatch.setattr(module, "RUN", run)
    monkeypatch.setattr(services, "POLICIES", policies)
    for module in (agent_options, setup_options, learn, logs, options, ps, services):
        monkeypatch.setattr(module, "load_policy", policy_of)
    monkeypatch.setattr(hardening, "has_apparmor", lambda: False)
    monkeypatch.setattr(selinux, "is_installed", lambda: False)
    monkeypatch.setattr(selinux, "is_installable", lambda: False)
    monkeypatch.setattr(seccomp, "base", dict)
    return tmp_path


@pytest.fixture(autouse=True)
def answers(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what engine, journal and service answer."""
    replies = {"HUP": f"{NETWORK} was sent HUP", "TERM": f"{RUNNING.name} was stopped"}
    journalctl = host / "journalctl"
    journalctl.write_text(f"#!/bin/sh\ncat {host}/journal\n")
    journalctl.chmod(0o755)
    (host / "journal").write_text(JOURNAL)
    set_ = monkeypatch.setattr
    set_(ps, "side_containers", lambda places: [ROW, GONE] if places.service == DHCP else [])
    set_(ps, "usage", lambda places: USED if places.service == DHCP else idle(places.service))
    set_(signal, "running", lambda _: [RUNNING])
    set_(wrapper, "signal", lambda _, name, __: {"status": "done", "reason": "ok", "message": replies[name]})
    set_(disable, "side_containers", lambda *_: [(None, RUNNING.name)])
    set_(doctor, "diagnose", lambda: ILL)
    set_(host_scan, "scan", lambda: SCANNED)
    set_(learn, "read_journal", lambda *_: iter(RECORDS))
    set_(metrics, "gather", lambda: [golden.SERVING, golden.LIMITED])
    for module in (journal, logs):
        set_(module, "JOURNALCTL", str(journalctl))
    set_(os, "execv", execute)
    set_(changes, "pending", lambda *_: (Change(what="unit sidespawn@.service", before="a", after="b"),))
    set_(coverage, "problems", lambda *_: [])
    set_(enable, "host_findings", lambda _: [])


def policy_of(places: Places) -> Policy:
    return preset(places.service)


def idle(service: str) -> Usage:
    return Usage(
        service=service, instances=0, most_instances=1000, requests_left=2000, burst=2000, rate=20, waiting=0,
        backing_off={},
    )  # fmt: skip


def execute(program: str, arguments: list[str]) -> None:
    """Print the program's output and exit like it, instead of becoming it."""
    done = subprocess.run([program, *arguments[1:]], capture_output=True, text=True, timeout=60, check=False)
    print(done.stdout, end="")
    raise SystemExit(done.returncode)


@pytest.fixture
def outcome(host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    root = host / "root"
    for path, content in CALL.files.items():
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_text(content)

    def run(arguments: str) -> str:
        words = [str(root) if each == "ROOT" else each for each in shlex.split(arguments)]
        monkeypatch.setattr(sys, "argv", ["sidespawn", *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        said = capsys.readouterr()
        errors = f"--- standard error\n{said.err}" if said.err else ""
        text = f"$ sidespawn {arguments}\n{said.out}{errors}--- exit code {ended.value.code}\n"
        for part, name in (("run", "/run/sidespawn"), ("etc", "/etc/sidespawn"), ("root", "ROOT")):
            text = text.replace(str(host / part), name)
        text = re.sub(r"(?<=the engine's command:\n  ).*", "…", text)
        text = re.sub(r'(?<="engine_command": )\[[^\]]*\]', "[]", text)
        return golden.of_any_host(text.replace(f'"{__version__}"', '"VERSION"'))

    return run


@pytest.mark.parametrize("name", CASES)
def test_output_with_services(name: str, outcome: Callable[[str], str]) -> None:
    found = outcome(CASES[name])
    assert golden.agreed(name, found) == found


# `demo` starts containers: tests/lab/test_demo.py compares its output. `sync` prints nothing.
WITHOUT_OUTPUT = ("demo", "sync")


@pytest.mark.parametrize("verb", cli.commands)
def test_each_verb_has_plain_json_and_error_forms(verb: str) -> None:
    forms = ("error",) if verb in WITHOUT_OUTPUT else ("", "error")
    has_json = any(each.name == "as_json" for each in cli.commands[verb].params)
    wanted = {"-".join(filter(None, (verb, form, *end))) for form in forms for end in ((), ("json",))[: 1 + has_json]}
    every = golden.CASES | golden.LIVE | CASES
    assert wanted <= every.keys()
    assert {every[name].split()[0] for name in wanted} == {verb}


def test_each_file_belongs_to_a_case() -> None:
    assert {path.stem for path in golden.GOLDEN.glob("*.txt")} == {*golden.CASES, *golden.LIVE, *CASES}
