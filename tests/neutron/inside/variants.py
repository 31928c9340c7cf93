"""The documented Neutron options that affect a helper's arguments or file, and whatever else does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NETWORK = "0065347c-3513-59a1-aef3-65d693fe6e19"
ROUTER = "6a7b9c1e-2f30-4d5e-8a61-1c2d3e4f5a6b"
PORT = "1c2d3e4f-5a6b-4c7d-8e9f-0a1b2c3d4e5f"
V4 = {"cidr": "10.20.0.0/24", "ip_version": 4, "enable_dhcp": True, "gateway_ip": "10.20.0.1", "dns_nameservers": []}
V4 |= {"host_routes": [], "ipv6_ra_mode": None, "ipv6_address_mode": None, "subnetpool_id": None}
V6 = V4 | {"cidr": "2001:db8:1::/64", "ip_version": 6, "gateway_ip": "2001:db8:1::1"}


def modes(mode: str) -> dict[str, Any]:
    return V6 | {"ipv6_ra_mode": mode, "ipv6_address_mode": mode}


SUBNETS: dict[str, dict[str, Any]] = {
    "v4": V4,
    "stateful": modes("dhcpv6-stateful"),
    "stateless": modes("dhcpv6-stateless"),
    "slaac": modes("slaac"),
    "dns": modes("slaac") | {"dns_nameservers": ["2001:db8::53", "2001:db8::54"]},
}
EXTRA = "# what this deployment adds\ndhcp-option=option:ntp-server,192.0.2.1,192.0.2.2\nlog-async=20\n"


@dataclass(frozen=True, kw_only=True)
class Variant:
    preset: str
    helper: str  # method of recorder.Stage
    option: str  # name in the table
    options: dict[str, Any] = field(default_factory=dict)  # option in neutron.conf; GROUP.NAME if it is in a group
    how: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # written by the operator, not by Neutron


def dnsmasq(option: str, value: Any = None, files: dict[str, str] | None = None, **how: Any) -> Variant:
    options = {} if value is None else {option.partition(" ")[0]: value}
    return Variant(
        preset="neutron-dhcp-dnsmasq", helper="dnsmasq", option=option, options=options, how=how, files=files or {}
    )


def of_router(preset: str, helper: str, option: str, value: Any = None, **how: Any) -> Variant:
    options = {} if value is None else {option.partition(" ")[0]: value}
    return Variant(preset=f"neutron-l3-{preset}", helper=helper, option=option, options=options, how=how)


def haproxies() -> list[Variant]:
    variants = []
    limits = {"metadata_rate_limiting.rate_limit_enabled": True}
    timeouts = ("timeout_connect", "timeout_client", "timeout_server", "timeout_http_request")
    for kind, preset in (("dhcp", "dhcp"), ("l3", "l3"), ("ovn", "ovn-metadata")):
        cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "defaults": ({}, {}),
            "debug": ({"debug": True}, {}),
            "state_path": ({"state_path": "/var/lib/neutron/kolla"}, {}),
            "metadata_proxy_socket in /run/neutron": ({"metadata_proxy_socket": "/run/neutron/metadata_proxy"}, {}),
            "metadata_proxy_user, metadata_proxy_group": (
                {"metadata_proxy_user": "nobody", "metadata_proxy_group": "nogroup"},
                {},
            ),
            "rate_limit_enabled": (limits, {}),
            "rate_limit_enabled, ip_versions = 6": (limits | {"metadata_rate_limiting.ip_versions": [6]}, {}),
            "base_query_rate_limit, burst_query_rate_limit and their windows": (
                limits
                | {
                    "metadata_rate_limiting.base_window_duration": 60,
                    "metadata_rate_limiting.base_query_rate_limit": 30,
                    "metadata_rate_limiting.burst_window_duration": 5,
                    "metadata_rate_limiting.burst_query_rate_limit": 50,
                },
                {},
            ),
            "timeouts of [metadata_haproxy]": ({f"metadata_haproxy.{each}": 45 for each in timeouts}, {}),
        }
        if kind == "l3":
            cases["metadata_port"] = ({"metadata_port": 8975}, {})
        else:
            cases["metadata over IPv6"] = ({}, {"v6": True})
        for option, (options, how) in cases.items():
            variants.append(
                Variant(
                    preset=f"neutron-{preset}-haproxy",
                    helper="haproxy",
                    option=option,
                    options=options,
                    how={"kind": kind, **how},
                )
            )
    return variants


def of_metadata_path() -> list[Variant]:
    def case(option: str, value: Any = None, **how: Any) -> Variant:
        options = {} if value is None else {f"METADATA.{option}": value}
        return Variant(preset="neutron-ovs-metadata-haproxy", helper="ovs", option=option, options=options, how=how)

    return [
        case("defaults"),
        case("20 instances", instances=20),
        case("nova_metadata_host", "metadata.example.net"),
        case("nova_metadata_port", 8776),
        case("host_proxy_listen_port", 8080),
    ]


CONNTRACKD = {
    "hashsize": 65536,
    "hashlimit": 262144,
    "unix_backlog": 50,
    "socketbuffersize": 524288,
    "socketbuffersize_max_grown": 1048576,
    "ipv4_mcast_addr": "225.0.0.60",
    "group": 3781,
    "sndsocketbuffer": 1048576,
    "rcvsocketbuffer": 1048576,
}
VARIANTS: list[Variant] = [
    dnsmasq("defaults"),
    dnsmasq("DHCPv6", subnets=("v4", "stateful", "stateless")),
    dnsmasq("only SLAAC subnets", subnets=("slaac",)),
    dnsmasq("segments", segment=True),
    dnsmasq("256 subnets", subnets=(), many=256),
    dnsmasq("state_path", "/var/lib/neutron/kolla"),
    dnsmasq("dhcp_confs", "/var/lib/neutron/agents/dhcp"),
    dnsmasq("dnsmasq_config_file in the state directory", "/var/lib/neutron/extra", {"/var/lib/neutron/extra": EXTRA}),
    dnsmasq("dnsmasq_config_file in /etc/neutron", "/etc/neutron/dnsmasq.conf", {"/etc/neutron/dnsmasq.conf": EXTRA}),
    dnsmasq("dnsmasq_dns_servers", ["192.0.2.53", "2001:db8::53", "/corp.example/192.0.2.54", "192.0.2.55#5353"]),
    dnsmasq("dnsmasq_base_log_dir in /var/log/neutron", "/var/log/neutron"),
    dnsmasq("dnsmasq_base_log_dir in the state directory", "/var/lib/neutron/logs"),
    dnsmasq("dnsmasq_local_resolv", True),
    dnsmasq("dnsmasq_lease_max", 4096),
    dnsmasq("dnsmasq_enable_addr6_list", True, subnets=("v4", "stateful")),
    dnsmasq("dnsmasq_txt_record", "region.example,one two"),
    dnsmasq("dhcp_broadcast_reply", True),
    dnsmasq("dhcp_lease_duration", -1),
    dnsmasq("dhcp_renewal_time", 1800),
    dnsmasq("dhcp_rebinding_time", 3600),
    dnsmasq("dns_domain", "cloud.example."),
    Variant(
        preset="neutron-dhcp-dnsmasq",
        helper="dnsmasq",
        option="interface_driver without a bridge",
        options={"is_unbridged": True},
    ),
    *haproxies(),
    *of_metadata_path(),
    *(
        of_router(preset, helper, option, value, **how)
        for preset, helper in (
            ("keepalived", "keepalived"),
            ("keepalived-state-change", "state_change"),
        )
        for option, value, how in (
            ("defaults", None, {}),
            ("debug", True, {}),
            ("state_path", "/var/lib/neutron/kolla", {}),
            ("ha_confs_path", "/var/lib/neutron/ha", {}),
            ("agent_mode = dvr_snat", None, {"snat": True}),
        )
    ),
    of_router("keepalived", "keepalived", "IPv6", v6=True),
    of_router("keepalived", "keepalived", "ha_vrrp_auth_password", "p@s$1!"),
    of_router("keepalived", "keepalived", "ha_vrrp_auth_type", "AH"),
    of_router("keepalived", "keepalived", "ha_vrrp_advert_int", 5),
    of_router("keepalived", "keepalived", "ha_vrrp_health_check_interval", 30),
    of_router("keepalived-state-change", "state_change", "ha_conntrackd_enabled", True),
    of_router("keepalived-state-change", "state_change", "log_dir", "/var/log/neutron"),
    of_router("radvd", "radvd", "defaults"),
    of_router("radvd", "radvd", "state_path", "/var/lib/neutron/kolla"),
    of_router("radvd", "radvd", "ra_confs", "/var/lib/neutron/ra2"),
    of_router("radvd", "radvd", "DHCPv6", subnets=("stateful", "stateless")),
    of_router("radvd", "radvd", "dns_nameservers", subnets=("dns",)),
    of_router("radvd", "radvd", "radvd_user", "root"),
    of_router("radvd", "radvd", "min_rtr_adv_interval", 10),
    of_router("radvd", "radvd", "max_rtr_adv_interval", 20),
    of_router("conntrackd", "conntrackd", "defaults"),
    of_router("conntrackd", "conntrackd", "state_path", "/var/lib/neutron/kolla"),
    of_router("conntrackd", "conntrackd", "ha_confs_path", "/var/lib/neutron/ha"),
    *(of_router("conntrackd", "conntrackd", f"ha_conntrackd_{name}", value) for name, value in CONNTRACKD.items()),
    of_router("dibbler", "dibbler", "defaults"),
    of_router("dibbler", "dibbler", "pd_confs", "/var/lib/neutron/pd2"),
    of_router("dibbler", "dibbler", "vendor_pen", "4711"),
    of_router("dibbler", "dibbler", "a hint", hint="2001:db8:7::/64"),
]
