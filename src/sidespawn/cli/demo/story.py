"""The steps of the demo, in order. Each checks what it shows; a failed check ends the story."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sidespawn.cli.demo import neutron
from sidespawn.cli.demo.attempts import ATTEMPTS, REMAINING, Tried, attempt, is_possible
from sidespawn.cli.demo.show import Teller
from sidespawn.cli.demo.stage import (
    MACS,
    PRESET,
    SERVICE,
    STATE,
    Stage,
    journal,
    make_directories,
    sidespawn_json,
)
from sidespawn.core.plan import container_name
from sidespawn.engines import get_engine
from sidespawn.host.policies import load_policy
from sidespawn.system.processes import identify
from sidespawn.testing.agent import AgentContainer, effective_capabilities, process_status
from sidespawn.testing.commands import Unexpected, expect, wait_until
from sidespawn.testing.network import Lease, Renewals

FORBIDDEN = "--dhcp-script=/tmp/evil"
REFUSED = 77
JOURNAL_PATIENCE = 60.0  # seconds until a record can be read; a slow host indexes its journal slowly
RENEWALS_EACH = 5  # before, during and after the agent's absence


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    act: Callable[[Stage, Teller], None]


def enable(stage: Stage, tell: Teller) -> None:
    make_directories()
    stage.lan.make()
    choice = (f"--preset={PRESET}", f"--engine={stage.engine}", f"--image={stage.image}")
    command = ("enable", SERVICE, *choice, "--set", f"state_on_host={STATE}")
    tell.call(f"sidespawn {' '.join(command)}")
    enabled = sidespawn_json(*command, "--json")
    for mount in enabled["agent_mounts"]:
        tell.note(f"{'writable ' if mount['writable'] else 'read-only'}  {mount['source']}  at {mount['target']}")
    stage.agent = AgentContainer(
        name=stage.agent.name,
        image=stage.agent.image,
        state=stage.agent.state,
        service_options=tuple(enabled["podman_options"]),
        security_options=tuple(enabled["security_options"]),
    )
    writable = [mount["source"] for mount in enabled["agent_mounts"] if mount["writable"]]
    expect(writable == [str(stage.places.spool)], "the agent gets one writable directory, the spool", writable)


def start_agent(stage: Stage, tell: Teller) -> None:
    pid = stage.agent.start()
    tell.call(f"podman run {' '.join(stage.agent.confinement())} --network=host --pid=host …")
    capabilities = stage.result["agent_capabilities"] = list(effective_capabilities(pid))
    status = process_status(pid)
    expect(capabilities == sorted(stage.agent.capabilities), "the agent has its two capabilities", capabilities)
    expect(status["NoNewPrivs"] == "1", "no-new-privileges is set in the agent", status["NoNewPrivs"])
    expect(status["Seccomp"] == "2", "a seccomp profile confines the agent", status["Seccomp"])
    mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    expect(".sock" not in mounts, "no socket is mounted into the agent", "one is")
    tell.note(f"capabilities {' '.join(capabilities)}, no-new-privileges, seccomp; no engine socket")


def compare(stage: Stage, tell: Teller) -> None:
    stage.today.start()
    rows, possible = [], []
    for each in ATTEMPTS:
        today = attempt(stage.today, each) if each.today else None
        now = attempt(stage.agent, each)
        rows.append((each.what, words(today), words(now)))
        expect(today is None or today.worked, f"today's agent can: {each.what}", today)
        expect(not now.worked, f"the agent cannot: {each.what}", "it could")
        stage.result["attempts"].append(
            {"what": each.what, "today": today.worked if today else None, "now": now.worked, "said": now.said}
        )
    stage.today.remove()
    tell.table(("tried in the agent", "today: --privileged", "with sidespawn"), rows)
    for remaining in REMAINING:
        found = is_possible(stage.agent, remaining)
        stage.result["still_possible"].append({"what": remaining.what, "because": remaining.because, "possible": found})
        if found:
            possible.append((remaining.what, remaining.because))
    if possible:
        tell.note(
            "What stays possible is what Neutron's own job needs, not sidespawn; the side container has none of it:"
        )
        tell.table(("still possible", "because of"), possible)


def words(tried: Tried | None) -> str:
    if tried is None:
        return "-"
    return "works" if tried.worked else f"refused: {tried.said.rpartition(': ')[2]}"


def prepare_network(stage: Stage, tell: Teller) -> None:
    switch_end = ("peer", "name", neutron.SWITCH_PORT, "netns", stage.lan.name)
    for command in (
        ("ip", "netns", "add", neutron.NETNS),
        ("ip", "link", "add", neutron.INTERFACE, "netns", neutron.NETNS, "type", "veth", *switch_end),
        ("ip", "-n", neutron.NETNS, "address", "add", f"{neutron.SERVER}/{neutron.PREFIX}", "dev", neutron.INTERFACE),
        ("ip", "-n", neutron.NETNS, "link", "set", "lo", "up"),
        ("ip", "-n", neutron.NETNS, "link", "set", neutron.INTERFACE, "up"),
    ):
        tell.call(" ".join(command))
        stage.agent.exec(command, code=0)
    stage.lan.connect(neutron.SWITCH_PORT)
    neutron.write_files(stage.agent, MACS[:1])
    neutron.write_leases(stage.agent, MACS[0])
    tell.note(f"{neutron.HOME}: host, addn_hosts, opts, leases, written by neutron")
    probe = stage.agent.exec(neutron.PROBE)
    said = (probe.stdout + probe.stderr).strip()
    expect(
        probe.code == 0 and "syntax check OK" in said,
        "dnsmasq --test is answered in the agent",
        f"{probe.code}: {said}",
    )
    tell.call(" ".join(neutron.PROBE))
    tell.note(f"answered in the agent by its image's dnsmasq: {said}")


def start_helper(stage: Stage, tell: Teller) -> None:
    began = time.monotonic()
    done = neutron.start(stage.agent)
    seconds = time.monotonic() - began
    tell.call(f"ip netns exec {neutron.NETNS} env PROCESS_TAG={neutron.TAG} {' '.join(neutron.COMMAND[:4])} …")
    expect(done.code == 0, "the wrapper exits with 0", f"{done.code}: {done.stderr.strip()}", stage.look)
    tell.note(f"returned 0 after {seconds:.2f} s, when dnsmasq was serving")
    pid = neutron.active_pid(stage.agent)
    if pid is None:
        raise Unexpected("Neutron finds its helper active by pid file and command line", "it does not", stage.look)
    stage.pid = stage.result["pid_before_restart"] = pid
    check_side_container(stage, tell)


def check_side_container(stage: Stage, tell: Teller) -> None:
    """Check in the kernel that the side container is as the policy says."""
    listed = sidespawn_json("ps", SERVICE, "--json")
    found = [(each["name"], each["pid"], each["netns"]) for each in listed]
    stage.side_container = container_name(SERVICE, neutron.NETNS)
    expect(found == [(stage.side_container, stage.pid, neutron.NETNS)], "sidespawn ps lists just this helper", found)
    policy, status = load_policy(stage.places).side_container, process_status(stage.pid)
    capabilities = stage.result["side_container_capabilities"] = list(effective_capabilities(stage.pid))
    expect(capabilities == list(policy.capabilities), f"capabilities {' '.join(policy.capabilities)}", capabilities)
    user, group = status["Uid"].split()[1], status["Gid"].split()[1]
    stage.result["side_container_user"] = f"{user}:{group}"
    expect((user, group) == (str(policy.uid), str(policy.gid)), f"user {policy.uid}:{policy.gid}", f"{user}:{group}")
    confined = (status["NoNewPrivs"], status["Seccomp"])
    expect(confined == ("1", "2"), "no-new-privileges and seccomp confine it", confined)
    namespace, host = os.stat(f"/run/netns/{neutron.NETNS}").st_ino, Path("/proc/1/ns")
    expect(os.stat(f"/proc/{stage.pid}/ns/net").st_ino == namespace, f"it runs in {neutron.NETNS}", "another namespace")
    kinds = ("mnt", "ipc") if stage.engine == "systemd" else ("mnt", "pid", "ipc", "uts")  # docs/engines.md
    for kind in kinds:
        own = os.readlink(f"/proc/{stage.pid}/ns/{kind}")
        expect(own != os.readlink(host / kind), f"it has a separate {kind} namespace", "the host's")
    direct = stage.agent.exec(("kill", "-0", str(stage.pid)))
    expect(direct.code != 0, "the agent cannot signal the side container by itself", "it can")
    tell.note(f"side container {stage.side_container}")
    tell.note(f"pid {stage.pid}, user {user}:{group}, capabilities {' '.join(capabilities)}")
    tell.note("separate namespaces; the agent cannot signal it directly; `ip netns` shows it in its network namespace")


def first_lease(stage: Stage, tell: Teller) -> None:
    stage.result["lease"] = asdict(leased(stage, 1, tell))


def leased(stage: Stage, number: int, tell: Teller) -> Lease:
    """Return the lease of client 1 or 2, which must match Neutron's files."""
    lease = stage.lan.clients[number - 1].ask()
    if lease is None:
        raise Unexpected(f"client {number} gets a lease", "no one answered", stage.look)
    wanted = (neutron.address(number), neutron.PREFIX, neutron.ROUTER, neutron.SERVER, neutron.MTU)
    got = (lease.address, lease.prefix, lease.router, lease.server, lease.mtu)
    expect(got == wanted, f"client {number} is given {wanted}", got)
    tell.note(
        f"{MACS[number - 1]} has {lease.address}/{lease.prefix} for {lease.seconds} s,"
        f" router {lease.router}, mtu {lease.mtu}"
    )
    return lease


def reload(stage: Stage, tell: Teller) -> None:
    stranger = stage.lan.clients[1].ask(tries=1)
    expect(stranger is None, "a client that is not in the hosts file gets no lease", stranger)
    tell.note(f"{MACS[1]} is no port yet and gets nothing")
    neutron.write_files(stage.agent, MACS)
    pid = int(stage.agent.read(neutron.PID_FILE))
    done = neutron.kill(stage.agent, "HUP", pid)
    tell.call(f"ip netns exec {neutron.NETNS} {neutron.KILL_SCRIPT} HUP {pid}")
    expect(done.code == 0, "the kill script exits with 0", f"{done.code}: {done.stderr.strip()}", stage.look)
    lease = leased(stage, 2, tell)
    expect(neutron.active_pid(stage.agent) == stage.pid, f"pid {stage.pid} stays", neutron.active_pid(stage.agent))
    tell.note(f"the same process, pid {stage.pid}")
    stage.result["lease_after_reload"] = asdict(lease)


def restart_agent(stage: Stage, tell: Teller) -> None:
    process = identify(stage.pid)
    renewals = stage.renewals = Renewals(stage.lan.clients[0], Lease(**stage.result["lease"]))
    renewals.wait_for(RENEWALS_EACH)
    gone_at = time.monotonic()
    stage.agent.kill()
    stage.agent.remove()
    expect(not stage.agent.exists(), "the agent container is gone", "it is still there")
    renewals.wait_for(RENEWALS_EACH)
    stage.agent.start()
    back_at = time.monotonic()
    renewals.wait_for(RENEWALS_EACH)
    stage.stop_renewing()
    report_renewals(stage, tell, renewals, gone_at, back_at)
    tell.call(f"podman kill {stage.agent.name}; podman rm {stage.agent.name}; podman run …")
    expect(process is not None and identify(stage.pid) == process, "the same dnsmasq is still running", "it does not")
    pid = neutron.active_pid(stage.agent)
    expect(pid == stage.pid, f"the new agent reads pid {stage.pid} and finds it active", pid)
    stage.result["pid_after_restart"] = pid
    tell.note(f"the new agent finds its helper active, pid {pid}")
    ask_again(stage, tell)


def report_renewals(stage: Stage, tell: Teller, renewals: Renewals, gone_at: float, back_at: float) -> None:
    done = renewals.done
    right = {each.asked: each.address == neutron.address(1) for each in done}
    lost = sum(not answered for answered in right.values())
    phases = {
        "before": sum(asked < gone_at for asked in right),
        "without_agent": sum(gone_at <= asked < back_at for asked in right),
        "after": sum(asked >= back_at for asked in right),
    }
    slowest = max((each.seconds or 0.0 for each in done), default=0.0)
    stage.result |= {"renewals": len(done), "renewals_lost": lost, "renewals_by_phase": phases}
    tell.note(
        f"{len(done)} renewals: {phases['before']} before, {phases['without_agent']} while there was no agent, "
        f"{phases['after']} after; {lost} lost; the slowest took {slowest * 1000:.0f} ms"
    )
    expect(lost == 0, "no renewal is lost", f"{lost} of {len(done)}", stage.look)
    expect(min(phases.values()) > 0, "renewals before, during and after", phases)


def ask_again(stage: Stage, tell: Teller) -> None:
    """Restart as Neutron does: delete the pid file, then repeat the same command."""
    stage.agent.exec(("rm", neutron.PID_FILE), user=load_policy(stage.places).side_container.uid, code=0)
    done = neutron.start(stage.agent)
    expect(done.code == 0, "the same start command exits with 0", f"{done.code}: {done.stderr.strip()}", stage.look)
    pid = neutron.active_pid(stage.agent)
    expect(pid == stage.pid, f"the pid file says {stage.pid} again", pid)
    said = wait_for_record(stage, "answered", neutron.NETNS)["MESSAGE"]
    expect("running already" in said, "the answer is `running already`", said)
    tell.note(f"asked to start it again, the host answers: {said}")


def wait_for_record(stage: Stage, event: str, *arguments: str) -> dict[str, str]:
    """Return the newest record of this event since the demo began."""
    found: list[dict[str, str]] = []

    def is_there() -> bool:
        records = journal(*arguments, f"--since=@{stage.began}")
        found[:] = [each for each in records if each.get("SIDESPAWN_EVENT") == event]
        return bool(found)

    wait_until(is_there, f"the journal has a record `{event}` of {SERVICE}", JOURNAL_PATIENCE, stage.look)
    return found[-1]


def refuse(stage: Stage, tell: Teller) -> None:
    command = (*neutron.COMMAND, FORBIDDEN)
    done = stage.agent.exec_in(neutron.NETNS, neutron.TAG, command)
    tell.call(f"ip netns exec {neutron.NETNS} env PROCESS_TAG={neutron.TAG} dnsmasq … {FORBIDDEN}")
    expect(done.code == REFUSED, f"the wrapper exits with {REFUSED}", f"{done.code}: {done.stderr.strip()}", stage.look)
    tell.note(f"exit code {done.code}; the agent reads: {done.stderr.strip()}")
    record = wait_for_record(stage, "rejected", "--refused")
    tell.note(
        f"in the journal: PRIORITY={record['PRIORITY']} SIDESPAWN_SERVICE={record['SIDESPAWN_SERVICE']}"
        f" SIDESPAWN_REASON={record['SIDESPAWN_REASON']}"
    )
    explain = ("explain", SERVICE, f"--netns={neutron.NETNS}", f"--env=PROCESS_TAG={neutron.TAG}")
    explained = sidespawn_json(*explain, "--json", "--", *command, code=REFUSED)
    tell.call(f"sidespawn {' '.join(explain)} -- dnsmasq … {FORBIDDEN}")
    tell.note(f"{explained['verdict']} ({explained['reason']}): {explained['message']}")
    reason = explained["reason"]
    expect(f"({reason})" in done.stderr, f"the agent is told the reason {reason}", done.stderr.strip())
    expect(record["SIDESPAWN_REASON"] == reason, f"the journal has the reason {reason}", record["SIDESPAWN_REASON"])
    expect(explained["argument"] == FORBIDDEN, f"explain blames {FORBIDDEN}", explained["argument"])
    running = [each["pid"] for each in sidespawn_json("ps", SERVICE, "--json")]
    expect(running == [stage.pid], f"only pid {stage.pid} runs, as before", running)
    stage.result["refused"] = reason
    stage.result["refusal"] = {
        "exit_code": done.code,
        "message": explained["message"],
        "argument": explained["argument"],
        "rule": explained["rule"],
    }


def stop(stage: Stage, tell: Teller) -> None:
    began = time.monotonic()
    done = neutron.kill(stage.agent, "15", stage.pid)
    seconds = time.monotonic() - began
    # Check at once: Neutron starts the next one within milliseconds.
    left = [
        what
        for what, there in (
            (f"process {stage.pid}", os.path.exists(f"/proc/{stage.pid}")),
            ("its pid file", os.path.lexists(STATE / "dhcp" / Path(neutron.PID_FILE).parent.name / "pid")),
            (
                f"container {stage.side_container}",
                get_engine(stage.engine, SERVICE).find(stage.side_container) is not None,
            ),
        )
        if there
    ]
    tell.call(f"ip netns exec {neutron.NETNS} {neutron.KILL_SCRIPT} 15 {stage.pid}")
    expect(done.code == 0, "the kill script exits with 0", f"{done.code}: {done.stderr.strip()}", stage.look)
    expect(not left, "process, container, its name and pid file are gone when it returns", f"left: {', '.join(left)}")
    tell.note(f"returned after {seconds:.2f} s: process, container, its name and pid file are gone")
    again = neutron.kill(stage.agent, "15", stage.pid)
    said = again.stderr.strip()
    expect(
        again.code != 0 and "No such process" in said, "a second kill says `No such process`", f"{again.code}: {said}"
    )
    tell.note(f"a second time: {said}")


def remove(stage: Stage, tell: Teller) -> None:
    trouble = stage.remove()
    expect(not trouble, "nothing is left", "; ".join(trouble), "sidespawn demo --remove")
    tell.note("agent, service, units, namespaces and directories of the demo are gone")


STEPS = (
    Step("enable", "The host enables a service for one agent", enable),
    Step("agent", "An agent container starts, without an engine's socket and not privileged", start_agent),
    Step("compare", "What the agent could do on the host, and what it can do now", compare),
    Step("network", "The agent makes a network as Neutron does", prepare_network),
    Step("start", "The agent starts dnsmasq; it runs beside the agent, not in it", start_helper),
    Step("lease", "A client gets its lease", first_lease),
    Step("reload", "A second port, and HUP through the kill script", reload),
    Step("restart", "The agent is killed and recreated; the clients notice nothing", restart_agent),
    Step("refuse", "A request that the policy does not allow", refuse),
    Step("stop", "The agent stops dnsmasq through the kill script", stop),
)
KEPT_STEPS = STEPS[:-1]
REMOVE = Step("remove", "Everything the demo made is removed", remove)
