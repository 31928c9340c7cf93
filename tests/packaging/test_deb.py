"""Debian's package: its contents, and what it leaves in a root when it is installed, removed and purged.

tests/machine/test_package.py tries it on a host with systemd.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from release import packages
from release.source import CHECKOUT
from sidespawn.cli.main import cli
from tests.packaging.conftest import Built

CODE = "/usr/share/sidespawn/sidespawn"
UNITS = "/usr/lib/systemd/system"
VERBS = sorted(cli.commands)
# The root has its dependencies, except for systemd.
INSTALL = "dpkg --force-depends -i {deb} >/dev/null 2>&1"


@pytest.fixture(scope="module")
def unpacked(built: Built) -> Path:
    built.script(f"dpkg-deb -x {built.shown(built.deb)} /build/unpacked")
    return built.root.build / "unpacked"


def control(built: Built, field: str) -> str:
    return built.script(f"dpkg-deb -f {built.shown(built.deb)} {field}").strip()


def installed(built: Built, *lines: str) -> str:
    return built.script(INSTALL.format(deb=built.shown(built.deb)), *lines)


def test_lintian_has_no_errors_and_no_warnings(built: Built) -> None:
    said = packages.lint_deb(built.root, built.deb)
    assert packages.complaints(said) == [], said
    assert "N: " in said or "P: " in said  # it did look


def test_it_is_for_every_machine_and_the_python_and_systemd_that_it_needs(built: Built) -> None:
    assert control(built, "Architecture") == "all"
    assert control(built, "Version") == built.source.distributions_version
    assert control(built, "Maintainer") == built.source.maintainer
    needed = control(built, "Depends").split(", ")
    for each in (
        "python3 (>= 3.11)",
        "python3-click (>= 8.1.3)",
        "python3-rich (>= 13.3.1)",
        "python3-prometheus-client (>= 0.16.0)",
        "python3-yaml (>= 6.0)",
        "systemd (>= 247)",
    ):
        assert each in needed
    assert control(built, "Recommends").split(", ")[1] == "podman (>= 4.0) | docker.io (>= 20.10)"


def test_the_code_is_that_of_the_checkout(built: Built, unpacked: Path) -> None:
    """Check especially the wrapper, since agents get copies of it."""
    for path in (CHECKOUT / "src/sidespawn").rglob("*.*"):
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(CHECKOUT / "src/sidespawn")
            assert (unpacked / CODE.strip("/") / name).read_bytes() == path.read_bytes(), name


def test_nothing_is_where_python_looks_for_modules(unpacked: Path) -> None:
    assert not list(unpacked.rglob("*-packages"))
    assert [path.name for path in (unpacked / "usr/share/sidespawn").iterdir()] == ["sidespawn"]


def test_the_units_are_in_the_distributions_place_and_name_its_python(unpacked: Path) -> None:
    units = {path.name: path.read_text() for path in (unpacked / UNITS.strip("/")).iterdir()}
    metrics = ["sidespawn-metrics.service", "sidespawn-metrics.timer"]
    podman = ["sidespawn-podman@.service", "sidespawn-podman@.socket"]
    templates = [f"sidespawn@.{kind}" for kind in ("path", "service", "socket", "timer")]
    assert sorted(units) == [*metrics, *podman, "sidespawn-spool@.service", *templates]
    commands = [
        line
        for name, text in units.items()
        if name not in podman
        for line in re.findall(r"^Exec\w+=(.*)$", text, re.MULTILINE)
    ]
    (of_metrics,) = (each for each in commands if "metrics" in each)
    commands.remove(of_metrics)
    assert of_metrics.startswith("/usr/bin/sidespawn metrics ")
    assert len(commands) == 4
    assert all(each.startswith(f"/usr/bin/python3 -I -S {CODE}/run.py ") for each in commands)


def test_the_profiles_are_configuration_and_the_code_has_links_to_them(built: Built, unpacked: Path) -> None:
    listed = built.script(f"dpkg-deb --ctrl-tarfile {built.shown(built.deb)} | tar -xO ./conffiles").split()
    assert listed == ["/etc/apparmor.d/sidespawn-agent", "/etc/apparmor.d/sidespawn-side-container"]
    for path in listed:
        link = unpacked / CODE.strip("/") / "apparmor" / Path(path).name
        assert str(link.readlink()) == path
        assert (unpacked / path.strip("/")).read_text().count(f"profile {Path(path).name} ") == 1


def test_the_journals_catalogue_is_where_systemd_looks(unpacked: Path) -> None:
    """Installing it there triggers its compilation."""
    shipped = CHECKOUT / "src/sidespawn/catalog/sidespawn.catalog"
    assert (unpacked / "usr/lib/systemd/catalog/sidespawn.catalog").read_text() == shipped.read_text()


def test_it_raises_the_limits_that_all_of_roots_containers_share(unpacked: Path) -> None:
    shipped = CHECKOUT / "src/sidespawn/sysctl/60-sidespawn.conf"
    assert (unpacked / "usr/lib/sysctl.d/60-sidespawn.conf").read_text() == shipped.read_text()


def test_every_verb_has_its_manual_page(built: Built, unpacked: Path) -> None:
    pages = {path.name for path in (unpacked / "usr/share/man/man1").iterdir()}
    assert pages == {"sidespawn.1.gz", *(f"sidespawn-{verb}.1.gz" for verb in VERBS)}
    assert "SYNOPSIS" in installed(built, "man --warnings -l /build/unpacked/usr/share/man/man1/sidespawn-enable.1.gz")


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("bash-completion/completions/sidespawn", "_sidespawn_completion"),
        ("zsh/vendor-completions/_sidespawn", "#compdef sidespawn"),
        ("fish/vendor_completions.d/sidespawn.fish", "complete --no-files --command sidespawn"),
    ],
)
def test_each_shell_has_completion(unpacked: Path, path: str, function: str) -> None:
    assert function in (unpacked / "usr/share" / path).read_text()


def test_bash_completes_with_what_is_installed(built: Built) -> None:
    said = installed(
        built,
        "cat >/build/complete <<'END'",
        ". /usr/share/bash-completion/completions/sidespawn",
        "COMP_WORDS=(sidespawn en) COMP_CWORD=1",
        "_sidespawn_completion sidespawn",
        'echo "${COMPREPLY[@]}"',
        "END",
        "bash /build/complete",
    )
    assert said.split() == ["enable"]


def test_the_command_runs(built: Built) -> None:
    assert built.source.version in installed(built, "sidespawn --version")
    assert "neutron-dhcp-dnsmasq" in installed(built, "sidespawn presets")


def test_check_trusts_the_code_that_the_package_manager_owns(built: Built) -> None:
    said = installed(built, "sidespawn check neutron-dhcp-dnsmasq")
    assert "dnsmasq" in said
    assert "can be changed by others" not in said


def test_the_units_command_finds_only_itself_and_the_standard_library(built: Built) -> None:
    said = installed(
        built,
        "cat >/build/path.py <<'END'",
        f"import runpy, sys; sys.argv = ['run.py', 'sync', 'none']; sys.path.insert(0, '{CODE}')",
        "try:",
        f"    runpy.run_path('{CODE}/run.py', run_name='run')",
        "finally:",
        "    sys.path.remove(sys.argv and sys.path[0])",
        "print(*sys.path, sep='\\n')",
        "try:",
        "    import click",
        "except ImportError:",
        "    print('no click')",
        "END",
        "/usr/bin/python3 -I -S /build/path.py",
    )
    assert said.splitlines()[-2:] == ["/usr/share/sidespawn", "no click"]


def test_what_is_compiled_at_installation_goes_with_it(built: Built) -> None:
    assert "run.cpython" in installed(built, f"ls {CODE}/__pycache__")
    assert installed(built, "dpkg --remove sidespawn >/dev/null", "ls /usr/share/sidespawn 2>&1 || true").startswith(
        "ls:"
    )


def test_removal_keeps_configuration_and_purge_leaves_nothing(built: Built) -> None:
    said = built.script(
        "find / -xdev -not -path '/build/*' -not -path '/proc/*' -not -path '/var/lib/dpkg/*' | sort >/build/before",
        INSTALL.format(deb=built.shown(built.deb)),
        "mkdir -p /etc/sidespawn /etc/systemd/system/multi-user.target.wants /etc/systemd/system/sidespawn@a.service.d",
        "echo policy >/etc/sidespawn/a.toml",
        "echo option >/etc/systemd/system/sidespawn@a.service.d/engine.conf",
        "ln -s /nowhere /etc/systemd/system/multi-user.target.wants/sidespawn@a.socket",
        "useradd --uid 4242 --no-create-home sidespawn-4242",
        "useradd --uid 4243 --no-create-home sidespawn-other",
        "dpkg --remove sidespawn >/dev/null",
        "cat /etc/sidespawn/a.toml; ls /etc/apparmor.d/sidespawn-agent",
        "dpkg --purge sidespawn >/dev/null",
        "rmdir /etc/systemd/system/multi-user.target.wants",  # made by the test
        "find / -xdev -not -path '/build/*' -not -path '/proc/*' -not -path '/var/lib/dpkg/*' | sort >/build/after",
        "getent passwd | grep ^sidespawn | cut -d : -f 1",
        "diff /build/before /build/after || true",
    )
    kept, profile, account, *differences = said.splitlines()
    assert (kept, profile, account) == ("policy", "/etc/apparmor.d/sidespawn-agent", "sidespawn-other")
    # What useradd and apt's own programs write, and the root's systemd directories.
    ours = [line for line in differences if "sidespawn" in line]
    assert ours == []


def test_an_installation_by_pip_that_serves_is_left_alone_by_purge(built: Built) -> None:
    said = installed(
        built,
        "mkdir -p /etc/sidespawn /etc/systemd/system",
        "echo policy >/etc/sidespawn/a.toml",
        "echo 'ExecStart=/opt/bin/python3 -I -S /opt/lib/sidespawn/run.py sync %i' "
        ">/etc/systemd/system/sidespawn@.service",
        "dpkg --purge sidespawn 2>&1 | grep 'another installation'",
        "cat /etc/sidespawn/a.toml",
    )
    assert said.splitlines()[-1] == "policy"


def test_a_profile_that_pip_had_installed_is_no_question(built: Built) -> None:
    said = built.script(
        "mkdir -p /etc/apparmor.d",
        "echo 'profile sidespawn-agent {}' >/etc/apparmor.d/sidespawn-agent",
        f"dpkg --force-depends -i {built.shown(built.deb)} 2>&1 </dev/null",
        "cat /etc/apparmor.d/sidespawn-agent",
    )
    assert "onfiguration file" not in said
    assert "deny capability sys_module" in said


def test_an_operators_profile_is_kept(built: Built) -> None:
    said = installed(
        built,
        "echo '# mine' >>/etc/apparmor.d/sidespawn-agent",
        f"dpkg --force-depends --force-confdef -i {built.shown(built.deb)} >/dev/null 2>&1 </dev/null",
        "tail -n 1 /etc/apparmor.d/sidespawn-agent",
    )
    assert said.strip() == "# mine"
