"""Neutron's drivers for its helpers, as its agents use them: started, changed and stopped by a test outside.

drivers.py dhcp|l3|ovn --config-file FILE
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lines
from neutron.agent import dhcp_agent, l3_agent
from neutron.agent.common.utils import load_interface_driver
from neutron.agent.l3 import ha_router
from neutron.agent.linux import conntrackd, dhcp, external_process, ip_lib, keepalived, ra
from neutron.agent.metadata import driver as metadata
from neutron.agent.ovn.metadata import driver as ovn_metadata
from neutron.common import config as common_config
from neutron.conf.agent import common as agent_config
from neutron.conf.agent.metadata import config as metadata_config
from oslo_config import cfg
from server import Server

Json = dict[str, Any]
REGISTER = {"dhcp": dhcp_agent.register_options, "l3": l3_agent.register_opts, "ovn": l3_agent.register_opts}


class Plugin:
    """The server, as if called over RPC: without context, and with dictionaries turned into Neutron's models."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            result = getattr(self.server, name)(None, *arguments, **named)
            return dhcp.DictModel(result) if isinstance(result, dict) else result

        return call


class Dnsmasq:
    def __init__(self, monitor: external_process.ProcessMonitor) -> None:
        self.monitor = monitor
        self.server = Server(f"{cfg.CONF.state_path}/networks.json")

    def driver(self, network: Json, segment: Json | None = None) -> dhcp.Dnsmasq:
        model = dhcp.NetModel(network)
        plugin = Plugin(self.server)
        return dhcp.Dnsmasq(cfg.CONF, model, self.monitor, plugin=plugin, segment=segment and dhcp.DictModel(segment))

    def start(self, network: Json, segment: Json | None = None) -> None:
        if network["id"] not in self.server.networks:
            self.server.put(network)
        self.driver(self.server.networks[network["id"]], segment).enable()

    def change(self, network: Json, segment: Json | None = None) -> None:
        ports = [
            port for port in self.server.networks[network["id"]]["ports"] if port["device_owner"] == "network:dhcp"
        ]
        self.server.put({**network, "ports": network["ports"] + ports})
        self.driver(self.server.networks[network["id"]], segment).reload_allocations()

    def stop(self, network: Json, segment: Json | None = None) -> None:
        self.driver(self.server.networks[network["id"]], segment).disable()

    def manager(self, network: Json, segment: Json | None = None) -> Any:
        return self.driver(network, segment)._get_process_manager()


class Metadata:
    """haproxy in the agent `kind`."""

    def __init__(self, monitor: external_process.ProcessMonitor, kind: str) -> None:
        self.monitor = monitor
        self.driver = (ovn_metadata if kind == "ovn" else metadata).MetadataDriver
        self.is_router = kind == "l3"
        self.port = 9697 if self.is_router else 80
        self.address = "::" if self.is_router else "169.254.169.254"

    def start(self, owner: str, netns: str, timeout: int = 30) -> None:
        cfg.CONF.set_override("timeout_connect", timeout, "metadata_haproxy")
        self.driver.spawn_monitored_metadata_proxy(
            self.monitor,
            netns,
            self.port,
            cfg.CONF,
            bind_address=self.address,
            **({"router_id": owner} if self.is_router else {"network_id": owner}),
        )

    change = start

    def stop(self, owner: str, netns: str, timeout: int = 30) -> None:
        self.driver.destroy_monitored_metadata_proxy(self.monitor, owner, cfg.CONF, netns)

    def manager(self, owner: str, netns: str, timeout: int = 30) -> Any:
        return self.driver._get_metadata_proxy_process_manager(owner, cfg.CONF, ns_name=netns)


class Keepalived:
    def __init__(self, monitor: external_process.ProcessMonitor) -> None:
        self.monitor = monitor

    def driver(self, owner: str, netns: str, interface: str, addresses: list[str]) -> keepalived.KeepalivedManager:
        instance = keepalived.KeepalivedInstance(
            "BACKUP", interface, 7, ["169.254.192.0/18"], nopreempt=True, advert_int=1, priority=50
        )
        instance.track_interfaces.append(interface)
        for address in addresses:
            instance.add_vip(address, interface, None)
        configuration = keepalived.KeepalivedConf()
        configuration.add_instance(instance)
        confs = cfg.CONF.ha_confs_path
        return keepalived.KeepalivedManager(owner, configuration, self.monitor, conf_path=confs, namespace=netns)

    def start(self, **router: Any) -> None:
        self.driver(**router).spawn()

    change = start

    def stop(self, **router: Any) -> None:
        self.driver(**router).disable()

    def manager(self, **router: Any) -> Any:
        return self.driver(**router).get_process()

    def check(self, **router: Any) -> bool:
        """Return keepalived and its vrrp process."""
        return bool(self.driver(**router).check_processes())


class Radvd:
    def __init__(self, monitor: external_process.ProcessMonitor) -> None:
        self.monitor = monitor

    def driver(self, owner: str, netns: str, interface: str) -> ra.DaemonMonitor:
        return ra.DaemonMonitor(owner, netns, self.monitor, lambda _: interface, cfg.CONF)

    def start(self, owner: str, netns: str, interface: str, prefixes: list[str]) -> None:
        subnets = [{"cidr": prefix, "ipv6_ra_mode": "slaac", "dns_nameservers": []} for prefix in prefixes]
        self.driver(owner, netns, interface).enable([{"id": owner, "mtu": 1500, "subnets": subnets}])

    change = start

    def stop(self, owner: str, netns: str, interface: str, prefixes: list[str]) -> None:
        self.driver(owner, netns, interface).disable()

    def manager(self, owner: str, netns: str, interface: str, prefixes: list[str]) -> Any:
        return self.driver(owner, netns, interface)._get_radvd_process_manager()


class Conntrackd:
    def __init__(self, monitor: external_process.ProcessMonitor) -> None:
        self.monitor = monitor

    def driver(self, owner: str, netns: str, interface: str) -> conntrackd.ConntrackdManager:
        return conntrackd.ConntrackdManager(
            owner, self.monitor, cfg.CONF, "169.254.192.1", 7, interface, namespace=netns
        )

    def start(self, **router: Any) -> None:
        self.driver(**router).spawn()

    def stop(self, **router: Any) -> None:
        self.driver(**router).disable()

    change = start

    def manager(self, **router: Any) -> Any:
        return self.driver(**router).get_process()


class StateChange:
    def __init__(self, monitor: external_process.ProcessMonitor) -> None:
        self.monitor = monitor

    def driver(self, owner: str, netns: str) -> ha_router.HaRouter:
        router = {"id": owner, "ha_vr_id": 7, "priority": 50}
        made = ha_router.HaRouter(None, owner, router, cfg.CONF, load_interface_driver(cfg.CONF))
        made.ha_port = {"id": owner, "fixed_ips": [{"ip_address": "169.254.192.1", "prefixlen": 18}]}
        made._init_keepalived_manager(self.monitor)
        return made

    def start(self, **router: Any) -> None:
        self.driver(**router).spawn_state_change_monitor(self.monitor)

    change = start

    def stop(self, **router: Any) -> None:
        self.driver(**router).destroy_state_change_monitor(self.monitor)

    def manager(self, **router: Any) -> Any:
        return self.driver(**router)._get_state_change_monitor_process_manager()


class Stage:
    """The verbs. `helper` is one of the names below, and `of` says which one, as its class expects it."""

    def __init__(self, kind: str) -> None:
        self.monitor = external_process.ProcessMonitor(cfg.CONF, kind)
        self.helpers: dict[str, Any] = {"haproxy": Metadata(self.monitor, kind)}
        if kind == "dhcp":
            self.helpers["dnsmasq"] = Dnsmasq(self.monitor)
        if kind == "l3":
            self.helpers["keepalived"] = Keepalived(self.monitor)
            self.helpers["radvd"] = Radvd(self.monitor)
            self.helpers["conntrackd"] = Conntrackd(self.monitor)
            self.helpers["neutron-keepalived-state-change"] = StateChange(self.monitor)

    def do(self, helper: str, action: str, of: Json) -> Any:
        return getattr(self.helpers[helper], action)(**of)

    def status(self, helper: str, of: Json) -> Json:
        manager = self.helpers[helper].manager(**of)
        return {"active": manager.active, "pid": manager.pid, "manager": type(manager).__module__}

    def start_many(self, networks: list[Json], threads: int) -> list[Json]:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda network: self.do("dnsmasq", "start", {"network": network}), networks))
        return [self.status("dnsmasq", {"network": network}) for network in networks]

    def stop_many(self, networks: list[Json], threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda network: self.do("dnsmasq", "stop", {"network": network}), networks))

    def check_children(self) -> None:
        """Do what ProcessMonitor does every check_child_processes_interval."""
        self.monitor._check_child_processes()

    def make_namespace(self, name: str) -> None:
        ip_lib.IPWrapper().ensure_namespace(name)


def main() -> None:
    kind = sys.argv.pop(1)
    REGISTER[kind](cfg.CONF)
    if kind == "dhcp":
        # What the agent has registered itself before it starts a metadata proxy.
        groups = {
            metadata_config.RATE_LIMITING_GROUP: metadata_config.METADATA_RATE_LIMITING_OPTS,
            metadata_config.HAPROXY_GROUP: metadata_config.METADATA_HAPROXY_OPTS,
        }
        for group, options in groups.items():
            metadata_config.register_meta_conf_opts(options, cfg=cfg.CONF, group=group)
    common_config.init(sys.argv[1:])
    agent_config.setup_logging()
    agent_config.setup_privsep()
    stage = Stage(kind)
    lines.answer({name: getattr(stage, name) for name in dir(stage) if not name.startswith("_")})


if __name__ == "__main__":
    main()
