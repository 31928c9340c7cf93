"""The drop-in that confines a service's unit, built from its engine and its policy."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sidespawn.cli import enable
from sidespawn.core.policy import Policy
from sidespawn.loading.parse import ENGINES
from sidespawn.recipes import containers
from sidespawn.setup import hardening, systemd
from sidespawn.setup.systemd import SHIPPED
from sidespawn.system.places import Places
from sidespawn.system.processes import Output
from tests.unit import small


def options(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def made(capabilities: str = "[]", engine: str = "podman", kind: str = "") -> dict[str, list[str]]:
    """Return the drop-in of the service's own unit, or of the given kind of unit."""
    changes = (('capabilities = ["NET_RAW", "NET_ADMIN"]', f"capabilities = {capabilities}"),)
    return options(hardening.text_of(small.load(*changes, ('engine = "podman"', f'engine = "{engine}"')), kind))


def of_podman(capabilities: str = "[]") -> dict[str, list[str]]:
    """Return the drop-in of the unit in which a service's podman runs."""
    return made(capabilities, kind="podman-service")


@pytest.mark.parametrize("kind", [*ENGINES, "podman-service"])
def test_every_engine_has_one_with_nothing_left_to_fill_in(kind: str) -> None:
    text = hardening.text_of(small.load(), kind)
    assert "@MEMORY@" not in text
    assert not [word for word in ("@CAPABILITIES@", "@NO_NEW_PRIVILEGES@", "@TASKS@", "@MORE@") if word in text]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_list_is_emptied_by_an_empty_assignment(engine: str) -> None:
    """Options without a value would reset the lines before them: the bound would be nothing, or everything."""
    for name, values in [*made("[]", engine).items(), *of_podman().items()]:
        assert all(values), name


def test_podman_gets_the_capabilities_of_the_policy() -> None:
    assert "CAP_NET_RAW" in " ".join(of_podman('["NET_RAW"]')["CapabilityBoundingSet"]).split()
    assert "CAP_NET_RAW" not in " ".join(of_podman("[]")["CapabilityBoundingSet"]).split()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_service_itself_gets_none_of_them(engine: str) -> None:
    assert made('["NET_RAW"]', engine)["CapabilityBoundingSet"] == made("[]", "docker")["CapabilityBoundingSet"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_service_has_a_private_network_with_every_engine(engine: str) -> None:
    found = made("[]", engine)
    assert (found["PrivateNetwork"], found["PrivateMounts"]) == (["yes"], ["no"])


def test_only_with_podman_is_there_one_for_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "INSTALLED", tmp_path)
    podman, docker = small.load(), small.load(('engine = "podman"', 'engine = "docker"'))
    path = hardening.drop_in(podman.service, hardening.PODMAN)
    assert hardening.install(podman)
    assert path.read_text() == hardening.text_of(podman, "podman-service")
    path.unlink()
    assert not hardening.is_current(podman)
    assert hardening.install(podman)
    assert not hardening.is_current(docker)
    assert hardening.install(docker)
    assert not path.parent.exists()
    assert hardening.is_current(docker)


def test_who_adopts_from_podman_may_use_podman() -> None:
    adopt = '\n[adopt]\nname = "x-{net}"\nimage = "<text>"\nengine = "podman"\n'
    docker = small.changed(('engine = "podman"', 'engine = "docker"'))
    of_both = options(hardening.text_of(small.parse(docker + adopt)))
    assert of_both == options(hardening.text_of(small.parse(small.POLICY)))
    assert of_both != options(hardening.text_of(small.parse(docker)))


def test_a_policy_with_sys_nice_may_have_real_time() -> None:
    assert of_podman('["SYS_NICE"]')["RestrictRealtime"] == ["no"]
    assert "RestrictRealtime" not in of_podman('["NET_RAW"]')


def test_more_at_a_time_may_take_more() -> None:
    def of(parallel: int) -> dict[str, list[str]]:
        return options(hardening.text_of(small.parse(f"{small.POLICY}\n[pace]\nparallel = {parallel}\n")))

    assert (of(4)["MemoryMax"], of(4)["TasksMax"]) == (["512M"], ["192"])
    assert (of(64)["MemoryMax"], of(64)["TasksMax"]) == (["4352M"], ["2112"])


@pytest.mark.parametrize(("selinux", "wanted"), [(True, "no"), (False, "yes")])
def test_selinux_decides_of_new_privileges(monkeypatch: pytest.MonkeyPatch, selinux: bool, wanted: str) -> None:
    monkeypatch.setattr(hardening, "has_selinux", lambda: selinux)
    assert of_podman()["NoNewPrivileges"] == [wanted]


def test_apparmors_profile_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "has_apparmor", lambda: True)
    assert "CAP_MAC_ADMIN" in " ".join(of_podman()["CapabilityBoundingSet"]).split()
    assert "CAP_MAC_ADMIN" not in " ".join(made()["CapabilityBoundingSet"]).split()


def test_it_is_written_once_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "INSTALLED", tmp_path)
    policy = small.load()
    assert (hardening.install(policy), hardening.install(policy)) == (True, False)
    assert hardening.is_current(policy)
    assert not hardening.is_current(small.load(('"NET_RAW", "NET_ADMIN"', '"NET_RAW"')))
    assert (hardening.remove(policy.service), hardening.remove(policy.service)) == (True, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(SHIPPED.iterdir()), ids=lambda path: path.name)
def test_no_unit_has_a_mount_namespace_of_its_own(path: Path) -> None:
    """sidespawn@.service says what would break."""
    found = options(path.read_text(encoding="utf-8"))
    private = ["System", "Home", "Proc", "KernelTunables", "KernelModules", "KernelLogs", "ControlGroups"]
    paths = ["ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "TemporaryFileSystem", "ProcSubset"]
    private = [*(f"Protect{each}" for each in private), "PrivateTmp", "PrivateDevices", *paths]
    assert not set(found) & set(private)
    # From systemd 254 on, the first would imply a mount namespace if the second were missing.
    assert (found.get("PrivateNetwork"), found.get("PrivateMounts")) in ((None, None), (["yes"], ["no"]))


def test_pods_of_kubernetes_are_removed_at_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove only the pods of this service, and only if it uses this engine."""
    monkeypatch.setattr(hardening, "INSTALLED", tmp_path / "units")
    monkeypatch.setattr(hardening, "TMPFILES", tmp_path / "tmpfiles")
    pods, podman = (small.load(('engine = "podman"', f'engine = "{each}"')) for each in ("kubernetes", "podman"))
    path = tmp_path / f"tmpfiles/sidespawn@{pods.service}.conf"
    (tmp_path / "units").mkdir()
    assert hardening.install(pods)
    assert path.read_text().splitlines()[1:] == [f"r! /etc/kubernetes/manifests/sidespawn.{pods.service}_*.json"]
    assert hardening.is_current(pods)
    assert not hardening.is_current(podman)
    assert hardening.install(podman)
    assert not path.exists()
    assert path.parent.exists()
    hardening.install(pods)
    assert hardening.remove(pods.service)
    assert not path.exists()


def test_no_services_file_is_that_of_the_agents() -> None:
    """Operators write that file from what `sidespawn agent-options` prints, and a service may have any name."""
    assert Path(containers.TMPFILES) not in hardening.files("agents")
    assert Path(containers.TMPFILES).parent == hardening.TMPFILES


# ---------------------------------------------------------------- a podman that runs while its unit changes


class Host:
    """A host with a systemd that knows podman's unit by two files, one of them gone by now."""

    def __init__(self, home: Path) -> None:
        self.template, self.drop_in = home / "sidespawn-podman@.service", home / "drop-ins/engine.conf"
        self.drop_in.parent.mkdir()
        self.template.touch()
        self.drop_in.touch()
        self.calls: list[tuple[str, ...]] = []
        self.start_podman()

    def start_podman(self) -> None:
        time.sleep(0.05)  # the kernel's times of files are that coarse
        self.started = time.monotonic()
        time.sleep(0.05)

    def run(self, argv: tuple[str, ...], timeout: float) -> Output:
        self.calls.append(argv[1:])
        times = f"ExecMainStartTimestampMonotonic={self.started * 1e6:.0f}"
        files = f"FragmentPath={self.template}\nDropInPaths={self.drop_in} {self.template}.d/gone.conf"
        return Output(0, f"{times}\n{files}\n", "")

    def enabling_ends_podman(self, policy: Policy) -> bool:
        self.calls.clear()
        enable.apply(Places(policy.service), policy, None)
        stop, reload = ("stop", f"sidespawn-podman@{policy.service}.service"), ("daemon-reload",)
        if stop in self.calls and reload in self.calls:
            assert self.calls.index(stop) > self.calls.index(reload)  # the next one would have the old confinement
        return stop in self.calls


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(systemd, "run", made.run)
    monkeypatch.setattr(hardening, "INSTALLED", tmp_path)
    monkeypatch.setattr(systemd, "install_templates", list)
    return made


def test_a_running_podman_ends_if_the_policy_changes_its_confinement(host: Host) -> None:
    """Otherwise it would start side containers without their new capabilities, and report nothing."""
    policy = small.load()
    assert host.enabling_ends_podman(policy)
    assert not host.enabling_ends_podman(policy)
    assert host.enabling_ends_podman(small.load(('"NET_RAW", "NET_ADMIN"', '"NET_RAW", "SYS_NICE"')))


@pytest.mark.parametrize("changed", ["sidespawn-podman@.service", "drop-ins/engine.conf", "drop-ins"])
def test_a_running_podman_ends_if_it_is_older_than_its_units_files(host: Host, tmp_path: Path, changed: str) -> None:
    """Check the times, since the text may be current: a package has replaced the unit, an earlier run of `enable` was
    killed, or a drop-in is gone.
    """
    policy = small.load()
    host.enabling_ends_podman(policy)
    assert not host.enabling_ends_podman(policy)
    os.utime(tmp_path / changed, (0, 0))  # packages set it; the kernel notes when it was changed
    assert host.enabling_ends_podman(policy)
    host.start_podman()
    assert not host.enabling_ends_podman(policy)


def test_a_podman_that_never_ran_is_not_stopped(host: Host) -> None:
    policy = small.load()
    host.enabling_ends_podman(policy)
    host.started = 0
    assert not host.enabling_ends_podman(policy)
