"""Highly available routers as the Neutron server describes them to its L3 agent."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

Json = dict[str, Any]


def port(owner: str, *addresses: str, network_id: str = "", **differently: Any) -> Json:
    """Return a router's port with an address in each subnet; the first address is the gateway's."""
    subnets, fixed_ips = [], []
    for address in addresses:
        interface = ipaddress.ip_interface(address)
        subnet: Json = {
            "id": str(uuid.uuid4()),
            "cidr": str(interface.network),
            "gateway_ip": str(interface.network[1]),
            "dns_nameservers": [],
            "subnetpool_id": None,
            "ipv6_ra_mode": "slaac" if interface.version == 6 else None,
        }
        subnets.append(subnet)
        prefix = interface.network.prefixlen
        fixed_ips.append({"subnet_id": subnet["id"], "ip_address": str(interface.ip), "prefixlen": prefix})
    number = uuid.uuid4().hex
    return {
        "id": str(uuid.uuid4()),
        "network_id": network_id or str(uuid.uuid4()),
        "mac_address": f"fa:16:3e:{number[:2]}:{number[2:4]}:{number[4:6]}",
        "mtu": 1450,
        "device_owner": owner,
        "admin_state_up": True,
        "status": "ACTIVE",
        "subnets": subnets,
        "extra_subnets": [],
        "fixed_ips": fixed_ips,
        "address_scopes": {"4": None, "6": None},
        **differently,
    }


def router(*interfaces: Json, ha_vr_id: int = 7) -> Json:
    """Return a router with a gateway, and a separate network for VRRP."""
    gateway = port("network:router_gateway", "203.0.113.10/24")
    return {
        "id": str(uuid.uuid4()),
        "name": "router",
        "project_id": str(uuid.uuid4()),
        "admin_state_up": True,
        "status": "ACTIVE",
        "distributed": False,
        "ha": True,
        "ha_vr_id": ha_vr_id,
        "priority": 50,
        "enable_snat": True,
        "routes": [],
        "external_gateway_info": {"network_id": gateway["network_id"]},
        "gw_port_id": gateway["id"],
        "gw_port": gateway,
        "_interfaces": list(interfaces),
        "_floatingips": [],
        "_ha_interface": port("network:router_ha_interface", "169.254.192.10/18"),
        "_ha_state": "standby",
    }


def interface(*addresses: str) -> Json:
    return port("network:ha_router_replicated_interface", *addresses)
