"""`sidespawn doctor` tells what AppArmor and SELinux have denied."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sidespawn.errors import Reason, SidespawnError
from sidespawn.host_report.findings import State
from sidespawn.service_report import journal
from sidespawn.service_report.diagnosis import denials
from sidespawn.service_report.diagnosis.ailments import Ailment
from sidespawn.setup import hardening
from sidespawn.setup.services import Service
from tests.unit.shipped import preset

PROGRAMS = {"dnsmasq": ["neutron-dhcp-dnsmasq"], "haproxy": ["a", "b"]}
OF_PROFILE = (
    'audit: type=1400 audit(1700000000.123:45): apparmor="DENIED" operation="open" class="file"'
    ' profile="sidespawn-side-container" name="/proc/sys/kernel/x" pid=7 comm="dnsmasq" requested_mask="w"'
    ' denied_mask="w" fsuid=0 ouid=0'
)
OF_TYPE = (
    'audit: type=1400 audit(1700000000.123:46): avc:  denied  { read write } for  pid=7 comm="dnsmasq" name="x"'
    " dev=tmpfs ino=2 scontext=system_u:system_r:sidespawn_side_container_t:s0:c1,c2"
    " tcontext=system_u:object_r:var_run_t:s0 tclass=file permissive=0"
)


def told(*lines: str) -> list[Ailment]:
    return list(denials.judge(denials.denials(lines), PROGRAMS))


def test_a_denial_of_apparmor_names_who_what_and_the_command() -> None:
    (one,) = told(OF_PROFILE)
    assert (one.id, one.state, one.service) == ("apparmor-denied", State.WARNING, "neutron-dhcp-dnsmasq")
    assert one.found == "AppArmor denied dnsmasq (profile sidespawn-side-container): open w /proc/sys/kernel/x"
    assert "journalctl --dmesg" in one.advice
    assert "/etc/apparmor.d/local/sidespawn-side-container" in one.advice
    assert "apparmor_parser -r /etc/apparmor.d/sidespawn-side-container" in one.advice


def test_a_denial_of_selinux_names_who_what_and_the_command() -> None:
    (one,) = told(OF_TYPE)
    assert (one.id, one.service) == ("selinux-denied", "neutron-dhcp-dnsmasq")
    assert one.found == "SELinux denied dnsmasq (type sidespawn_side_container_t): read write file var_run_t"
    assert "ausearch --message avc --start today --comm dnsmasq" in one.advice
    assert "restorecon" in one.advice and "audit2allow" in one.advice


OF_RUNC = OF_PROFILE.replace("sidespawn-side-container", "crun").replace("dnsmasq", "c")
OF_CONTAINER = OF_TYPE.replace("sidespawn_side_container_t", "container_t").replace("dnsmasq", "x")


@pytest.mark.parametrize(
    ("line", "count"),
    [
        (OF_PROFILE.replace("sidespawn-side-container", "crun//&sidespawn-side-container"), 1),
        (OF_PROFILE.replace("sidespawn-side-container", "sidespawn-agent").replace("dnsmasq", "mount"), 1),
        (OF_PROFILE.replace("sidespawn-side-container", "/usr/sbin/dnsmasq"), 1),  # the distribution's
        (OF_PROFILE.replace("sidespawn-side-container", "x").replace("dnsmasq", "y"), 0),
        (OF_PROFILE.replace("sidespawn-side-container", "my-sidespawn-agent").replace("dnsmasq", "y"), 0),
        (OF_RUNC, 0),
        (OF_RUNC.replace("/proc/sys", "/run/sidespawn/a"), 1),
        (OF_PROFILE.replace("DENIED", "ALLOWED"), 0),
        (OF_TYPE.replace("permissive=0", "permissive=1"), 0),
        (OF_TYPE.replace("sidespawn_side_container_t", "httpd_t").replace("dnsmasq", "httpd"), 0),
        (OF_CONTAINER, 0),
        (OF_CONTAINER.replace("var_run_t", "sidespawn_runtime_t"), 1),
        (OF_TYPE.replace("denied", "granted"), 0),
        (OF_TYPE.replace("scontext=", "context="), 0),
        ("AVC " + OF_PROFILE.partition(": ")[2], 1),
        ("audit: type=1400", 0),
        ("", 0),
    ],
)  # fmt: skip
def test_only_what_concerns_a_service_or_an_agent_is_told(line: str, count: int) -> None:
    assert len(told(line)) == count


def test_a_denial_that_two_logs_have_is_one_and_more_of_a_kind_are_one_row() -> None:
    assert len(list(denials.denials([OF_PROFILE, f"type=AVC msg={OF_PROFILE.partition('1400 ')[2]}"]))) == 1
    others = [OF_PROFILE.replace("kernel/x", f"kernel/{n}").replace(":45)", f":{n})") for n in range(5)]
    (one,) = told(*others, *others)
    assert one.found.endswith("/proc/sys/kernel/0, open w /proc/sys/kernel/1, open w /proc/sys/kernel/2, and 2 more")


def test_names_that_a_program_chose_cannot_disturb() -> None:
    name = "x\n; reboot \u202e$(x)"
    (one,) = told(OF_TYPE.replace('comm="dnsmasq"', f"comm={name.encode().hex().upper()}"))
    assert "SELinux denied x?; reboot ?$(x) (" in one.found
    assert "--comm 'x?; reboot ?$(x)'" in one.advice
    assert one.service == ""


def test_a_program_of_two_services_belongs_to_none() -> None:
    assert told(OF_PROFILE.replace("dnsmasq", "haproxy"))[0].service == ""


def test_the_log_of_the_audit_daemon_is_read_from_the_last_hour_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    old, new = (OF_TYPE.replace("1700000000", str(each)) for each in (now - 4000, now - 5))
    log = tmp_path / "audit.log"
    log.write_text(f"{old}\nno record\n{new}\n")

    def nothing(_since: str) -> None:
        raise SidespawnError(Reason.HOST_UNSUITABLE, "this host has no journalctl")

    monkeypatch.setattr(denials, "AUDIT_LOG", log)
    monkeypatch.setattr(denials, "read_audit", nothing)
    assert list(denials.messages(now - 3600)) == [new]


def test_a_host_without_these_modules_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(name="neutron-dhcp-dnsmasq", policy=preset("neutron-dhcp-dnsmasq"), is_enabled=True)
    monkeypatch.setattr(denials, "messages", lambda _since: [OF_PROFILE])
    monkeypatch.setattr(hardening, "has_selinux", lambda: False)
    for has_apparmor in (False, True):
        monkeypatch.setattr(hardening, "has_apparmor", lambda there=has_apparmor: there)
        assert len(list(denials.find_denials([service]))) == has_apparmor


def test_the_kernel_s_messages_are_read_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "journalctl"
    records = "".join(f"echo '{json.dumps({'MESSAGE': each})}'\n" for each in ("x", [1], None))
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/argv\n{records}')
    fake.chmod(0o755)
    monkeypatch.setattr(journal, "JOURNALCTL", str(fake))
    assert list(journal.read_audit("1 hour ago")) == ["x"]
    assert (tmp_path / "argv").read_text().split()[-2:] == ["_TRANSPORT=kernel", "_TRANSPORT=audit"]
