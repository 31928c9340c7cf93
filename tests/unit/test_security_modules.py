"""The AppArmor profiles: syntax, checked by AppArmor's parser, and contents; what is installed and removed.

These tests run without AppArmor in the kernel. tests/host tries what the profiles forbid, in a machine that has it.
The SELinux module has separate tests.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sidespawn.errors import PolicyError, Reason, SidespawnError
from sidespawn.setup import security_modules, selinux
from tests.unit import small

PROFILES = security_modules.profiles()


def parse_profile(path: Path) -> subprocess.CompletedProcess[str]:
    """Compile the profile as for loading, without loading it."""
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


def test_a_side_container_mounts_and_traces_nothing() -> None:
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
def test_kernel_controls_are_never_writable(name: str) -> None:
    found = rules(name)
    assert "deny @{PROC}/sys/{[^n]**,n[^e]**,ne[^t]**} wklx," in found
    assert "deny /sys/** wklx," in found
    assert [line for line in found if "sysrq-trigger" in line and line.startswith("deny")]


def test_nothing_is_done_where_the_kernel_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(security_modules, "tool", lambda *argv, **_: calls.append(argv))
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: False)
    monkeypatch.setattr(security_modules, "has_selinux", lambda: False)
    assert security_modules.install() == []
    assert calls == []


def test_a_failure_is_reported_with_its_remedy_and_stops_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise SidespawnError(Reason.HOST_UNSUITABLE, "/usr/sbin/semodule cannot be run", "install policycoreutils")

    monkeypatch.setattr(security_modules, "has_apparmor", lambda: False)
    monkeypatch.setattr(security_modules, "has_selinux", lambda: True)
    monkeypatch.setattr(selinux, "install", fail)
    (said,) = security_modules.install()
    assert said == ("cannot set up SELinux: /usr/sbin/semodule cannot be run; install policycoreutils")


def test_profiles_are_installed_loaded_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(security_modules, "tool", lambda *argv, **_: calls.append(argv[:2]))
    monkeypatch.setattr(security_modules, "APPARMOR_HOME", tmp_path)
    security_modules.install_profiles()
    security_modules.install_profiles()  # nothing changed, so nothing is loaded
    assert [path.name for path in sorted(tmp_path.iterdir())] == PROFILES
    assert security_modules.remove() == []
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
    security_modules.install_profiles()
    calls.clear()
    security_modules.remove()
    assert list(home.iterdir()) == []
    assert calls == [(security_modules.PARSER, "-R", str(home / "sidespawn-side-container"))]


@pytest.mark.parametrize(
    ("there", "loaded", "warned"),
    [(False, "", True), (True, "other (enforce)\n", True), (True, "wanted (enforce)\n", False)],
)
def test_a_missing_profile_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, loaded: str, warned: bool
) -> None:
    (tmp_path / "profiles").write_text(loaded)
    monkeypatch.setattr(security_modules, "LOADED", tmp_path / "profiles")
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: there)
    for engine in ("podman", "docker"):
        assert bool(security_modules.warnings(engine, "localhost/x", "wanted")) is warned
        assert security_modules.warnings(engine, "localhost/x", "") == []


@pytest.mark.parametrize(("there", "told"), [(False, "run without it"), (True, "nothing will start")])
def test_a_profile_that_systemd_cannot_set_is_reported(monkeypatch: pytest.MonkeyPatch, there: bool, told: str) -> None:
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: there)
    monkeypatch.setattr(security_modules, "version", lambda: 257)
    (said,) = security_modules.warnings("systemd", "host", "wanted")
    assert told in said
    assert "leave `apparmor` out" in said
    assert security_modules.warnings("systemd", "host", "") == []


def test_newer_systemd_sets_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "profiles").write_text("wanted (enforce)\n")
    monkeypatch.setattr(security_modules, "LOADED", tmp_path / "profiles")
    monkeypatch.setattr(security_modules, "has_apparmor", lambda: True)
    monkeypatch.setattr(security_modules, "version", lambda: 262)
    assert security_modules.warnings("systemd", "host", "wanted") == []
    (said,) = security_modules.warnings("systemd", "host", "missing")
    assert "missing" in said


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


@pytest.mark.parametrize(
    ("engine", "image", "warned"),
    [
        ("podman", "localhost/x", False),
        ("systemd", "localhost/x", False),
        ("systemd", "host", True),
        ("docker", "localhost/x", True),
    ],
)
def test_where_selinux_hides_side_containers_from_their_agents(
    monkeypatch: pytest.MonkeyPatch, engine: str, image: str, warned: bool
) -> None:
    monkeypatch.setattr(security_modules, "has_selinux", lambda: True)
    assert bool(security_modules.warnings(engine, image, "")) is warned
    monkeypatch.setattr(security_modules, "has_selinux", lambda: False)
    assert security_modules.warnings(engine, image, "") == []


@pytest.mark.parametrize("silent", ["", "silent, "], ids=["mount(8)", "busybox"])
@pytest.mark.parametrize("time", ["", "relatime"])
@pytest.mark.parametrize("harmless", ["", "nosuid, nodev, noexec, "], ids=["crun 1.8", "others"])
def test_the_agents_first_command_works_whatever_flags_the_runtime_gave_the_mount(
    silent: str, time: str, harmless: str
) -> None:
    """Look for the exact flags: AppArmor allows no others, and one rule for any of them would allow a bind mount."""
    rules = (Path(security_modules.__file__).parent.parent / "apparmor/sidespawn-agent").read_text()
    flags = f"rw, {harmless}remount, bind, {silent}{time}".rstrip(", ")
    assert f"  mount options=({flags}) -> @{{PROC}}/sys/net/,\n" in rules


def test_a_compiler_that_widens_rules_allows_no_other_mount_on_the_network_settings() -> None:
    """Deny by source and by kind what AppArmor 3.0.8 reads into the rules (CVE-2016-1585)."""
    found = rules("sidespawn-agent")
    kinds = "fstype=([^s]*, s[^y]*, sy[^s]*, sys[^f]*, sysf[^s]*, sysfs?*)"
    assert {f"audit deny mount {kinds},", "audit deny mount fstype=proc,"} <= set(found)
    denied = [line.split()[3] for line in found if line.startswith("audit deny mount /")]
    assert [each.partition("{")[0] for each in denied] == ["/", "/proc/", "/proc/sys/"]
    sources = [re.compile(as_expression(each)) for each in denied]
    for path in ("/", "/proc/", "/proc/1/root/", "/proc/sys/", "/proc/sys/kernel/", "/sys/", "/etc/", "/run/netns/x"):
        assert any(each.fullmatch(path) for each in sources), path
    assert not any(each.fullmatch("/proc/sys/net/") for each in sources)


def as_expression(pattern: str) -> str:
    """Translate what these patterns use of AppArmor's: alternatives, classes, `**` and `?` (apparmor.d(5))."""
    text = re.sub(r"\{([^}]*)\}", lambda found: f"(?:{found[1].replace(',', '|')})", pattern)
    return text.replace("?**", "[^/].*").replace("**", ".*").replace("..*", ".*")
