"""The real neutron-dhcp-agent, and in the same process the server that it asks, since the transport fake:// is local.

    daemon.py --config-file FILE

The agent's own main runs. When it initialises itself in its worker process, a server is started there. A test outside
tells this server which networks and ports exist, and it notifies the agent like Neutron's server.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import lines
import oslo_messaging
from neutron.agent import dhcp_agent
from neutron.agent.dhcp import agent
from neutron_lib import constants, context
from neutron_lib import rpc as neutron_rpc
from neutron_lib.agent import topics
from oslo_config import cfg
from server import Json, Server


class Plugin(Server):
    target = oslo_messaging.Target(namespace=constants.RPC_NAMESPACE_DHCP_PLUGIN, version="1.99")


class Reports:
    target = oslo_messaging.Target(namespace=constants.RPC_NAMESPACE_STATE, version="1.99")

    def report_state(self, context: Any, **_: Any) -> None:
        pass


class Control:
    """The verbs: an operator's changes through Neutron's API, and the notification that follows."""

    def __init__(self) -> None:
        self.server = Plugin(f"{cfg.CONF.state_path}/networks.json")
        self.connection = neutron_rpc.Connection()
        self.connection.create_consumer(topics.PLUGIN, [self.server], fanout=False)
        self.connection.create_consumer(topics.REPORTS, [Reports()], fanout=False)
        self.connection.consume_in_threads()

    def notify(self, method: str, **payload: Any) -> None:
        client = neutron_rpc.get_client(oslo_messaging.Target(topic=topics.DHCP_AGENT, version="1.0"))
        client.prepare(server=cfg.CONF.host).cast(context.get_admin_context(), method, payload=payload)

    def create_network(self, network: Json) -> None:
        self.server.put(network)
        self.notify("network_create_end", network={"id": network["id"]})

    def delete_network(self, network_id: str) -> None:
        self.server.drop(network_id)
        self.notify("network_delete_end", network_id=network_id)

    def create_port(self, port: Json) -> None:
        self.server.put_port(port)
        self.notify("port_create_end", port=port)

    def delete_port(self, port: Json) -> None:
        self.server.drop_port(port["network_id"], port["id"])
        self.notify("port_delete_end", port_id=port["id"], network_id=port["network_id"])

    def ready(self) -> list[str]:
        """Return the ports that the agent reported as ready."""
        return sorted(self.server.ready)

    def networks(self) -> dict[str, Json]:
        return self.server.networks


def main() -> None:
    own = agent.DhcpAgentWithStateReport.init_host

    @functools.wraps(own)
    def init_host(self: Any) -> None:
        control = Control()
        verbs = {name: getattr(control, name) for name in dir(control) if not name.startswith("_")}
        threading.Thread(target=lines.answer, args=(verbs,), daemon=True).start()
        own(self)

    agent.DhcpAgentWithStateReport.init_host = init_host
    dhcp_agent.main()


if __name__ == "__main__":
    main()
