"""Monitor mode with a real journal: what it allowed is learned, pasted into the policy, and then allowed by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.lab.networks import SIDESPAWN, Network, Service, command

REJECTED = 77
DANGER = "--dhcp-script=/bin/true"


def write_policy(service: Service, mode: str, options: str) -> None:
    service.wait_until_idle()
    parameters = f'[parameters]\nstate_on_host = "{service.state}"\n'
    service.places.policy.write_text(f'extends = "neutron-dhcp-dnsmasq"\nmode = "{mode}"\n\n{parameters}\n{options}')


def more(network: Network) -> list[str]:
    """Return options that the preset does not know."""
    return ["--dhcp-reply-delay=3", "--log-debug", f"--cname=a-{network.id}.example,b"]


def learn(service: Service) -> dict[str, Any]:
    lessons = json.loads(command(*SIDESPAWN, "learn", service.name, "--json").stdout)
    return {each["option"]: each for each in lessons}


def test_what_monitor_mode_let_pass_is_learned_and_then_allowed(service: Service) -> None:
    network = service.network()
    options = [*network.options(), *more(network)]
    write_policy(service, "monitor", "[options]\ndomain = false\n")
    assert "mode is monitor" in command(*SIDESPAWN, "check", service.name).stdout
    assert network.start(*options, DANGER).returncode == 0
    assert {*more(network), DANGER} <= set(Path(f"/proc/{network.pid}/cmdline").read_text().split("\0"))
    assert "mode is monitor" in command(*SIDESPAWN, "ps", service.name).stdout
    (row,) = json.loads(command(*SIDESPAWN, "ps", service.name, "--json").stdout)
    assert row["mode"] == "monitor"

    noted = service.journal(event="monitored")
    names = ["domain", "dhcp-reply-delay", "log-debug", "cname", "dhcp-script"]
    assert [each["SIDESPAWN_OPTION"] for each in noted] == names
    assert {each["SIDESPAWN_REASON"] for each in noted} == {"option-not-allowed"}
    assert all(".toml:" in each["SIDESPAWN_RULE"] for each in noted)

    explained = command(
        *SIDESPAWN, "explain", service.name, "--netns", network.netns, "--json", "--", "dnsmasq", *options, check=False
    )
    tolerated = json.loads(explained.stdout)["only_in_monitor_mode"]
    assert [each["reason"] for each in tolerated] == ["option-not-allowed"] * 4

    learned = command(*SIDESPAWN, "learn", service.name).stdout
    assert f"# DANGER: it runs a program at every change of a lease\n# {DANGER[2:13]} = " in learned
    lessons = learn(service)
    assert lessons["cname"]["line"] == 'cname = "a-{network}.example,b"'

    write_policy(service, "enforce", learned)
    assert network.start(*options, DANGER).returncode == REJECTED
    assert network.start(*options).returncode == 0
    assert "mode is monitor" not in command(*SIDESPAWN, "ps", service.name).stdout
    assert list(learn(service)) == ["dhcp-script"]
