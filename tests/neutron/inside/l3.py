"""The real neutron-l3-agent, and in the same process the server that it asks, since the transport fake:// is local.

    l3.py --config-file FILE

The release's own main runs. When it initialises itself in its worker process, a server is started there. A test outside
tells this server which routers exist, and it notifies the agent like Neutron's server.
"""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path
from typing import Any

import lines

# First of all: in old releases it patches the standard library for all later imports.
try:
    from neutron.cmd.agents.l3 import main as agents_main
except ImportError:
    from neutron.cmd.eventlet.agents.l3 import main as agents_main
import oslo_messaging
from neutron.agent.l3 import agent
from neutron_lib import constants, context
from neutron_lib import rpc as neutron_rpc
from neutron_lib.agent import topics
from oslo_config import cfg

Json = dict[str, Any]


class Plugin:
    """The server's methods for the agent; neutron.api.rpc.handlers.l3_rpc has the real ones."""

    target = oslo_messaging.Target(version="1.99")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.routers: dict[str, Json] = json.loads(path.read_text()) if path.exists() else {}
        self.states: list[tuple[str, str]] = []

    def write(self) -> None:
        self.path.write_text(json.dumps(self.routers))

    def get_host_ha_router_count(self, context: Any, **_: Any) -> int:
        return len(self.routers)

    def get_router_ids(self, context: Any, **_: Any) -> list[str]:
        return list(self.routers)

    def sync_routers(self, context: Any, router_ids: list[str] | None = None, **_: Any) -> list[Json]:
        return [router for router in self.routers.values() if not router_ids or router["id"] in router_ids]

    def get_service_plugin_list(self, context: Any, **_: Any) -> list[str]:
        return []

    def get_networks(self, context: Any, **_: Any) -> list[Json]:
        return []

    def update_all_ha_network_port_statuses(self, context: Any, **_: Any) -> None:
        pass

    def update_floatingip_statuses(self, context: Any, **_: Any) -> None:
        pass

    def update_ha_routers_states(self, context: Any, states: dict[str, str], **_: Any) -> None:
        self.states += states.items()


class Reports:
    target = oslo_messaging.Target(namespace=constants.RPC_NAMESPACE_STATE, version="1.99")

    def report_state(self, context: Any, **_: Any) -> None:
        pass


class Control:
    """The verbs: an operator's changes through Neutron's API, and the notification that follows."""

    def __init__(self) -> None:
        self.server = Plugin(Path(cfg.CONF.state_path, "routers.json"))
        self.connection = neutron_rpc.Connection()
        self.connection.create_consumer(topics.L3PLUGIN, [self.server], fanout=False)
        self.connection.create_consumer(topics.REPORTS, [Reports()], fanout=False)
        self.connection.consume_in_threads()

    def notify(self, method: str, **payload: Any) -> None:
        client = neutron_rpc.get_client(oslo_messaging.Target(topic=topics.L3_AGENT, version="1.0"))
        client.prepare(server=cfg.CONF.host).cast(context.get_admin_context(), method, **payload)

    def put_router(self, router: Json) -> None:
        self.server.routers[router["id"]] = router
        self.server.write()
        self.notify("routers_updated", routers=[router["id"]])

    def delete_router(self, router_id: str) -> None:
        del self.server.routers[router_id]
        self.server.write()
        self.notify("router_deleted", router_id=router_id)

    def states(self) -> list[tuple[str, str]]:
        """Return all states that the agent has reported, in order: router and `active` or `standby`."""
        return self.server.states


def main() -> None:
    made = agent.L3NATAgentWithStateReport
    name = "init_host" if "init_host" in vars(made) else "__init__"  # which asks the server in old releases
    own = getattr(made, name)

    @functools.wraps(own)
    def initialise(self: Any, *arguments: Any, **named: Any) -> None:
        control = Control()
        verbs = {name: getattr(control, name) for name in dir(control) if not name.startswith("_")}
        threading.Thread(target=lines.answer, args=(verbs,), daemon=True).start()
        own(self, *arguments, **named)

    setattr(made, name, initialise)
    agents_main()


if __name__ == "__main__":
    main()
