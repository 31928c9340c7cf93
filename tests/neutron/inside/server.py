"""The part of the Neutron server that agents ask: a few networks and ports, kept in a file.

It has the methods that the DHCP agent calls; neutron.api.rpc.handlers.dhcp_rpc has the real ones.
"""

from __future__ import annotations

import ipaddress
import json
import threading
import uuid
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Server:
    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.networks: dict[str, Json] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.lock = threading.Lock()
        self.ready: set[str] = set()

    def put(self, network: Json) -> None:
        with self.lock:
            self.networks[network["id"]] = network
            self.write()

    def put_port(self, port: Json) -> None:
        with self.lock:
            ports = self.networks[port["network_id"]]["ports"]
            ports[:] = [each for each in ports if each["id"] != port["id"]] + [port]
            self.write()

    def drop(self, network_id: str) -> None:
        with self.lock:
            del self.networks[network_id]
            self.write()

    def drop_port(self, network_id: str, port_id: str) -> None:
        with self.lock:
            ports = self.networks[network_id]["ports"]
            ports[:] = [each for each in ports if each["id"] != port_id]
            self.write()

    def write(self) -> None:
        self.path.write_text(json.dumps(self.networks))

    # ---------------------------------------------------------------- what the agent calls

    def get_active_networks_info(self, context: Any, **_: Any) -> list[Json]:
        return list(self.networks.values())

    def get_network_info(self, context: Any, network_id: str, **_: Any) -> Json | None:
        return self.networks.get(network_id)

    def get_networks(self, context: Any, **_: Any) -> list[Json]:
        return list(self.networks.values())

    def get_ports(self, context: Any, *_: Any, **__: Any) -> list[Json]:
        """Return no port: agents ask for the one of OVN's metadata agent."""
        return []

    def create_dhcp_port(self, context: Any, port: Json, **_: Any) -> Json:
        asked = port["port"]
        network = self.networks[asked["network_id"]]
        subnets = {each["id"]: ipaddress.ip_network(each["cidr"]) for each in network["subnets"]}
        number = sum(each["device_owner"] == "network:dhcp" for each in network["ports"])
        made = {
            **asked,
            "id": str(uuid.uuid4()),
            "mac_address": f"fa:16:3e:d0:{network['id'][:2]}:{number:02x}",
            "device_owner": "network:dhcp",
            "extra_dhcp_opts": [],
            "fixed_ips": [
                {"subnet_id": each["subnet_id"], "ip_address": str(subnets[each["subnet_id"]][2 + number])}
                for each in asked["fixed_ips"]
            ],
        }
        self.put_port(made)
        return made

    def update_dhcp_port(self, context: Any, port_id: str, port: Json, **_: Any) -> Json | None:
        return self.get_dhcp_port(context, port_id)

    def get_dhcp_port(self, context: Any, port_id: str, **_: Any) -> Json | None:
        ports = [port for network in self.networks.values() for port in network["ports"]]
        return next((port for port in ports if port["id"] == port_id), None)

    def release_dhcp_port(self, context: Any, network_id: str, device_id: str, **_: Any) -> None:
        for port in list(self.networks.get(network_id, {"ports": []})["ports"]):
            if port["device_id"] == device_id:
                self.drop_port(network_id, port["id"])

    def dhcp_ready_on_ports(self, context: Any, port_ids: list[str]) -> None:
        self.ready |= set(port_ids)
