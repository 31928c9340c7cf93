"""The shipped policy for keepalived of Neutron's L3 agent."""

from __future__ import annotations

from typing import Any

import pytest

from sidespawn.core.decide import Allowed
from sidespawn.core.plan import ChildPidFile, PidFile
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, Reason
from tests.data.corpus import KEEPALIVED, Call
from tests.unit.shipped import preset, request_of
from tests.unit.small import decide, denial, start_request

POLICY = preset("neutron-l3-keepalived")
STATE = "/var/lib/neutron/"
ROUTER = "9b8960c2-97bd-52ba-8e86-d0dc491a74bf"
OTHER = "ca7db883-4f48-5a62-88f4-cc4c0a39c523"
FILE = f"ha_confs/{ROUTER}/keepalived.conf"
PID = f"ha_confs/{ROUTER}.pid.keepalived"
CALL = ("keepalived", "-P", "-f", STATE + FILE, "-p", STATE + PID, "-r", f"{STATE}{PID}-vrrp")
ADDED = (
    "--dont-fork",
    "--log-console",
    "--no-syslog",
    "--pid=/run/keepalived/keepalived.pid",
    "--vrrp_pid=/run/keepalived/vrrp.pid",
)
GLOBAL = """\
global_defs {
    notification_email_from neutron@openstack.local
    router_id neutron
}
"""
INSTANCE = """\
vrrp_instance VR_7 {
    state BACKUP
    interface ha-00465338-26
    virtual_router_id 7
    priority 50
    garp_master_delay 60
    nopreempt
    advert_int 2
    authentication {
        auth_type PASS
        auth_pass s3cret+/=
    }
    mcast_src_ip 169.254.192.1
    track_interface {
        ha-00465338-26
    }
    virtual_ipaddress {
        169.254.0.7/24 dev ha-00465338-26
    }
    virtual_ipaddress_excluded {
        10.0.0.1/24 dev qr-not-tracked no_track
        203.0.113.9/24 dev ha-00465338-26
        fe80::1/64 dev ha-00465338-26 scope link
        fe80::2/64 dev qr-not-tracked scope link no_track
    }
    virtual_routes {
        0.0.0.0/0 via 203.0.113.1 dev ha-00465338-26 no_track protocol static
        ::/0 via fe80::99 dev ha-00465338-26 protocol static
        192.0.2.0/24 via 203.0.113.2 no_track protocol static
        198.51.100.0/24 dev ha-00465338-26 scope link no_track protocol static
    }
}
"""


def asked(*argv: str, netns: str = f"qrouter-{ROUTER}", tag: str = f"keepalived-{ROUTER}") -> StartRequest:
    return start_request(argv, netns, {"PROCESS_TAG": tag})


def judged(content: str) -> Allowed:
    return decide(POLICY, asked(*CALL), {FILE: content.encode()})


def refusal(*argv: str, content: str = GLOBAL, **request: Any) -> Denied:
    return denial(POLICY, asked(*(argv or CALL), **request), {FILE: content.encode()})


# ---------------------------------------------------------------- what Neutron does


@pytest.mark.parametrize("call", KEEPALIVED, ids=str)
def test_a_recorded_call_is_allowed(call: Call) -> None:
    plan = decide(POLICY, request_of(call), call.beneath).plan
    detail = ("--log-detail",) if "-D" in call.argv else ()
    assert plan.arguments == ("--vrrp", f"--use-file={call.argv[3]}", *detail, *ADDED)
    below = str(call.pid_file).removeprefix(STATE)
    assert plan.pid_file == PidFile(beneath=below)
    assert plan.child_pid_files == (ChildPidFile(beneath=f"{below}-vrrp", inside="/run/keepalived/vrrp.pid"),)
    (file,) = plan.configuration
    (written,) = call.files.values()
    assert file.text == "".join(f"{line}\n" for line in written.splitlines() if "@" not in line)


def test_every_call_was_recorded() -> None:
    assert len(KEEPALIVED) == 9


def test_all_that_neutron_can_write_is_allowed_and_the_senders_address_left_out() -> None:
    plan = judged(GLOBAL + INSTANCE).plan
    sender = "    notification_email_from neutron@openstack.local\n"
    assert [each.text for each in plan.configuration] == [(GLOBAL + INSTANCE).replace(sender, "")]
    assert (plan.uid, plan.capabilities, plan.mounts) == (0, ("NET_ADMIN", "NET_RAW"), ())


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "option",
    [
        *(("-M",), ("--core-dump-pattern=|/tmp/x",), ("-m",), ("-b", "/x"), ("-c", "/x"), ("-A", "tcp:192.0.2.1")),
        *(("-s", "other"), ("-u", "0"), ("-i", "a"), ("-x",), ("-t",), ("--config-test=/x",), ("-g",), ("-C",)),
        *(("--log-file=/x",), ("-T",), ("--all",), ("--config-fd=3",), ("-V",), ("-I",), ("-R",), ("-d",), ("-B",)),
        *(("-S", "7"), ("-n",), ("-l",), ("-G",), ("-X",), ("-a",), ("-e",), ("--signum=STOP",), ("-h",), ("-v",)),
    ],
    ids=" ".join,
)
def test_no_other_option_is_allowed(option: tuple[str, ...]) -> None:
    assert refusal(*CALL, *option).reason is Reason.OPTION_NOT_ALLOWED


@pytest.mark.parametrize("missing", ["-P", "-f", "-p", "-r"])
def test_neutrons_options_must_be_there(missing: str) -> None:
    at = CALL.index(missing)
    left = CALL[:at] + CALL[at + (1 if missing == "-P" else 2) :]
    assert refusal(*left).reason is Reason.OPTION_MISSING


@pytest.mark.parametrize("option", ["-f", "-p", "-r"])
@pytest.mark.parametrize(
    "path",
    [
        *("/etc/shadow", "", "keepalived.conf", f"{STATE}ha_confs/../{FILE}", f"/var/lib/neutron-evil/{FILE}"),
        *(f"{STATE}ha_confs/{ROUTER}/x", f"{STATE}{PID}-checkers", f"{STATE}{PID}\n", f"{STATE}{FILE}\0"),
    ],
    ids=ascii,
)
def test_another_path_is_refused(option: str, path: str) -> None:
    at = CALL.index(option) + 1
    assert refusal(*CALL[:at], path, *CALL[at + 1 :]).reason in (Reason.VALUE_NOT_ALLOWED, Reason.OPTION_MALFORMED)


@pytest.mark.parametrize("option", ["-f", "-p", "-r"])
def test_another_routers_file_is_refused(option: str) -> None:
    at = CALL.index(option) + 1
    path = CALL[at].replace(ROUTER, OTHER)
    assert refusal(*CALL[:at], path, *CALL[at + 1 :]).reason is Reason.VALUE_CONFLICT


def test_another_routers_namespace_or_tag_is_refused() -> None:
    assert refusal(netns=f"qrouter-{OTHER}").reason is Reason.VALUE_CONFLICT
    assert refusal(tag=f"keepalived-{OTHER}").reason is Reason.VALUE_CONFLICT
    assert refusal(netns=f"qdhcp-{ROUTER}").reason is Reason.NAMESPACE_NOT_ALLOWED


# ---------------------------------------------------------------- its configuration file

# From keepalived.conf(5) of 2.2.7: what runs programs, reads or writes files, or reaches beyond the router.
AT_THE_TOP = {
    "script": "vrrp_script chk { script /tmp/x }",
    "script with blocks": "vrrp_script chk {\n    script /tmp/x\n    interval 1\n}",
    "track process": "vrrp_track_process p {\n    process x\n}",
    "track file": "vrrp_track_file f {\n    file /etc/shadow\n}",
    "old track file": "track_file f {\n    file /etc/shadow\n}",
    "sync group": "vrrp_sync_group G {\n    group {\n        VR_1\n    }\n    notify_master /tmp/x\n}",
    "static addresses": "static_ipaddress {\n    192.0.2.1/24 dev eth0\n}",
    "virtual server": "virtual_server 192.0.2.1 80 {\n    quorum_up /tmp/x\n}",
    "misc check": "virtual_server 192.0.2.1 80 {\n    real_server 192.0.2.2 80 {\n        MISC_CHECK {\n"
    "            misc_path /tmp/x\n        }\n    }\n}",
    "quorum up": "quorum_up /tmp/x",
    "quorum down": "quorum_down /tmp/x",
    "misc path": "misc_path /tmp/x",
    "BFD": "bfd_instance b {\n    neighbor_ip 192.0.2.1\n}",
    "network namespace": "net_namespace other",
    "instance": "instance other",
    "use pid directory": "use_pid_dir",
    "linkbeat by polling": "linkbeat_use_polling",
    "include": "include /etc/shadow",
    "include in a rising number": "includer /etc/shadow",
    "include that must be there": "includem /etc/shadow",
    "include that must match": "includew /etc/shadow",
    "include that must be read": "includeb /etc/shadow",
    "include check": "include_check both",
    "variable": "$SCRIPT=/tmp/x",
    "variable used": "$SCRIPT",
    "sequence": "~SEQ(i,1,9) include /etc/shadow",
    "list": "~LST(i,1,9) include /etc/shadow",
    "condition": "@main global_defs {\n}",
    "negative condition": "@^main vrrp_script x {\n}",
    "quotes": 'vrrp_instance "VR_1" {\n    state BACKUP\n}',
    "escape": "vrrp_instance VR_\\1 {\n    state BACKUP\n}",
    "a shadow file": "root:x:0:0:root:/root:/bin/bash",
    "no block": "vrrp_instance VR_1",
    "open block": "vrrp_instance VR_1 {",
    "closed twice": "global_defs {\n}\n}",
    "another name": "vrrp_instance VR_0 {\n}",
    "a number too large": "vrrp_instance VR_256 {\n}",
    "a name without a number": "vrrp_instance VR_ {\n}",
    "two names": "vrrp_instance VR_1 VR_2 {\n}",
    "upper case": "GLOBAL_DEFS {\n}",
}
IN_GLOBAL_DEFS = {
    **{name: f"{name} /tmp/x" for name in ("startup_script", "shutdown_script", "notify_fifo", "vrrp_notify_fifo")},
    **{name: f"{name} /tmp/x" for name in ("lvs_notify_fifo", "notify_fifo_script", "vrrp_notify_fifo_script")},
    **{name: f"{name} /tmp/x" for name in ("reload_file", "reload_time_file", "tmp_config_directory")},
    **{
        name: f"{name} /tmp/x" for name in ("config_save_dir", "dbus_service_name", "lvs_notify_fifo_script", "include")
    },
    **{name: name for name in ("enable_script_security", "enable_dbus", "enable_snmp_vrrp", "use_symlink_paths")},
    "startup script with a time limit": "startup_script_timeout 10",
    "script user": "script_user root",
    "script user and group": "script_user root root",
    "process names": "process_names",
    "network namespace": "net_namespace other",
    "IPVS's namespace": "net_namespace_ipvs other",
    "umask": "umask 0",
    "mail server": "smtp_server 192.0.2.1",
    "addressees": "notification_email {\n        root@example.org\n    }",
    "SNMP socket": "snmp_socket tcp:192.0.2.1",
    "real time": "vrrp_rt_priority 99",
    "firewall": "vrrp_iptables in out",
    "nftables": "nftables keepalived",
    "router_id without a value": "router_id",
    "router_id in quotes": 'router_id "neutron"',
    "router_id with @": "router_id neutron@x",
    "sender with a leading @": "notification_email_from @x",
    "sender with a quote": "notification_email_from 'x",
    "a block": "router_id neutron {\n    }",
}
IN_AN_INSTANCE = {
    **{name: f"{name} /tmp/x" for name in ("notify", "notify_master", "notify_backup", "notify_fault", "notify_stop")},
    **{name: f"{name} /tmp/x" for name in ("notify_deleted", "notify_master_rx_lower_pri", "include", "includer")},
    "notify with a user": "notify_master /tmp/x root",
    "track script": "track_script {\n        chk\n    }",
    "track file": "track_file {\n        f\n    }",
    "track process": "track_process {\n        p\n    }",
    "track BFD": "track_bfd {\n        b\n    }",
    "virtual rules": "virtual_rules {\n        from 192.0.2.1 table 1\n    }",
    "mail": "smtp_alert",
    "virtual MAC": "use_vmac",
    "unicast": "unicast_peer {\n        192.0.2.1\n    }",
    "VRRPv3": "version 3",
    "another state": "state FAULT",
    "priority of an owner": "priority 255",
    "priority of nobody": "priority 0",
    "priority with a sign": "priority -1",
    "priority with a zero": "priority 050",
    "virtual router 0": "virtual_router_id 0",
    "virtual router 256": "virtual_router_id 256",
    "nopreempt with a value": "nopreempt on",
    "advert_int without a value": "advert_int",
    "advert_int as a fraction": "advert_int 0.01",
    "interface that is a path": "interface ../x",
    "interface too long": "interface abcdefghijklmnop",
    "interface with @": "interface eth0@x",
    "two interfaces": "interface a b",
    "authentication of another type": "authentication {\n        auth_type NONE\n    }",
    "password in quotes": 'authentication {\n        auth_pass "x"\n    }',
    "password from a variable": "authentication {\n        auth_pass ${X}\n    }",
    "weight": "track_interface {\n        ha-1 weight 5\n    }",
    "address without a device": "virtual_ipaddress {\n        192.0.2.1/24\n    }",
    "address without a prefix": "virtual_ipaddress {\n        192.0.2.1 dev a\n    }",
    "address with a label": "virtual_ipaddress {\n        192.0.2.1/24 dev a label a:1\n    }",
    "address with a scope of another kind": "virtual_ipaddress {\n        192.0.2.1/24 dev a scope host\n    }",
    "include among addresses": "virtual_ipaddress {\n        include /etc/shadow\n    }",
    "excluded address with more": "virtual_ipaddress_excluded {\n        192.0.2.1/24 dev a peer 192.0.2.2\n    }",
    "route into another table": "virtual_routes {\n        192.0.2.0/24 via 192.0.2.1 table 1\n    }",
    "route of another protocol": "virtual_routes {\n        192.0.2.0/24 dev a protocol kernel\n    }",
    "black hole": "virtual_routes {\n        blackhole 192.0.2.0/24\n    }",
    "route without a next hop": "virtual_routes {\n        192.0.2.0/24 protocol static\n    }",
    "block in a block": "virtual_routes {\n        192.0.2.0/24 dev a protocol static {\n        }\n    }",
    "comment within": "priority ! 50",
    "carriage return": "priority 50\rnotify_master /tmp/x",
    "NUL": "priority 50\0",
    "not ASCII": "interface ha-ü",
}


@pytest.mark.parametrize("text", AT_THE_TOP.values(), ids=AT_THE_TOP.keys())
def test_nothing_else_may_stand_at_the_top(text: str) -> None:
    assert refusal(content=f"{GLOBAL}{text}\n{INSTANCE}").reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize("text", IN_GLOBAL_DEFS.values(), ids=IN_GLOBAL_DEFS.keys())
def test_nothing_else_may_stand_in_global_defs(text: str) -> None:
    content = GLOBAL.replace("}\n", f"    {text}\n}}\n")
    assert refusal(content=content + INSTANCE).reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize("text", IN_AN_INSTANCE.values(), ids=IN_AN_INSTANCE.keys())
def test_nothing_else_may_stand_in_an_instance(text: str) -> None:
    content = INSTANCE.replace("    nopreempt\n", f"    {text}\n")
    assert refusal(content=GLOBAL + content).reason is Reason.CONFIGURATION_NOT_ALLOWED


@pytest.mark.parametrize("text", ["notify_master /tmp/x", "script_user root", "interface ha-1", "169.254.0.1/24 dev a"])
def test_a_directive_of_one_block_may_not_stand_in_another(text: str) -> None:
    content = GLOBAL + INSTANCE.replace("        ha-00465338-26\n", f"        {text}\n", 1)
    assert refusal(content=content).reason is Reason.CONFIGURATION_NOT_ALLOWED
