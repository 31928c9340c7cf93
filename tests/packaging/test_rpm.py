"""The rpms: files, dependencies and scriptlets. rpm is real, in a Debian root; systemctl is a stand-in.

packaging/README.md says what remains untested because no Enterprise Linux is available here.
"""

from __future__ import annotations

import re

import pytest

from release.packages import ENTERPRISES, Enterprise
from tests.packaging.conftest import NEWER, Built

CODE = "/usr/share/sidespawn/sidespawn"
STOP = "stop sidespawn@*.socket sidespawn@*.timer sidespawn@*.service"
RPM = "rpm --force-debian --dbpath /build/database"
INSTALL = f"{RPM} --nodeps -i"
# Like a host with systemd where the service `a` is enabled.
HOST = (
    "mkdir -p /run/systemd/system /etc/systemd/system/multi-user.target.wants /run/sidespawn/a/answers /etc/sidespawn",
    "ln -s /usr/lib/systemd/system/sidespawn@.socket /etc/systemd/system/multi-user.target.wants/sidespawn@a.socket",
    "mkfifo /run/sidespawn/a/answers/doorbell",
    "echo 'extends = \"none\"' >/etc/sidespawn/a.toml",
    "rm -rf /build/database; : >/build/calls",
    "printf '#!/bin/sh\\necho \"$@\" >>/build/calls\\n' >/usr/bin/systemctl; chmod +x /usr/bin/systemctl",
)


def query(built: Built, number: int, *options: str) -> list[str]:
    return built.root.run("rpm", "-qp", *options, built.shown(built.rpms[number])).splitlines()


def on_a_host(built: Built, *lines: str) -> str:
    return built.script(*HOST, *lines)


@pytest.mark.parametrize("number", [9, 10])
def test_it_is_for_all_architectures_and_has_this_version(built: Built, number: int) -> None:
    (said,) = query(built, number, "--queryformat", "%{ARCH} %{VERSION} %{RELEASE}")
    assert said == f"noarch {built.source.distributions_version} 1.el{number}"


@pytest.mark.parametrize(
    ("number", "python", "yaml"),
    [(9, "python3.12", "python3.12-pyyaml >= 6.0"), (10, "python3 >= 3.12", "python3-pyyaml >= 6.0")],
    ids=["el9", "el10"],
)
def test_it_requires_a_python_that_the_distribution_has(built: Built, number: int, python: str, yaml: str) -> None:
    required = query(built, number, "--requires")
    assert python in required
    assert yaml in required
    assert "systemd >= 247" in required
    # No path that exists only in the root where it was built.
    others = [each for each in required if not each.startswith("rpmlib(")]
    assert set(others) == {python, yaml, "systemd", "systemd >= 247", "/bin/sh"}


def test_it_says_what_it_brings_along(built: Built) -> None:
    provided = query(built, 10, "--provides")
    bundled = dict(re.findall(r"bundled\(python3dist\(([\w-]+)\)\) = ([\d.]+)", "\n".join(provided)))
    assert bundled == dict(built.bundle.versions)
    assert {"click", "prometheus-client", "rich"} <= set(bundled)


@pytest.mark.parametrize("number", [9, 10])
def test_its_files(built: Built, number: int) -> None:
    files = query(built, number, "--list")
    for path in (
        "/usr/bin/sidespawn",
        f"{CODE}/run.py",
        "/usr/lib/systemd/system/sidespawn@.socket",
        "/usr/share/man/man1/sidespawn-enable.1.gz",
        "/usr/share/bash-completion/completions/sidespawn",
        "/usr/share/zsh/site-functions/_sidespawn",
        "/usr/share/fish/vendor_completions.d/sidespawn.fish",
        "/usr/share/sidespawn/bundled/click/__init__.py",
        f"{CODE}/selinux/sidespawn.cil",
        "/usr/lib/systemd/catalog/sidespawn.catalog",
        "/usr/lib/sysctl.d/60-sidespawn.conf",
    ):
        assert path in files
    outside = ("/usr/bin/", "/usr/lib/sysctl.d/", "/usr/lib/systemd/", "/usr/share/")
    assert [path for path in files if not path.startswith(outside)] == []
    assert not [path for path in files if "site-packages" in path or "__pycache__" in path]


@pytest.mark.parametrize("enterprise", ENTERPRISES, ids=lambda each: f"el{each.number}")
def test_units_command_and_dockers_runtime_name_its_python(built: Built, enterprise: Enterprise) -> None:
    number, python = enterprise.number, enterprise.python
    built.script(
        f"mkdir -p /build/of-{number}",
        f"{RPM} --root /build/of-{number} --nodeps --noscripts -i {built.shown(built.rpms[number])}",
    )
    target = built.root.build / f"of-{number}"
    files = (target / "usr/lib/systemd/system").iterdir()
    units = "".join(path.read_text() for path in files if not path.name.startswith("sidespawn-podman@"))
    commands = re.findall(r"^Exec\w+=(.*)$", units, re.MULTILINE)
    commands = [each for each in commands if not each.startswith("/usr/bin/sidespawn metrics ")]
    assert len(commands) == 4
    assert all(each.startswith(f"{python} -I -S {CODE}/run.py ") for each in commands)
    assert (target / "usr/bin/sidespawn").read_text().startswith(f"#!{python} -I\n")
    for engine in ("docker", "kubernetes", "agent"):
        assert f"{python} -IS " in (target / CODE.strip("/") / f"engines/{engine}-runtime").read_text()


def test_scriptlets_are_plain_shell_and_end_nothing(built: Built) -> None:
    script = "\n".join(query(built, 10, "--scripts"))
    for kind in ("preinstall", "postinstall", "preuninstall", "postuninstall"):
        assert f"{kind} scriptlet (using /bin/sh)" in script
    script = script.replace("'sidespawn-podman@*.socket'", "")  # where no side container is running
    assert not re.search(r"podman|docker|\bkill\b|disable|slice", script)


def test_installed_it_runs_with_what_it_brought_along(built: Built) -> None:
    said = on_a_host(
        built,
        "rm -r /usr/lib/python3/dist-packages/click /usr/lib/python3/dist-packages/rich",
        f"{INSTALL} {built.shown(built.rpms[10])} 2>&1",
        "sidespawn --version",
        "sidespawn check neutron-dhcp-dnsmasq",
        # The demo calls the command in a separate process.
        "cat >/build/stage <<'END'",
        "import sys; sys.path[:0] = ['/usr/share/sidespawn', '/usr/share/sidespawn/bundled']",
        "from sidespawn.cli.demo import stage",
        "print('demo', stage.sidespawn('--version', code=0).stdout)",
        "END",
        "python3 -I /build/stage",
        f"ls {CODE}/__pycache__ /usr/share/sidespawn/bundled/click/__pycache__",
        f"{RPM} --verify --nodeps sidespawn",
    )
    assert re.search(rf"^sidespawn, version {built.source.version}$", said, re.MULTILINE)
    assert f"demo sidespawn, version {built.source.version}" in said
    assert "can be changed by others" not in said
    assert len(re.findall(r"^run\.cpython-3\d+\.pyc$|^core\.cpython-3\d+\.pyc$", said, re.MULTILINE)) == 2


def test_an_upgrade_stops_the_runs_first_and_starts_the_sockets_last(built: Built) -> None:
    said = on_a_host(
        built,
        f"{INSTALL} {built.shown(built.rpms[10])} 2>&1",
        ": >/build/calls",
        f"{RPM} --nodeps -U {built.shown(built.newer_rpm)} 2>&1",
        "echo ---; sidespawn --version; echo ---; cat /build/calls",
    )
    messages, version, calls = said.split("---\n")
    assert NEWER in version
    # The stand-in's service has no valid policy: reported, but not a failure.
    assert "service a was not renewed" in messages
    first, reload, start, *rest = calls.splitlines()
    assert first == STOP
    assert reload == "daemon-reload"
    assert start == "start sidespawn@a.socket sidespawn@a.timer"
    assert rest == ["daemon-reload"]


def test_erased_it_stops_the_runs_and_leaves_what_enable_made(built: Built) -> None:
    said = on_a_host(
        built,
        f"{INSTALL} {built.shown(built.rpms[10])} >/dev/null 2>&1",
        ": >/build/calls",
        f"{RPM} --nodeps -e sidespawn 2>&1",
        "cat /build/calls",
        "ls -d /usr/share/sidespawn 2>&1 || true",
        "ls /etc/sidespawn; ls /etc/systemd/system/multi-user.target.wants",
    )
    assert said.splitlines() == [
        f"{STOP} sidespawn-podman@*.socket sidespawn-metrics.timer",
        "daemon-reload",
        "ls: cannot access '/usr/share/sidespawn': No such file or directory",
        "a.toml",
        "sidespawn@a.socket",
    ]


def test_where_no_systemd_runs_nothing_is_called(built: Built) -> None:
    said = on_a_host(
        built,
        "rmdir /run/systemd/system",
        f"{INSTALL} {built.shown(built.rpms[10])} 2>&1",
        f"{RPM} --nodeps -e sidespawn 2>&1",
        "cat /build/calls",
    )
    assert said == ""
