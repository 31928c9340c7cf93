"""Records the calls of one Neutron release: its own drivers run with each documented option, and no program is started.

recorder.py ROOT writes one JSON object on each line, as tests/data/README.md describes. ROOT is an empty directory that
stands for /. No namespace or device is touched.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from neutron.agent import dhcp_agent, l3_agent
from neutron.agent.l3 import dvr_edge_ha_router, ha_router
from neutron.agent.linux import dhcp, external_process, ip_lib, keepalived, ra, utils
from neutron.agent.metadata import driver as metadata
from neutron.agent.ovn.metadata import driver as ovn_metadata
from neutron.common import config as common_config
from neutron.conf.agent.metadata import config as metadata_config
from neutron.conf.plugins.ml2.drivers import ovs_conf
from oslo_config import cfg
from variants import NETWORK, PORT, ROUTER, SUBNETS, VARIANTS, Variant

try:
    from neutron.agent.linux import conntrackd
except ImportError:
    conntrackd = None
try:
    from neutron.agent.linux import dibbler
except ImportError:
    dibbler = None
try:
    from neutron.agent.l2.extensions.metadata import host_metadata_proxy
except ImportError:
    host_metadata_proxy = None

Json = dict[str, Any]
STATE = "/var/lib/neutron"
ANSWERS = {"keepalived": "Keepalived v2.2.7 (01/16,2022)\n", "pgrep": "4711\n"}
GATEWAY = "fe80::f816:3eff:fe00:1"


class NotHere(Exception):
    """This release lacks the helper."""


class Notes:
    """Replaces whatever starts programs."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.manager: Any = None
        self.running: set[tuple[str, str]] = set()
        self.calls: list[Json] = []

    def started(self, command: Any, netns: str | None, env: dict[str, str] | None) -> None:
        argv = [self.plain(str(each)) for each in command if each]
        named = [each.partition("=")[2] if each.startswith("--") else each for each in argv]
        named += [f"{each}/client.conf" for each in named]  # the one of dibbler
        read = [each for each in named if each.endswith(".conf") and Path(f"{self.root}{each}").is_file()]
        files = {path: self.plain(Path(f"{self.root}{path}").read_text()) for path in read}
        self.calls.append({"argv": argv, "netns": netns, "env": env or {}, "files": files})
        self.running.add((self.manager.uuid, self.manager.service))

    def plain(self, text: str) -> str:
        return text.replace(self.root, "")

    def at(self, value: Any) -> Any:
        return f"{self.root}{value}" if isinstance(value, str) and value.startswith("/") else value

    def take(self) -> list[Json]:
        calls, self.calls, self.running = self.calls, [], set()
        return calls


def replace_what_starts_programs(notes: Notes) -> None:
    enable = external_process.ProcessManager.enable

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        notes.manager = self
        enable(self, *arguments, **named)

    def execute(self: Any, command: Any, addl_env: Any = None, **_: Any) -> str:
        notes.started(command, self._parent.namespace, addl_env)
        return ""

    def create_process(command: Any, **_: Any) -> tuple[None, Any]:
        notes.started(command, None, None)
        return None, command

    def answer(command: Any, *_: Any, **__: Any) -> Any:
        text = next((text for name, text in ANSWERS.items() if name in " ".join(map(str, command))), "")
        return (text, text) if __.get("return_stderr") else text

    manager = external_process.ProcessManager
    manager.enable = noted
    manager.active = property(lambda self: (self.uuid, self.service) in notes.running)
    manager.disable = lambda self, *_, **__: None
    ip_lib.IpNetnsCommand.execute = execute
    utils.create_process = create_process
    utils.execute = answer
    utils.delete_if_exists = lambda path, **_: Path(path).unlink(missing_ok=True)
    utils.read_if_exists = lambda path, **_: Path(path).read_text() if Path(path).exists() else ""
    ip_lib.IpAddrCommand.wait_until_address_ready = lambda *_, **__: None
    keepalived._is_keepalived_use_no_track_supported = lambda: True


class Stage:
    """A method for each helper."""

    def __init__(self) -> None:
        self.monitor = SimpleNamespace(register=lambda *_, **__: None, unregister=lambda *_, **__: None)

    def dnsmasq(
        self, subnets: tuple[str, ...] = ("v4",), segment: bool = False, mtu: int = 1450, many: int = 0
    ) -> None:
        chosen = [{**SUBNETS[each], "id": uuid_of(number)} for number, each in enumerate(subnets)]
        chosen += [
            {**SUBNETS["v4"], "id": uuid_of(number), "cidr": f"10.{number // 256}.{number % 256}.0/24"}
            for number in range(many)
        ]
        network = dhcp.NetModel({"id": NETWORK, "subnets": chosen, "ports": [], "non_local_subnets": [], "mtu": mtu})
        driver = dhcp.Dnsmasq.__new__(dhcp.Dnsmasq)
        server = SimpleNamespace(get_ports=lambda **_: [], get_dhcp_port=lambda *_: None)
        dhcp.DeviceManager = lambda *_: SimpleNamespace(
            driver=SimpleNamespace(bridged=not cfg.CONF.is_unbridged),
            plugin=server,
            get_device_id=lambda _: NETWORK,
            get_interface_name=lambda *_: "tap0065347c-35",
        )
        part = dhcp.DictModel({"segmentation_id": 7}) if segment else None
        driver.__init__(cfg.CONF, network, self.monitor, plugin=server, segment=part)
        driver.interface_name = "tap0065347c-35"
        driver.spawn_process()

    def haproxy(self, kind: str, v6: bool = False) -> None:
        driver = (ovn_metadata if kind == "ovn" else metadata).MetadataDriver
        named: Json = {"router_id": ROUTER} if kind == "l3" else {"network_id": NETWORK}
        if v6 and "bind_address_v6" not in signature(driver.spawn_monitored_metadata_proxy).parameters:
            raise NotHere
        if v6:
            named |= {"bind_address_v6": "fe80::a9fe:a9fe", "bind_interface": "tap0065347c-35"}
        namespace = {"dhcp": f"qdhcp-{NETWORK}", "ovn": f"ovnmeta-{NETWORK}", "l3": f"qrouter-{ROUTER}"}[kind]
        port = cfg.CONF.metadata_port if kind == "l3" else 80
        address = "::" if kind == "l3" else "169.254.169.254"
        driver.spawn_monitored_metadata_proxy(self.monitor, namespace, port, cfg.CONF, bind_address=address, **named)

    def ovs(self, instances: int = 2) -> None:
        if host_metadata_proxy is None:
            raise NotHere
        infos = [
            {"instance_id": uuid_of(each), "provider_ip": f"240.0.0.{each + 2}", "project_id": uuid_of(1000)}
            for each in range(instances)
        ]
        proxy = host_metadata_proxy.HostMedataHAProxyDaemonMonitor(self.monitor)
        proxy.config(infos)
        proxy.enable()

    def router(self, snat: bool = False) -> Any:
        router = {"id": ROUTER, "ha_vr_id": 7, "priority": 50, "gw_port_host": "here", "distributed": snat}
        kind = dvr_edge_ha_router.DvrEdgeHaRouter if snat else ha_router.HaRouter
        made = kind.__new__(kind)
        made.router, made.router_id, made.agent_conf = router, ROUTER, cfg.CONF
        made.ns_name = f"qrouter-{ROUTER}"
        made.driver = SimpleNamespace(DEV_NAME_LEN=14)
        made.snat_namespace = SimpleNamespace(name=f"snat-{ROUTER}")
        made.ha_port = {
            "id": PORT,
            "fixed_ips": [{"ip_address": "169.254.192.1", "prefixlen": 18, "subnet_id": PORT}],
            "subnets": [{"cidr": "169.254.192.0/18"}],
        }
        return made

    def keepalived(self, snat: bool = False, v6: bool = False) -> None:
        made = self.router(snat)
        made._init_keepalived_manager(self.monitor)
        instance = made._get_keepalived_instance()
        instance.add_vip("192.0.2.10/24", "qg-1c2d3e4f-5a", None)
        gateways = [("0.0.0.0/0", "192.0.2.1")]
        if v6:
            instance.add_vip("2001:db8::10/64", "qg-1c2d3e4f-5a", None)
            instance.add_vip("fe80::f816:3eff:fe01:2/64", "qr-2d3e4f5a-6b", "link")
            gateways.append(("::/0", GATEWAY))
        for prefix, gateway in gateways:
            route = keepalived.KeepalivedVirtualRoute(prefix, gateway, "qg-1c2d3e4f-5a")
            instance.virtual_routes.gateway_routes.append(route)
        extra = keepalived.KeepalivedVirtualRoute("10.9.0.0/16", None, "qg-1c2d3e4f-5a", scope="link")
        instance.virtual_routes.extra_subnets.append(extra)
        instance.virtual_routes.extra_routes.append(keepalived.KeepalivedVirtualRoute("10.8.0.0/16", "10.20.0.9"))
        made.keepalived_manager.spawn()

    def state_change(self, snat: bool = False) -> None:
        made = self.router(snat)
        made._init_keepalived_manager(self.monitor)
        made.spawn_state_change_monitor(self.monitor)

    def radvd(self, subnets: tuple[str, ...] = ("slaac",), mtu: int = 1500) -> None:
        chosen = [{**SUBNETS[each], "id": uuid_of(number)} for number, each in enumerate(subnets)]
        monitor = ra.DaemonMonitor(ROUTER, f"qrouter-{ROUTER}", self.monitor, lambda _: "qr-2d3e4f5a-6b", cfg.CONF)
        monitor.enable([{"id": PORT, "mtu": mtu, "subnets": chosen}])

    def conntrackd(self) -> None:
        if conntrackd is None:
            raise NotHere
        conntrackd.ConntrackdManager(
            ROUTER, self.monitor, cfg.CONF, "169.254.192.1", 7, "ha-1c2d3e4f-5a", namespace=f"qrouter-{ROUTER}"
        ).spawn()

    def dibbler(self, hint: str | None = None) -> None:
        if dibbler is None:
            raise NotHere
        client = dibbler.PDDibbler(ROUTER, NETWORK, "qr-2d3e4f5a-6b")
        client.enable(self.monitor, f"qrouter-{ROUTER}", "qg-1c2d3e4f-5a", GATEWAY, hint)


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def register() -> None:
    cfg.CONF.register_opts([cfg.BoolOpt("is_unbridged", default=False)])
    l3_agent.register_opts(cfg.CONF)
    dhcp_agent.register_options(cfg.CONF)
    cfg.CONF.register_opts(metadata_config.METADATA_PROXY_HANDLER_OPTS, "METADATA")
    if hasattr(ovs_conf, "metadata_opts"):
        cfg.CONF.register_opts(ovs_conf.metadata_opts, "METADATA")
    groups = {"metadata_rate_limiting": "METADATA_RATE_LIMITING_OPTS", "metadata_haproxy": "METADATA_HAPROXY_OPTS"}
    for group, name in groups.items():
        if hasattr(metadata_config, name):  # in newer releases
            metadata_config.register_meta_conf_opts(getattr(metadata_config, name), cfg=cfg.CONF, group=group)


def record(stage: Stage, notes: Notes, variant: Variant) -> list[Json]:
    """Return the calls, or none if the release lacks the helper or option."""
    try:
        for name, value in variant.options.items():
            group, _, option = name.rpartition(".")
            cfg.CONF.set_override(option, notes.at(value), group or None)
        getattr(stage, variant.helper)(**variant.how)
    except (cfg.NoSuchOptError, cfg.NoSuchGroupError, NotHere):
        return []
    finally:
        for name in variant.options:
            group, _, option = name.rpartition(".")
            with suppress(cfg.NoSuchOptError, cfg.NoSuchGroupError):
                cfg.CONF.clear_override(option, group or None)
        cfg.CONF.set_override("state_path", notes.at(STATE))
    return [{"helper": variant.preset, "option": variant.option, **call} for call in notes.take()]


def main() -> None:
    notes = Notes(sys.argv.pop(1))
    register()
    common_config.register_common_config_options()
    cfg.CONF([], project="neutron", default_config_files=[])
    cfg.CONF.set_override("state_path", notes.at(STATE))
    cfg.CONF.set_override("check_child_processes_interval", 0, "AGENT")
    replace_what_starts_programs(notes)
    stage = Stage()
    for variant in VARIANTS:
        calls = record(stage, notes, variant)
        notes.take()
        for call in calls:
            print(json.dumps(call | {"files": call["files"] | variant.files}))


if __name__ == "__main__":
    main()
