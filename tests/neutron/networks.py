"""Networks, subnets and ports as the Neutron server describes them to its DHCP agent."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

Json = dict[str, Any]
MACS = ("fa:16:3e:00:00:01", "fa:16:3e:00:00:02")


def subnet(cidr: str, **differently: Any) -> Json:
    network = ipaddress.ip_network(cidr)
    return {
        "id": str(uuid.uuid4()),
        "cidr": cidr,
        "ip_version": network.version,
        "enable_dhcp": True,
        "gateway_ip": str(network[1]),
        "dns_nameservers": [],
        "host_routes": [],
        "subnetpool_id": None,
        "segment_id": None,
        "ipv6_ra_mode": "dhcpv6-stateful" if network.version == 6 else None,
        "ipv6_address_mode": "dhcpv6-stateful" if network.version == 6 else None,
        **differently,
    }


def network(*subnets: Json, **differently: Any) -> Json:
    return {
        "id": str(uuid.uuid4()),
        "project_id": str(uuid.uuid4()),
        "mtu": 1450,
        "admin_state_up": True,
        "subnets": list(subnets),
        "non_local_subnets": [],
        "ports": [],
        **differently,
    }


def add_port(network: Json, mac: str, number: int) -> Json:
    """Add a machine's port, which has the address with that number in each subnet."""
    port = {
        "id": str(uuid.uuid4()),
        "network_id": network["id"],
        "mac_address": mac,
        "device_id": str(uuid.uuid4()),
        "device_owner": "compute:nova",
        "admin_state_up": True,
        "extra_dhcp_opts": [],
        "fixed_ips": [
            {"subnet_id": each["id"], "ip_address": str(ipaddress.ip_network(each["cidr"])[number])}
            for each in network["subnets"]
        ],
    }
    network["ports"].append(port)
    return port
