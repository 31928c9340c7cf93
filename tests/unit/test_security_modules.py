"""The profiles for AppArmor and the module for SELinux: their syntax by the tools themselves, and what they name.

Where the tests run, the kernel need not have either; tests/host tries what the profiles forbid, in a machine that does.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sidespawn.cli import security_modules
from sidespawn.errors import PolicyError, SidespawnError
from sidespawn.host.places import Places
from tests.unit import small

PROFILES = security_modules.profiles()


def parse_profile(path: Path) -> subprocess.CompletedProcess[str]:
    """Compiled, as for loading, but not loaded."""
    argv = (security_modules.PARSER, "--skip-kernel-load", "--skip-cache", "--skip-read-cache", str(path))
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_can_be_compiled(name: str) -> None:
    done = parse_profile(security_modules.PROFILES / name)
    assert done.returncode == 0, done.stderr


def test_the_compiler_would_notice(tmp_path: Path) -> None:
    broken = (security_modules.PROFILES / "sidespawn-agent").read_text().replace("umount /sys/,", "unmont /sys/,")
    (tmp_path / "broken").write_text(broken)
    assert parse_profile(tmp_path / "broken").returncode != 0


def rules(name: str) -> list[str]:
    lines = (security_modules.PROFILES / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def test_a_side_container_mounts_nothing_and_traces_nobody() -> None:
    found = rules("sidespawn-side-container")
    assert {"audit deny mount,", "audit deny umount,", "audit deny pivot_root,", "audit deny ptrace,"} <= set(found)
    assert not [
        line for line in found if line.startswith(("mount", "umount", "pivot_root", "ptrace", "change_profile"))
    ]


def test_an_agent_mounts_no_proc_and_remounts_nothing_but_its_network_settings() -> None:
    found = rules("sidespawn-agent")
    assert "audit deny mount fstype=proc," in found
    mounts = [line for line in found if line.startswith("mount")]
    assert mounts
    assert all("->" in line for line in mounts), "a rule without a mount point is for every one"
    assert {line.partition("-> ")[2] for line in mounts if "remount" in line} == {"@{PROC}/sys/net/,"}
    assert all("bind" in line for line in mounts if "remount" in line), "the size of a file system is everybody's"
    kinds = {word.removeprefix("fstype=") for line in mounts for word in line.split() if word.startswith("fstype=")}
    assert kinds == {"sysfs"}


def test_an_agent_looks_into_no_process_and_signals_its_own() -> None:
    found = rules("sidespawn-agent")
    assert [line for line in found if line.startswith("ptrace")] == ["ptrace (readby, tracedby),"]
    sends = [line for line in found if line.startswith("signal") and "(send" in line]
    assert sends == [f"signal (send) peer={OURS.format('sidespawn-agent')},", "signal (send) set=(exists),"]


OURS = "{{,**//&}}{}{{,//&**}}"  # alone, or stacked with others


def test_the_processes_of_a_side_container_may_signal_each_other() -> None:
    peer = OURS.format("sidespawn-side-container")
    assert f"signal (send, receive) peer={peer}," in rules("sidespawn-side-container")


@pytest.mark.parametrize("name", PROFILES)
def test_nobody_writes_what_steers_the_kernel(name: str) -> None:
    found = rules(name)
    assert "deny @{PROC}/sys/{[^n]**,n[^e]**,ne[^t]**} wklx," in found
    assert "deny /sys/** wklx," in found
    assert [line for line in found if "sysrq-trigger" in line and line.startswith("deny")]


def test_the_module_can_be_built(tmp_path: Path) -> None:
    package = security_modules.build_module(tmp_path)
    assert package.read_bytes()[:4] == bytes.fromhex("8fff7cf9")  # a policy package


def test_the_builder_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (security_modules.MODULE / "sidespawn.te").read_text().replace("type container_file_t;", "tipe x;")
    (tmp_path / "sidespawn.te").write_text(text)
    monkeypatch.setattr(security_modules, "MODULE", tmp_path)
    with pytest.raises(SidespawnError):
        security_modules.build_module(tmp_path)


def contexts() -> list[tuple[re.Pattern[str], str]]:
    lines = (security_modules.MODULE / "sidespawn.fc").read_text(encoding="utf-8").splitlines()
    split = (line.split() for line in lines if line and not line.startswith("#"))
    return [(re.compile(path), context) for path, context in split]


def label_of(path: Path) -> str:
    """As SELinux chooses: the pattern with the longest stem, and of those the longest (selabel_file(5))."""
    found = []
    for pattern, context in contexts():
        if pattern.fullmatch(str(path)):
            found.append((len(re.split(r"[\[(.*]", pattern.pattern)[0]), len(pattern.pattern), context))
    return max(found)[2].split(":")[2]


def test_every_place_of_a_service_has_its_label() -> None:
    places = Places("neutron-dhcp-dnsmasq")
    agents = {places.spool / "processes": "container_file_t", places.replies / "x.json": "container_ro_file_t"}
    agents |= {places.agent / "dnsmasq": "container_ro_file_t", places.snapshots / "x.0": "container_ro_file_t"}
    for path, label in agents.items():
        assert label_of(path) == label
        assert label_of(path.parent) == label
    for path in (places.home, places.claims, places.ledger, places.pins, places.operator, places.lock, places.compiled):
        assert label_of(path) == "container_var_run_t"


def test_nothing_is_done_where_the_kernel_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(security_modules, "tool", lambda *argv, **_: calls.append(argv))
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: False)
    monkeypatch.setattr(security_modules, "has_selinux", lambda: False)
    assert security_modules.install() == []
    assert calls == []


def test_a_tool_that_is_missing_is_told_and_does_not_stop_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: False)
    monkeypatch.setattr(security_modules, "has_selinux", lambda: True)
    monkeypatch.setattr(security_modules, "CHECKMODULE", "/nonexistent/checkmodule")
    (said,) = security_modules.install()
    assert "SELinux" in said
    assert "/nonexistent/checkmodule" in said


def test_profiles_are_installed_loaded_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(security_modules, "tool", lambda *argv, **_: calls.append(argv[:2]))
    monkeypatch.setattr(security_modules, "APPARMOR_HOME", tmp_path)
    monkeypatch.setattr(security_modules, "LABELLING", tmp_path / "none/selinux.conf")
    security_modules.install_profiles()
    security_modules.install_profiles()  # nothing changed, so nothing is loaded
    assert [path.name for path in sorted(tmp_path.iterdir())] == PROFILES
    security_modules.remove()
    assert list(tmp_path.iterdir()) == []
    parser = security_modules.PARSER
    assert calls == [(parser, "-r")] * len(PROFILES) + [(parser, "-R")] * len(PROFILES)


def test_a_profile_that_confines_a_process_is_not_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    home, attributes = tmp_path / "apparmor.d", tmp_path / "proc/42/attr/apparmor"
    home.mkdir()
    attributes.mkdir(parents=True)
    (attributes / "current").write_text("crun//&sidespawn-agent (enforce)\n")
    monkeypatch.setattr(security_modules, "tool", lambda *argv, **_: calls.append(argv))
    monkeypatch.setattr(security_modules, "APPARMOR_HOME", home)
    monkeypatch.setattr(security_modules, "PROCESSES", tmp_path / "proc")
    monkeypatch.setattr(security_modules, "LABELLING", tmp_path / "none/selinux.conf")
    security_modules.install_profiles()
    calls.clear()
    security_modules.remove()
    assert list(home.iterdir()) == []
    assert calls == [(security_modules.PARSER, "-R", str(home / "sidespawn-side-container"))]


def test_with_selinux_the_directories_are_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(security_modules, "tool", lambda *argv, **_: calls.append(argv))
    monkeypatch.setattr(security_modules, "LABELLING", tmp_path / "sidespawn-spool@.service.d/selinux.conf")
    monkeypatch.setattr(security_modules, "APPARMOR_HOME", tmp_path)
    security_modules.install_module()
    assert [argv[0] for argv in calls] == [
        security_modules.CHECKMODULE,
        security_modules.PACK,
        security_modules.SEMODULE,
    ]
    text = security_modules.LABELLING.read_text()
    assert text.count(f"=-{security_modules.RESTORECON} -RF /run/sidespawn/%i\n") == 2
    security_modules.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "loaded", "warned"),
    [(False, "", True), (True, "other (enforce)\n", True), (True, "wanted (enforce)\n", False)],
)
def test_a_profile_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, loaded: str, warned: bool
) -> None:
    (tmp_path / "profiles").write_text(loaded)
    monkeypatch.setattr(security_modules, "LOADED", tmp_path / "profiles")
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: there)
    assert bool(security_modules.warnings("wanted")) is warned
    assert security_modules.warnings("") == []


def test_a_policy_names_a_profile_and_nothing_else() -> None:
    scratch = 'scratch = ["/run/tool"]'
    for name, valid in (
        ("sidespawn-side-container", True),
        ("a b", False),
        ("x,y", False),
        ("x\\n", False),
        ("", True),
    ):
        change = (scratch, f'{scratch}\napparmor = "{name}"')
        if valid:
            assert small.load(change).side_container.apparmor == name
        else:
            with pytest.raises(PolicyError, match="name of a profile"):
                small.load(change)
