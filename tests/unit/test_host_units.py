"""`sidespawn check` on many kinds of hosts, from their facts: units, mounts, agents, security modules."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.errors import LaunchError, Reason
from sidespawn.host.directories import given_to_containers
from sidespawn.host_report import agents, apparmor, leftovers, mount_namespaces, selinux, units
from sidespawn.host_report.findings import State
from sidespawn.host_report.units import Unit
from sidespawn.setup import hardening, security_modules
from sidespawn.setup import selinux as selinux_module
from sidespawn.setup.services import Service
from sidespawn.setup.systemd import PACKAGE, command_of, contents
from sidespawn.setup.systemd import SHIPPED as SHIPPED_UNITS
from sidespawn.system.places import Places
from sidespawn.system.processes import Output
from tests.unit import small
from tests.unit.shipped import preset
from tests.unit.test_host_report import states, the

# ---------------------------------------------------------------- unit files

ETC, USR = "/etc/systemd/system", "/usr/lib/systemd/system"
SHIPPED = {
    "sidespawn@.service": "[Service]\nExecStart=@PYTHON@ -I -S @PACKAGE@/run.py sync %i\n",
    "sidespawn@.socket": "[Socket]\nListenFIFO=/x\n",
}
OURS = "/opt/sidespawn/lib/sidespawn"


def service_file(python: str = "/usr/bin/python3.11", package: str = OURS) -> str:
    return SHIPPED["sidespawn@.service"].replace("@PYTHON@", python).replace("@PACKAGE@", package)


FILES = {f"{ETC}/sidespawn@.service": service_file(), f"{ETC}/sidespawn@.socket": SHIPPED["sidespawn@.socket"]}
ACTIVE = (
    Unit(name="sidespawn@a.socket", active="active"),
    Unit(name="sidespawn@a.timer", active="active"),
    Unit(name="sidespawn@a.service"),
    Unit(name="sidespawn-spool@a.service", active="active"),
)
UNITS = units.Facts(
    files=FILES, shipped=SHIPPED, package=OURS, packages=frozenset({OURS}), units=ACTIVE, services=("a",)
)


def test_units_as_they_should_be() -> None:
    assert states(units.judge(UNITS)) == {"units": "ok"}
    in_package = {path.replace(ETC, USR): text for path, text in FILES.items()}
    assert states(units.judge(replace(UNITS, files=in_package))) == {"units": "ok"}
    assert states(units.judge(replace(UNITS, files={}, units=(), services=()))) == {"units": "ok"}
    # The interpreter may be another one than this: it is asked itself whether it works.
    other = FILES | {f"{ETC}/sidespawn@.service": service_file(python="/usr/bin/python3.13")}
    assert states(units.judge(replace(UNITS, files=other))) == {"units": "ok"}


@pytest.mark.parametrize(
    ("files", "state", "said", "hint"),
    [
        ({f"{ETC}/sidespawn@.socket": "[Socket]\n"}, "warning", "differs from this version's", "sidespawn enable a"),
        ({f"{ETC}/sidespawn@.path": "[Path]\n"}, "warning", "from another version", f"rm {ETC}/sidespawn@.path"),
        ({f"{ETC}/sidespawn@.service": service_file(package="/opt/gone")}, "problem", "does not exist", "enable a"),
        ({f"{ETC}/sidespawn@.service": service_file(package="/opt/other")}, "warning", "/opt/other", "enable a"),
        ({f"{USR}/sidespawn@.service": service_file()}, "warning", f"hides {USR}/sidespawn@.service", "rm /etc"),
    ],
)
def test_unit_files_of_other_versions(files: dict[str, str], state: str, said: str, hint: str) -> None:
    facts = replace(UNITS, files=FILES | files, packages=frozenset({OURS, "/opt/other"}))
    (found,) = units.judge(facts)
    assert (found.id, found.state) == ("unit-files", state)
    assert said in found.found
    assert hint in found.hint


SETTINGS = "Environment=HOME=/root CONTAINERS_CONF_OVERRIDE=@PACKAGE@/engines/containers.conf"


@pytest.mark.parametrize(
    ("package", "state", "said"),
    [
        (OURS, "ok", "current"),
        ("/opt/other", "warning", "belongs to the sidespawn in /opt/other"),
        ("/opt/gone", "problem", "names /opt/gone/engines/containers.conf, which does not exist"),
    ],
)
def test_podmans_unit_names_the_package_without_running_it(package: str, state: str, said: str) -> None:
    shipped = f"[Service]\nExecStart=/usr/bin/podman system service\n{SETTINGS}\n"
    name = "sidespawn-podman@.service"
    (found,) = units.judge(
        replace(
            UNITS,
            files=FILES | {f"{ETC}/{name}": shipped.replace("@PACKAGE@", package)},
            shipped=SHIPPED | {name: shipped},
            packages=frozenset({OURS, "/opt/other"}),
        )
    )
    assert (found.state, said in found.found) == (state, True)


@pytest.mark.parametrize("name", sorted(units.shipped_files()))
def test_every_unit_that_enable_writes_is_this_versions(name: str) -> None:
    written = contents("/usr/bin/python3.11", "/usr/bin/sidespawn")[name]
    facts = units.Facts(
        files={f"{ETC}/{name}": written},
        shipped={name: units.shipped_files()[name]},
        package=str(PACKAGE),
        packages=units.existing_packages({name: written}),
    )
    assert states(units.judge(facts)) == {"units": "ok"}


def test_unit_files_that_are_missing_while_a_service_is_enabled() -> None:
    facts = replace(UNITS, files={f"{ETC}/sidespawn@.socket": SHIPPED["sidespawn@.socket"]})
    found = the(units.judge(facts), "unit-files")
    assert (found.state, found.found) == (State.PROBLEM, "unit files are missing: sidespawn@.service")
    assert states(units.judge(replace(facts, services=(), units=()))) == {"units": "ok"}


@pytest.mark.parametrize(
    ("changed", "topic", "state", "said"),
    [
        (Unit(name="sidespawn@a.socket", active="failed"), "service-units", "problem", "sidespawn@a.socket is failed"),
        (Unit(name="sidespawn-spool@a.service", active="failed"), "service-units", "problem", "sidespawn-spool@a"),
        (Unit(name="sidespawn@a.timer"), "service-units", "warning", "sidespawn@a.timer is inactive"),
        (Unit(name="sidespawn@a.service", active="failed"), "service-units", "problem", "sidespawn@a.service"),
        (Unit(name="sidespawn@a.timer", active="active", needs_reload=True), "daemon-reload", "warning", "in memory"),
    ],
)
def test_units_that_are_not_as_they_should_be(changed: Unit, topic: str, state: str, said: str) -> None:
    facts = replace(UNITS, units=tuple(changed if each.name == changed.name else each for each in ACTIVE))
    (found,) = units.judge(facts)
    assert (found.id, found.state) == (topic, state)
    assert said in found.found


@pytest.mark.parametrize(("home", "option"), [("/etc/systemd/system", ""), ("/run/systemd/system", "--runtime ")])
def test_a_masked_unit_is_unmasked_first(home: str, option: str) -> None:
    """`systemctl start` refuses it."""
    masked = Unit(name="sidespawn@a.timer", files=(f"{home}/sidespawn@a.timer",), is_masked=True)
    (found,) = units.judge(replace(UNITS, units=tuple(masked if each.name == masked.name else each for each in ACTIVE)))
    assert (found.id, found.state, found.found) == ("service-units", "problem", "a: sidespawn@a.timer is masked")
    assert found.command == f"systemctl unmask {option}sidespawn@a.timer; sidespawn enable a"


def test_a_path_unit_is_needed_where_it_is_enabled() -> None:
    path = Unit(name="sidespawn@a.path", active="active")
    assert states(units.judge(replace(UNITS, units=(*ACTIVE, path)))) == {"units": "ok"}
    (found,) = units.judge(replace(UNITS, units=(*ACTIVE, replace(path, active="failed"))))
    assert (found.state, found.found) == (State.PROBLEM, "a: sidespawn@a.path is failed")
    assert found.command == "sidespawn enable a"


def test_a_failed_podman_socket_is_reported() -> None:
    failed = Unit(name="sidespawn-podman@a.socket", active="failed")
    (found,) = units.judge(replace(UNITS, units=(*ACTIVE, failed)))
    assert (found.id, found.state) == ("service-units", "problem")
    assert f"a: {failed.name}, at which it asks podman, has failed" in found.found
    assert "systemctl reset-failed sidespawn-podman@a.socket" in found.hint


SHOWN = """\
Id=sidespawn@a.service
ActiveState=active
MainPID=4711
FragmentPath=/etc/systemd/system/sidespawn@.service
DropInPaths=/etc/systemd/system/sidespawn@a.service.d/engine.conf /run/systemd/system/service.d/x.conf
NeedDaemonReload=yes

Id=sidespawn@a.socket
ActiveState=inactive
FragmentPath=
DropInPaths=
NeedDaemonReload=no
"""


def test_what_systemctl_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "run", lambda argv, timeout: Output(0, SHOWN, ""))
    service, socket = units.loaded(["a"])
    assert (service.pid, service.active, service.needs_reload, len(service.files)) == (4711, "active", True, 3)
    assert (socket.pid, socket.active, socket.needs_reload, socket.files) == (0, "inactive", False, ())
    assert units.loaded([]) == ()
    monkeypatch.setattr(units, "run", lambda argv, timeout: Output(1, "", "Failed to connect to bus\n"))
    with pytest.raises(LaunchError, match="Failed to connect"):
        units.loaded(["a"])


def test_unit_files_are_found_by_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for directory in (etc, usr):
        directory.mkdir()
        (directory / "sidespawn@.service").write_text(service_file(package=str(directory)))
    (tmp_path / "lib").symlink_to(usr)  # as /lib
    (etc / "sidespawn@a.service.d").mkdir()
    (etc / "other.service").touch()
    monkeypatch.setattr(units, "DIRECTORIES", (etc, usr, tmp_path / "lib", tmp_path / "none"))
    assert list(units.unit_files()) == [str(etc / "sidespawn@.service"), str(usr / "sidespawn@.service")]
    (usr / "run.py").touch()
    assert units.existing_packages(units.unit_files()) == {str(usr)}


def test_the_shipped_units_name_an_interpreter_and_a_package() -> None:
    commands = {name: command_of(text) for name, text in units.shipped_files().items()}
    assert set(commands.values()) == {("@PYTHON@", "@PACKAGE@"), ("", "")}
    assert commands["sidespawn@.service"] == commands["sidespawn-spool@.service"] == ("@PYTHON@", "@PACKAGE@")


# ---------------------------------------------------------------- leftovers

CLEAN = leftovers.Facts(
    links=(f"{ETC}/multi-user.target.wants/sidespawn@a.socket", f"{ETC}/timers.target.wants/sidespawn@a.timer"),
    drop_ins=(f"{ETC}/sidespawn@a.service.d", f"{ETC}/sidespawn-spool@.service.d"),
    homes=("a",),
    accounts=("sidespawn-42435",),
    policies=frozenset({"a"}),
    enabled=frozenset({"a"}),
    needed_accounts=frozenset({"sidespawn-42435"}),
)


def test_nothing_is_left_over() -> None:
    assert states(leftovers.judge(CLEAN)) == {"leftovers": "ok"}


@pytest.mark.parametrize(
    ("facts", "topic", "subject", "hint"),
    [
        (
            replace(CLEAN, links=(f"{ETC}/multi-user.target.wants/sidespawn@b.socket",)),
            "leftover-links",
            "b",
            "sidespawn disable b",
        ),
        (replace(CLEAN, drop_ins=(f"{ETC}/sidespawn@b.service.d",)), "leftover-drop-ins", "b", "rm -r"),
        (replace(CLEAN, drop_ins=(f"{ETC}/sidespawn-spool@b.service.d",)), "leftover-drop-ins", "b", "rm -r"),
        (replace(CLEAN, homes=("a", "b")), "leftover-directories", "b", "sidespawn disable b"),
        (replace(CLEAN, enabled=frozenset()), "leftover-directories", "a", "sidespawn enable a"),
        (
            replace(CLEAN, accounts=("sidespawn-1", "sidespawn-42435")),
            "leftover-accounts",
            "sidespawn-1",
            "userdel sidespawn-1",
        ),
    ],
)
def test_leftovers(facts: leftovers.Facts, topic: str, subject: str, hint: str) -> None:
    (found,) = leftovers.judge(facts)
    assert (found.id, found.state, found.subject) == (topic, State.WARNING, subject)
    assert hint in found.hint


def test_accounts_are_left_alone_while_a_policy_is_invalid() -> None:
    valid = Service(name="a", policy=small.load(), is_enabled=True)
    assert leftovers.needed_accounts([valid]) == frozenset()
    by_systemd = small.load(('engine = "podman"', 'engine = "systemd"'))
    assert leftovers.needed_accounts([replace(valid, policy=by_systemd)]) == frozenset({"sidespawn-1000"})
    assert leftovers.needed_accounts([valid, Service(name="b", policy=None, is_enabled=True)]) is None
    assert states(leftovers.judge(replace(CLEAN, needed_accounts=None))) == {"leftovers": "ok"}


def test_leftovers_of_this_host_can_be_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, run = tmp_path / "etc", tmp_path / "run"
    for path in (etc / "multi-user.target.wants", etc / "sidespawn@b.service.d", run / "c"):
        path.mkdir(parents=True)
    (etc / "multi-user.target.wants/sidespawn@a.socket").symlink_to("/nowhere")
    monkeypatch.setattr(leftovers, "INSTALLED", etc)
    monkeypatch.setattr(leftovers, "RUN", run)
    found = states(leftovers.judge(leftovers.look([])))
    assert set(found) >= {"leftover-links", "leftover-drop-ins", "leftover-directories"}


# ---------------------------------------------------------------- mount namespaces

PLACES = Places("a")
SPOOL, MAIN = "sidespawn-spool@a.service", "sidespawn@a.service"
MOUNTS = frozenset(map(str, (PLACES.home, *given_to_containers(PLACES))))
OWN = mount_namespaces.Option(name="PrivateTmp", value="yes", path=f"{ETC}/{SPOOL}.d/own.conf")
FORMER = mount_namespaces.Option(name="PrivateNetwork", value="yes", path=f"{ETC}/sidespawn-spool@.service")
RUNNING = mount_namespaces.Facts(
    services={"a": "podman"},
    units=(Unit(name=SPOOL, active="active"), Unit(name=MAIN, active="active", pid=7)),
    mounts=MOUNTS | {"/", "/run"},
    namespaces={1: "mnt:[1]", 7: "mnt:[1]"},
    options={SPOOL: (), MAIN: ()},
)


def test_units_that_share_the_hosts_mount_namespace() -> None:
    assert states(mount_namespaces.judge(RUNNING)) == {"spool-mounts": "ok", "mount-namespace": "ok"}
    idle = replace(RUNNING, units=(RUNNING.units[0], Unit(name=MAIN)), namespaces={1: "mnt:[1]"})
    assert states(mount_namespaces.judge(idle)) == {"spool-mounts": "ok", "mount-namespace": "ok"}


def test_directories_that_are_not_visible_are_reported_with_the_reason() -> None:
    hidden = replace(RUNNING, mounts=frozenset({"/", "/run"}), options={SPOOL: (OWN,), MAIN: ()})
    found = the(mount_namespaces.judge(hidden), "spool-mounts")
    assert found.state is State.PROBLEM
    assert f"{SPOOL} is active, but the host has no mount at {PLACES.home}" in found.found
    assert f"PrivateTmp=yes in {OWN.path} gives it a private mount namespace: the host does not see" in found.message
    assert found.hint.startswith(f"remove PrivateTmp= from {OWN.path}; systemctl daemon-reload; systemctl restart")
    assert "restart the agents" in found.hint


def test_the_units_of_an_earlier_version_are_renewed_and_not_edited() -> None:
    hidden = replace(RUNNING, mounts=frozenset(), options={SPOOL: (FORMER,), MAIN: ()})
    found = the(mount_namespaces.judge(hidden), "spool-mounts")
    assert "PrivateNetwork=yes" in found.message
    assert found.hint.startswith("sidespawn enable a, which renews the units")


def test_directories_that_were_unmounted() -> None:
    found = the(mount_namespaces.judge(replace(RUNNING, mounts=MOUNTS - {str(PLACES.spool)})), "spool-mounts")
    assert (found.state, "unmounted" in found.message) == (State.PROBLEM, True)
    older = the(mount_namespaces.judge(replace(RUNNING, mounts=MOUNTS - {str(PLACES.snapshots)})), "spool-mounts")
    assert (older.state, "earlier version" in older.message) == (State.WARNING, True)


def test_units_that_are_not_active_have_no_mounts_to_show() -> None:
    stopped = replace(RUNNING, units=(Unit(name=SPOOL), Unit(name=MAIN)), mounts=frozenset())
    assert states(mount_namespaces.judge(stopped))["spool-mounts"] == "ok"


@pytest.mark.parametrize(
    ("engine", "unit", "state"),
    [
        ("podman", MAIN, "problem"),
        ("docker", MAIN, "problem"),
        ("systemd", MAIN, "problem"),
        ("podman", "sidespawn-podman@a.service", "warning"),
    ],
)
def test_a_service_in_another_namespace(engine: str, unit: str, state: str) -> None:
    running = replace(RUNNING, units=(RUNNING.units[0], Unit(name=unit, active="active", pid=7)))
    other = replace(running, services={"a": engine}, namespaces={1: "mnt:[1]", 7: "mnt:[2]"})
    found = the(mount_namespaces.judge(other), "mount-namespace")
    assert (found.state, found.found) == (state, f"{unit} runs in a private mount namespace")
    assert "an unknown option" in found.message
    assert f"systemctl cat {unit}" in found.hint
    idle = replace(other, units=(Unit(name=unit),), options={unit: (OWN,)})
    found = the(mount_namespaces.judge(idle), "mount-namespace")
    assert (found.state, found.found) == (state, f"{unit} will run in a private mount namespace")
    assert OWN.path in found.hint


def test_the_running_process_counts_and_not_what_the_options_say() -> None:
    changed = replace(RUNNING, options={SPOOL: (OWN,), MAIN: (OWN,)})
    assert states(mount_namespaces.judge(changed)) == {"spool-mounts": "warning", "mount-namespace": "ok"}
    assert "started again" in the(mount_namespaces.judge(changed), "spool-mounts").found


@pytest.mark.parametrize(
    ("text", "version", "names"),
    [
        ("[Service]\nPrivateTmp=yes\n", 252, ["PrivateTmp"]),
        ("[Service]\n  PrivateTmp = disconnected  \n", 257, ["PrivateTmp"]),
        ("[Service]\nPrivateTmp=no\nProtectSystem=off\nMountFlags=shared\nProtectProc=default\n", 252, []),
        ("[Service]\nPrivateTmp=yes\nPrivateTmp=\n", 252, []),
        ("[Service]\n#PrivateTmp=yes\n;PrivateTmp=yes\n", 252, []),
        ("[Unit]\nPrivateTmp=yes\n[Service]\nNice=5\n", 252, []),
        ("[Service]\nReadOnlyPaths=/a \\\n  /b\n", 252, ["ReadOnlyPaths"]),
        ("[Service]\nPrivateNetwork=yes\n", 253, []),
        ("[Service]\nPrivateNetwork=yes\n", 254, ["PrivateNetwork"]),
        ("[Service]\nPrivateNetwork=yes\nPrivateMounts=no\n", 257, []),
        ("[Service]\nNetworkNamespacePath=/run/netns/x\n", 257, ["NetworkNamespacePath"]),
        ("[Service]\nMountAPIVFS=yes\n", 256, []),
        ("[Service]\nMountAPIVFS=yes\n", 257, ["MountAPIVFS"]),
        ("[Service]\nMountAPIVFS=yes\nBindLogSockets=no\n", 257, []),
        ("[Service]\nPrivateUsers=yes\nProtectHostname=yes\nDevicePolicy=closed\n", 257, []),
        ("no unit file\n=\n", 252, []),
    ],
)
def test_which_options_give_a_mount_namespace(tmp_path: Path, text: str, version: int, names: list[str]) -> None:
    path = tmp_path / "a.conf"
    path.write_text(text)
    found = mount_namespaces.implying(mount_namespaces.read_options([str(path), "/nonexistent"]), version)
    assert [each.name for each in found] == names
    assert {each.path for each in found} <= {str(path)}


@pytest.mark.parametrize("version", [247, 252, 257, 262])
def test_no_option_of_the_shipped_units_does(version: int) -> None:
    paths = [str(path) for path in SHIPPED_UNITS.iterdir()]
    assert len(paths) > 5
    for path in paths:
        assert mount_namespaces.implying(mount_namespaces.read_options([path]), version) == ()


# ---------------------------------------------------------------- agents

AGENT = agents.Agent(service="a", pid=7)
WRAPPER = "/usr/sbin/keepalived"


def test_an_agent_without_the_program_behind_its_wrapper_is_reported() -> None:
    (found,) = agents.judge((replace(AGENT, lacks="/usr/sbin/keepalived"),), has_apparmor=False)
    assert states((found,)) == {"agent-mounts": "problem"}
    assert "/usr/sbin/keepalived" in found.found
    assert "dst=/run/sidespawn/image" in found.hint


@pytest.mark.parametrize(
    ("mounts", "there", "lacks"),
    [
        ((WRAPPER,), "", WRAPPER),
        ((WRAPPER,), f"run/sidespawn/image{WRAPPER}", ""),
        ((WRAPPER,), f"{WRAPPER}.real".lstrip("/"), ""),
        ((), "", ""),  # no wrapper covers the program
    ],
)
def test_where_the_program_behind_a_wrapper_can_be(
    tmp_path: Path, mounts: tuple[str, ...], there: str, lacks: str
) -> None:
    if there:
        (tmp_path / there).parent.mkdir(parents=True)
        (tmp_path / there).touch()
    assert agents.lacking(preset("neutron-l3-keepalived"), mounts, tmp_path) == lacks


@pytest.mark.parametrize(
    ("profile", "may_mount", "has_apparmor", "said"),
    [
        ("containers-default-0.62.2//&crun (mixed)", True, True, "containers-default-0.62.2"),
        ("containers-default-0.50 (enforce)", True, True, "containers-default-0.50"),
        ("crun//&unconfined (unconfined)", True, True, "no AppArmor profile"),
        ("busybox (unconfined)", True, True, "no AppArmor profile"),
        ("unconfined", True, True, "no AppArmor profile"),
        ("sidespawn-agent (enforce)", True, True, None),
        ("crun//&sidespawn-agent (mixed)", True, True, None),
        ("containers-default-0.50 (enforce)", False, True, None),
        ("system_u:system_r:container_t:s0", True, False, None),
        ("", True, True, None),
    ],
)
def test_the_profile_of_an_agent_that_may_mount(
    profile: str, may_mount: bool, has_apparmor: bool, said: str | None
) -> None:
    found = list(agents.judge((replace(AGENT, profile=profile, may_mount=may_mount),), has_apparmor))
    assert states(found) == ({"agents": "ok"} if said is None else {"agent-apparmor": "warning"})
    if said is not None:
        assert said in found[0].found
        assert found[0].hint == "start it with --security-opt=apparmor=sidespawn-agent"


def test_an_agent_with_old_directories() -> None:
    found = list(agents.judge((AGENT, replace(AGENT, pid=8, is_current=False)), has_apparmor=False))
    assert states(found) == {"agent-mounts": "problem"}
    assert "process 8" in found[0].found


def test_no_agent() -> None:
    assert states(agents.judge((), has_apparmor=True)) == {"agents": "ok"}
    assert agents.look([]) == ()


# ---------------------------------------------------------------- AppArmor

NAMES = tuple(security_modules.profiles())
LOADED = apparmor.Facts(
    is_enabled=True,
    loaded=dict.fromkeys(NAMES, "enforce"),
    shipped=NAMES,
    installed=dict.fromkeys(NAMES, True),
)


def test_profiles_that_are_loaded_and_enforced() -> None:
    assert states(apparmor.judge(LOADED, ("a",))) == {"apparmor": "ok", "apparmor-profile": "ok"}
    assert "--security-opt=apparmor=sidespawn-agent" in the(apparmor.judge(LOADED, ()), "apparmor").found


def test_a_host_without_apparmor_or_without_services_needs_no_profiles() -> None:
    assert states(apparmor.judge(apparmor.Facts(is_enabled=False), ("a",))) == {"apparmor": "ok"}
    assert states(apparmor.judge(apparmor.Facts(is_enabled=True, shipped=NAMES), ())) == {"apparmor": "ok"}


@pytest.mark.parametrize(
    ("facts", "said", "hint"),
    [
        (replace(LOADED, installed={}), "is missing", "sidespawn enable a"),
        (replace(LOADED, loaded={}), "is not loaded", "apparmor_parser -r"),
        (replace(LOADED, loaded=dict.fromkeys(NAMES, "complain")), "in mode complain", "aa-enforce"),
        (replace(LOADED, installed=dict.fromkeys(NAMES, False)), "differs from the shipped file", "sidespawn enable a"),
    ],
)
def test_profiles_that_do_not_hold(facts: apparmor.Facts, said: str, hint: str) -> None:
    found = [each for each in apparmor.judge(facts, ("a",)) if each.id == "apparmor-profile"]
    assert [(each.state, each.subject) for each in found] == [(State.WARNING, name) for name in NAMES]
    assert all(said in each.found and hint in each.hint for each in found)


def test_without_the_parser_nothing_can_be_loaded() -> None:
    found = the(apparmor.judge(replace(LOADED, has_parser=False), ("a",)), "apparmor")
    assert (found.state, "install apparmor" in found.hint) == (State.WARNING, True)


def test_the_kernels_list_of_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "sidespawn-agent (enforce)\n/usr/bin/a b//c (complain)\nbusybox (unconfined)\n"
    expected = {"sidespawn-agent": "enforce", "/usr/bin/a b//c": "complain", "busybox": "unconfined"}
    assert apparmor.parse(text) == expected
    (tmp_path / "profiles").write_text(text)
    (tmp_path / "sidespawn-agent").write_bytes((security_modules.PROFILES / "sidespawn-agent").read_bytes())
    (tmp_path / "sidespawn-side-container").write_text("# changed\n")
    monkeypatch.setattr(security_modules, "LOADED", tmp_path / "profiles")
    monkeypatch.setattr(security_modules, "APPARMOR_HOME", tmp_path)
    monkeypatch.setattr(hardening, "has_apparmor", lambda: True)
    found = apparmor.look()
    assert (found.loaded, found.shipped) == (expected, NAMES)
    assert found.installed == {"sidespawn-agent": True, "sidespawn-side-container": False}


# ---------------------------------------------------------------- SELinux

ENFORCING = selinux.Facts(mode="enforcing", policy="targeted")


def test_a_host_where_selinux_is_as_it_should_be() -> None:
    assert states(selinux.judge(selinux.Facts(mode="disabled"), ("a",))) == {"selinux": "ok"}
    expected = {"selinux": "ok", "selinux-module": "ok", "selinux-labels": "ok"}
    assert states(selinux.judge(ENFORCING, ("a",))) == expected
    assert "targeted" in the(selinux.judge(ENFORCING, ("a",)), "selinux").found
    assert "selinux-module" not in states(selinux.judge(replace(ENFORCING, has_module=False), ()))


@pytest.mark.parametrize(
    ("facts", "topic", "said", "hint"),
    [
        (replace(ENFORCING, has_module=False), "selinux-module", "does not contain", "sidespawn enable a"),
        (replace(ENFORCING, error="restorecon cannot be run"), "selinux-labels", "cannot be run", "policycoreutils"),
        (
            replace(ENFORCING, wrong={"/run/containers/storage": ("var_run_t", "container_runtime_t")}),
            "selinux-labels",
            "/run/containers/storage is labelled var_run_t instead of container_runtime_t",
            "sidespawn enable",
        ),
        (
            replace(ENFORCING, wrong={f"/run/sidespawn/a/{name}": ("var_run_t", "container_file_t") for name in "xy"}),
            "selinux-labels",
            "and 1 more",
            "sidespawn disable a, then enable it again",
        ),
        (replace(ENFORCING, wrong={"/run/netns": ("a_t", "b_t")}), "selinux-labels", "/run/netns", "-F /run/netns"),
    ],
)
def test_what_selinux_lacks(facts: selinux.Facts, topic: str, said: str, hint: str) -> None:
    found = the(selinux.judge(facts, ("a",)), topic)
    assert found.state is State.WARNING
    assert said in found.found
    assert hint in found.hint


def test_what_restorecon_would_do() -> None:
    text = (
        "Would relabel /run/a from system_u:object_r:var_run_t:s0 to system_u:object_r:container_file_t:s0\n"
        "Would relabel /run/b from root:object_r:var_run_t:s0 to system_u:object_r:var_run_t:s0\n"
        "Would relabel /run/containers/a from a:b:container_file_t:s0:c1,c2 to a:b:container_runtime_t:s0\n"
        "Would relabel /run/containers/b from a:b:var_run_t:s0 to a:b:container_runtime_t:s0\n"
        "something else\n"
    )
    left = {"/run/containers/b": ("var_run_t", "container_runtime_t")}
    assert selinux.parse(text) == {"/run/a": ("var_run_t", "container_file_t"), **left}


def test_the_name_of_the_policy() -> None:
    assert selinux.policy_name("# SELINUXTYPE=x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n") == "targeted"
    assert selinux.policy_name("") == ""


def test_looking_at_selinux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], timeout: float) -> Output:
        asked.append(argv)
        if len(asked) > 1:
            raise LaunchError(Reason.ENGINE_TIMEOUT, "restorecon took more than 120 s")
        return Output(0, "Would relabel /run/x from a:b:c_t:s0 to a:b:d_t:s0\n", "")

    for path, text in (("enforce", "1"), ("config", "SELINUXTYPE=default\n"), ("left", "")):
        (tmp_path / path).write_text(text)
    for module, name, value in (
        (hardening, "SELINUX", tmp_path / "enforce"),
        (selinux, "CONFIGURATION", tmp_path / "config"),
        (selinux_module, "is_current", lambda: True),
        (selinux, "PODMAN_LEAVES", (str(tmp_path / "left"),)),
        (selinux, "run", run),
    ):
        monkeypatch.setattr(module, name, value)
    found = selinux.look(["a"])
    assert (found.mode, found.policy, found.has_module) == ("enforcing", "default", True)
    assert found.wrong == {"/run/x": ("c_t", "d_t")}
    assert str(tmp_path / "left") in asked[0]
    assert selinux.look([]).error == "restorecon took more than 120 s"


def test_this_host_can_be_looked_at() -> None:
    """Whatever the host has, looking at it ends without an error for users with enough rights."""
    if os.access("/proc/1/ns/mnt", os.R_OK):
        assert mount_namespaces.namespace(1)
    assert mount_namespaces.namespace(2**22 + 1) == ""
    assert mount_namespaces.mount_points(frozenset(("/", "/no/such/mount")), os.getpid()) == {"/"}
