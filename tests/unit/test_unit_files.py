"""Where the unit files are: where a distribution's package puts them, otherwise where `enable` writes them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from sidespawn.setup import security_modules, systemd

METRICS = ["sidespawn-metrics.service", "sidespawn-metrics.timer"]
NAMES = [
    *METRICS,
    *("sidespawn-podman@.service", "sidespawn-podman@.socket"),
    "sidespawn-spool@.service",
    *("sidespawn@.path", "sidespawn@.service", "sidespawn@.socket", "sidespawn@.timer"),
]
PACKAGES_PYTHON = "/usr/bin/python3"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INSTALLED", "PACKAGED"):
        monkeypatch.setattr(systemd, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the arguments of systemctl."""
    calls: list[str] = []
    monkeypatch.setattr(systemd, "systemctl", lambda *arguments: calls.append(" ".join(arguments)))
    return calls


def put(directory: Path, python: str = PACKAGES_PYTHON, package: str = str(systemd.PACKAGE)) -> None:
    """Write the units of `package`."""
    for name, content in systemd.contents(python).items():
        (directory / name).write_text(content.replace(str(systemd.PACKAGE), package))


def installed() -> list[str]:
    return sorted(path.name for path in systemd.INSTALLED.iterdir())


def test_without_a_package_they_are_written_to_etc() -> None:
    assert not systemd.is_packaged()
    assert systemd.install_templates() == NAMES == installed()
    assert "@" not in (systemd.INSTALLED / "sidespawn@.service").read_text().split("ExecStart=")[1].splitlines()[0]
    assert systemd.install_templates() == []


def test_the_packages_own_are_used_where_they_are() -> None:
    put(systemd.PACKAGED)
    assert systemd.is_packaged()
    assert systemd.install_templates() == []
    assert installed() == []


def test_the_package_chooses_its_interpreter() -> None:
    put(systemd.PACKAGED, python="/usr/bin/python3.12")
    assert systemd.is_packaged()


@pytest.mark.parametrize("name", NAMES)
def test_a_package_whose_units_are_not_of_this_version_does_not_count(name: str) -> None:
    put(systemd.PACKAGED)
    (systemd.PACKAGED / name).write_text((systemd.PACKAGED / name).read_text() + "\n# other\n")
    assert not systemd.is_packaged()
    assert systemd.install_templates() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_package_that_lacks_a_unit_does_not_count(name: str) -> None:
    put(systemd.PACKAGED)
    (systemd.PACKAGED / name).unlink()
    assert not systemd.is_packaged()


def test_units_of_a_package_in_another_place_do_not_count() -> None:
    put(systemd.PACKAGED, package="/usr/share/other/sidespawn")
    assert not systemd.is_packaged()
    assert systemd.install_templates() == NAMES


def test_what_another_installation_left_is_removed() -> None:
    put(systemd.PACKAGED)
    put(systemd.INSTALLED, "/opt/sidespawn/bin/python3.11", "/opt/sidespawn/lib/python3.11/site-packages/sidespawn")
    assert [path.name for path in systemd.left_over()] == NAMES
    assert systemd.install_templates() == NAMES
    assert installed() == []
    assert systemd.left_over() == []


def test_an_operators_copy_is_kept() -> None:
    """`systemctl edit --full` makes such a copy."""
    put(systemd.PACKAGED)
    copy = systemd.INSTALLED / "sidespawn@.service"
    copy.write_text(systemd.contents(PACKAGES_PYTHON)[copy.name] + "Nice=5\n")
    assert systemd.left_over() == []
    assert systemd.install_templates() == []
    assert installed() == [copy.name]


def test_drop_ins_and_links_are_not_counted() -> None:
    put(systemd.PACKAGED)
    (systemd.INSTALLED / "sidespawn@a.service.d").mkdir()
    (systemd.INSTALLED / "multi-user.target.wants").mkdir()
    (systemd.INSTALLED / "multi-user.target.wants/sidespawn@a.socket").symlink_to("/nowhere")
    assert systemd.install_templates() == []
    assert systemd.is_any_enabled()


def test_with_the_last_service_the_written_ones_go(stopped: list[str]) -> None:
    systemd.install_templates()
    assert systemd.remove_templates() == NAMES
    assert installed() == []
    assert stopped


def test_with_the_last_service_the_packages_own_stay(stopped: list[str]) -> None:
    put(systemd.PACKAGED)
    assert systemd.remove_templates() == []
    assert sorted(path.name for path in systemd.PACKAGED.iterdir()) == NAMES
    assert stopped


# ---------------------------------------------------------------- AppArmor


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the loaded profiles. The existing one belongs to a distribution's package."""
    calls: list[str] = []
    (tmp_path / "apparmor.d").mkdir()
    (tmp_path / "apparmor.d/sidespawn-agent").write_text("profile, and a line of the operator's")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/sidespawn-agent").symlink_to(tmp_path / "apparmor.d/sidespawn-agent")
    (tmp_path / "kernel").write_text("something-else (enforce)\n")
    monkeypatch.setattr(security_modules, "APPARMOR_HOME", tmp_path / "apparmor.d")
    monkeypatch.setattr(security_modules, "PROFILES", tmp_path / "profiles")
    monkeypatch.setattr(security_modules, "LOADED", tmp_path / "kernel")
    monkeypatch.setattr(security_modules, "tool", lambda *argv, fails=False: calls.append(argv[-1]))
    return calls


def test_a_packages_profile_is_loaded_once_and_not_rewritten(loaded: list[str]) -> None:
    path = security_modules.APPARMOR_HOME / "sidespawn-agent"
    security_modules.install_profiles()
    assert loaded == [str(path)]
    security_modules.LOADED.write_text("sidespawn-agent (enforce)\n")
    security_modules.install_profiles()
    assert loaded == [str(path)]
    assert path.read_text() == "profile, and a line of the operator's"


def test_a_packages_profile_stays_with_the_last_service(loaded: list[str]) -> None:
    security_modules.remove()
    assert loaded == []
    assert (security_modules.APPARMOR_HOME / "sidespawn-agent").exists()


def options(name: str) -> dict[str, str]:
    """Return the last value of each option of a shipped unit."""
    lines = (systemd.SHIPPED / name).read_text(encoding="utf-8").splitlines()
    return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}


def test_a_podman_that_cannot_start_is_not_started_for_requests_that_have_given_up() -> None:
    """Have systemd close waiting connections. Without limits, it would start podman as long as one waits."""
    found = options("sidespawn-podman@.socket")
    assert (found["StartLimitIntervalSec"], found["TriggerLimitIntervalSec"], found["FlushPending"]) == (
        "0",
        "0",
        "yes",
    )


@pytest.mark.parametrize(
    ("code", "status", "sleeps"),
    [("exited", "0", False), ("exited", "125", True), ("killed", "KILL", False), ("dumped", "SEGV", False)],
)
def test_podman_pauses_only_after_an_exit_with_an_error(tmp_path: Path, code: str, status: str, sleeps: bool) -> None:
    """Replace a killed podman at once."""
    program, *arguments = shlex.split(options("sidespawn-podman@.service")["ExecStopPost"])
    fake = tmp_path / "sleep"
    fake.write_text("#!/bin/sh\necho slept $1\n")
    fake.chmod(0o755)
    environment = {"PATH": str(tmp_path), "EXIT_CODE": code, "EXIT_STATUS": status}
    done = subprocess.run((program, *arguments), env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ("slept 0.2\n" if sleeps else "")
