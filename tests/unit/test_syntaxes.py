"""Mounts and settings for an agent's container, in the syntax of each tool that starts it."""

from __future__ import annotations

import pytest

from sidespawn.errors import Reason, SidespawnError
from sidespawn.host.directories import IMAGE_IN_AGENT
from sidespawn.setup import agent_options, syntaxes
from sidespawn.setup.agent_options import AgentOptions, Mount
from tests.unit.shipped import preset

RUN = "/run/sidespawn/dhcp"
BARE = AgentOptions(
    services=("dhcp",),
    mounts=(
        Mount(source=f"{RUN}/spool", target=f"{RUN}/spool", writable=True),
        Mount(source=f"{RUN}/agent/dnsmasq", target="/usr/sbin/dnsmasq", program="dnsmasq"),
        Mount(source=f"{RUN}/agent/dnsmasq-kill", target="/etc/neutron/kill_scripts/dnsmasq-kill"),
    ),
)
FULL = AgentOptions(
    services=("dhcp", "l3"),
    mounts=BARE.mounts,
    apparmor="sidespawn-agent",
    seccomp="/run/sidespawn/agent-seccomp.json",
    label_level="s0",
    label_type="sidespawn_agent_t",
    answers_itself=True,
    image="localhost/agent:latest",
)

EXPECTED = {
    ("podman", "bare"): f"""\
--volume={RUN}/spool:{RUN}/spool:rw,rprivate
--volume={RUN}/agent/dnsmasq:/usr/sbin/dnsmasq:ro,rprivate
--volume={RUN}/agent/dnsmasq-kill:/etc/neutron/kill_scripts/dnsmasq-kill:ro,rprivate
""",
    ("podman", "full"): f"""\
--volume={RUN}/spool:{RUN}/spool:rw,rprivate
--volume={RUN}/agent/dnsmasq:/usr/sbin/dnsmasq:ro,rprivate
--volume={RUN}/agent/dnsmasq-kill:/etc/neutron/kill_scripts/dnsmasq-kill:ro,rprivate
--mount=type=image,src=localhost/agent:latest,dst={IMAGE_IN_AGENT}
--security-opt=label=level:s0
--security-opt=apparmor=sidespawn-agent
--security-opt=seccomp=/run/sidespawn/agent-seccomp.json
--security-opt=label=type:sidespawn_agent_t
""",
    ("docker", "bare"): f"""\
--mount=type=bind,source={RUN}/spool,target={RUN}/spool,bind-propagation=rprivate
--mount=type=bind,source={RUN}/agent/dnsmasq,target=/usr/sbin/dnsmasq,readonly,bind-propagation=rprivate
--mount=type=bind,source={RUN}/agent/dnsmasq-kill,target=/etc/neutron/kill_scripts/dnsmasq-kill,readonly,\
bind-propagation=rprivate
""",
    ("quadlet", "bare"): f"""\
[Unit]
Wants=sidespawn-spool@dhcp.service
After=sidespawn-spool@dhcp.service

[Container]
Volume={RUN}/spool:{RUN}/spool:rw,rprivate
Volume={RUN}/agent/dnsmasq:/usr/sbin/dnsmasq:ro,rprivate
Volume={RUN}/agent/dnsmasq-kill:/etc/neutron/kill_scripts/dnsmasq-kill:ro,rprivate
""",
    ("quadlet", "full"): f"""\
[Unit]
Wants=sidespawn-spool@dhcp.service sidespawn-spool@l3.service
After=sidespawn-spool@dhcp.service sidespawn-spool@l3.service

[Container]
Volume={RUN}/spool:{RUN}/spool:rw,rprivate
Volume={RUN}/agent/dnsmasq:/usr/sbin/dnsmasq:ro,rprivate
Volume={RUN}/agent/dnsmasq-kill:/etc/neutron/kill_scripts/dnsmasq-kill:ro,rprivate
SeccompProfile=/run/sidespawn/agent-seccomp.json
SecurityLabelType=sidespawn_agent_t
SecurityLabelLevel=s0
PodmanArgs=--security-opt=apparmor=sidespawn-agent
PodmanArgs=--mount=type=image,src=localhost/agent:latest,dst={IMAGE_IN_AGENT}
""",
    ("compose", "full"): f"""\
volumes:
  - type: bind
    source: "{RUN}/spool"
    target: "{RUN}/spool"
    bind:
      propagation: rprivate
      create_host_path: false
  - type: bind
    source: "{RUN}/agent/dnsmasq"
    target: "/usr/sbin/dnsmasq"
    read_only: true
    bind:
      propagation: rprivate
      create_host_path: false
  - type: bind
    source: "{RUN}/agent/dnsmasq-kill"
    target: "/etc/neutron/kill_scripts/dnsmasq-kill"
    read_only: true
    bind:
      propagation: rprivate
      create_host_path: false
security_opt:
  - "label=level:s0"
  - "apparmor=sidespawn-agent"
  - "seccomp=/run/sidespawn/agent-seccomp.json"
  - "label=type:sidespawn_agent_t"
""",
    # Kolla-Ansible's podman worker takes only the exact word `ro` for read-only.
    ("kolla", "full"): f"""\
- "{RUN}/spool:{RUN}/spool"
- "{RUN}/agent/dnsmasq:/usr/local/lib/neutron-wrappers/dnsmasq:ro"
- "{RUN}/agent/dnsmasq-kill:/etc/neutron/kill_scripts/dnsmasq-kill:ro"
""",
}


@pytest.mark.parametrize(("syntax", "options"), EXPECTED, ids="-".join)
def test_syntax(syntax: str, options: str) -> None:
    assert syntaxes.written(FULL if options == "full" else BARE, syntax) == EXPECTED[syntax, options]


def test_what_a_syntax_cannot_say_is_a_warning() -> None:
    def said(syntax: str) -> str:
        return "\n".join(syntaxes.missing(FULL, syntax))

    assert [syntax for syntax in syntaxes.SYNTAXES if not said(syntax)] == ["podman", "quadlet"]
    assert "/usr/sbin/dnsmasq" in said("docker")
    assert ".real" in said("docker")
    assert "--security-opt=apparmor=sidespawn-agent" in said("kolla")
    assert list(syntaxes.missing(BARE, "kolla")) == []


# ---------------------------------------------------------------- several services of one agent


def targets(*names: str) -> list[str]:
    return [each.target for each in agent_options.union([preset(name) for name in names])]


def test_services_that_share_a_kill_script_mount_it_once() -> None:
    found = targets("neutron-l3-conntrackd", "neutron-l3-keepalived", "neutron-l3-radvd")
    assert len(found) == len(set(found))
    assert {"/usr/sbin/conntrackd", "/usr/sbin/keepalived", "/usr/sbin/radvd"} < set(found)
    assert "/etc/neutron/kill_scripts/default-service-kill" in found


def test_the_shared_kill_script_is_there_without_the_service_that_is_first_by_name() -> None:
    assert "/etc/neutron/kill_scripts/default-service-kill" in targets("neutron-l3-keepalived")


def test_services_with_the_same_program_are_not_of_one_agent() -> None:
    with pytest.raises(SidespawnError) as caught:
        targets("neutron-dhcp-haproxy", "neutron-l3-haproxy")
    assert caught.value.reason is Reason.USAGE
    assert "neutron-dhcp-haproxy and neutron-l3-haproxy both mount /usr/sbin/haproxy" in caught.value.message


def test_a_service_named_twice_counts_once() -> None:
    options = agent_options.options_of([preset("neutron-dhcp-dnsmasq")] * 2)
    assert options.services == ("neutron-dhcp-dnsmasq",)
    assert options.units == ("sidespawn-spool@neutron-dhcp-dnsmasq.service",)
    assert [each.program for each in options.mounts if each.program] == ["dnsmasq"]
