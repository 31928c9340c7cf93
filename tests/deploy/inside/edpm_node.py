"""A data plane node whose agent real Neutron is, on a host that runs one command after another:

    python -m tests.deploy.inside.edpm_node prepare|serve NAME

`prepare` writes the unit as EDPM does, starts nothing, and prints where the agent's state is. `serve` gives the agent,
which runs by then, a network, and prints as JSON what its client gets and what the engine says of the agent. All of it
stays.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

from tests.deploy.edpm import CONTAINER, IMAGE, Node
from tests.deploy.neutron import DHCP, PATIENCE, Daemon
from tests.lab.networks import command, wait_until
from tests.neutron import networks
from tests.neutron.helpers import connect, lan


def serve(node: Node) -> dict[str, object]:
    daemon = Daemon(DHCP, node.state, node.trouble)
    network = networks.network(networks.subnet("10.20.0.0/24"))
    port = networks.add_port(network, networks.MACS[0], 10)
    with ExitStack() as around:
        around.callback(daemon.close)
        daemon.connect()
        made = around.enter_context(lan(daemon, network["id"]))  # type: ignore[arg-type]  # of an agent only its state
        daemon.ask("create_network", network=network)
        wait_until(lambda: port["id"] in daemon.ask("ready"), PATIENCE)
        connect(made)
        lease = made.clients[0].ask(5)
        held = node.inspect()
        return {
            "address": lease.address if lease else "",
            "helpers": sorted(daemon.services["dnsmasq"].containers(every=False)),
            "network": network["id"],
            "privileged": held["HostConfig"]["Privileged"],
            "capabilities": held["EffectiveCaps"],
            "sources": [each["Source"] for each in held["Mounts"]],
            "starts": command("systemctl", "cat", node.service).stdout.partition("ExecStart=")[2],
            "unit": command("systemctl", "show", "--property=FragmentPath,ActiveState", node.service).stdout,
            "container": CONTAINER,
            "image": IMAGE,
        }


def main() -> None:
    _, verb, name = sys.argv
    node = Node(name)
    if verb == "prepare":
        node.prepare()
        print(node.state)
    else:
        try:
            print(json.dumps(serve(node)))
        except AssertionError as failed:
            failed.add_note(node.trouble())
            raise


if __name__ == "__main__":
    main()
