"""`sidespawn check` on many kinds of hosts, from their facts: kernel, systemd, engines, code, journal."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn import host_report
from sidespawn.engines import docker
from sidespawn.engines.api import Answer
from sidespawn.errors import LaunchError, Reason
from sidespawn.host_report import (
    engines,
    file_systems,
    journal,
    kernel,
    network_namespaces,
    service_manager,
    suitability,
    trusted_code,
)
from sidespawn.host_report.findings import Finding, State, Topic, ok, problem, warning, worst
from sidespawn.setup.services import Service, engines_in_use
from sidespawn.system import kernel as calls
from sidespawn.system.processes import Output
from tests.unit import small
from tests.unit.shipped import preset

NONE: frozenset[str] = frozenset()


def states(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the worst state for each id."""
    found = list(findings)
    return {each.id: worst(other for other in found if other.id == each.id).value for each in found}


def the(findings: Iterable[Finding], topic: str) -> Finding:
    (found,) = [each for each in findings if each.id == topic]
    return found


# ---------------------------------------------------------------- the kernel


def test_a_kernel_that_has_everything() -> None:
    found = list(kernel.judge(kernel.Facts(release="6.1.0-18-amd64")))
    assert set(states(found).values()) == {"ok"}
    assert [each.id for each in found] == ["kernel", "control-groups", "memory-controller", "pids-controller"]


@pytest.mark.parametrize(
    ("release", "number", "hint"), [("5.4.0", errno.ENOSYS, "boot Linux 5.6"), ("6.1.0", errno.EPERM, "seccomp")]
)
def test_openat2_is_what_counts_and_not_the_release(release: str, number: int, hint: str) -> None:
    found = the(kernel.judge(kernel.Facts(release=release, openat2=number)), "kernel")
    assert found.state is State.PROBLEM
    assert os.strerror(number) in found.found
    assert hint in found.hint
    assert the(kernel.judge(kernel.Facts(release="5.4.0-backported")), "kernel").state is State.OK


@pytest.mark.parametrize("version", ["v1", "hybrid", "none"])
def test_other_control_groups_are_a_problem(version: str) -> None:
    found = list(kernel.judge(kernel.Facts(release="6.1", control_groups=version)))
    assert states(found) == {"kernel": "ok", "control-groups": "problem"}
    assert version in found[1].found


@pytest.mark.parametrize("controller", ["memory", "pids"])
def test_a_controller_that_the_host_lacks(controller: str) -> None:
    others = frozenset({"memory", "pids", "cpu"}) - {controller}
    found = states(kernel.judge(kernel.Facts(release="6.1", controllers=others)))
    assert found.pop(f"{controller}-controller") == "warning"
    assert set(found.values()) == {"ok"}


def test_a_controller_that_is_not_delegated_to_the_slice() -> None:
    facts = kernel.Facts(
        release="6.1", slices={"sidespawn-a.slice": frozenset({"pids"}), "b": frozenset(kernel.LIMITS)}
    )
    found = the(kernel.judge(facts), "memory-controller")
    assert found.state is State.WARNING
    assert "sidespawn-a.slice" in found.found
    assert "DisableControllers=" in found.hint
    assert states(kernel.judge(facts))["pids-controller"] == "ok"


def test_this_kernel() -> None:
    facts = kernel.look(("no-such-service",))
    assert (facts.release, facts.openat2, facts.slices) == (os.uname().release, 0, {})


def test_an_openat2_that_fails_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SYS_OPENAT2", 100_000)
    assert kernel.try_openat2() == errno.ENOSYS


@pytest.mark.parametrize(
    ("files", "version"),
    [
        (("cgroup.controllers",), "v2"),
        (("unified/cgroup.controllers", "memory/tasks"), "hybrid"),
        (("memory/tasks",), "v1"),
        ((), "none"),
    ],
)
def test_which_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], version: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(kernel, "CONTROL_GROUPS", tmp_path)
    assert kernel.version_of_control_groups() == version


def test_a_slice_counts_while_something_runs_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "slice_path", lambda service: tmp_path / service)
    assert kernel.delegated("a") is None
    (tmp_path / "a").mkdir()
    (tmp_path / "a/cgroup.controllers").write_text("pids\n")
    assert kernel.delegated("a") is None
    (tmp_path / "a/libpod-x.scope").mkdir()
    assert kernel.delegated("a") == frozenset({"pids"})


# ---------------------------------------------------------------- systemd


@pytest.mark.parametrize(
    ("version", "used", "state", "said"),
    [
        ("262~rc1", {"systemd"}, "ok", ""),
        ("257.9-1~deb13u1", {"systemd"}, "ok", ""),
        ("252.38-1~deb12u1", set(), "ok", ""),
        ("249.11-0ubuntu3", {"systemd"}, "ok", ""),
        ("248", {"systemd"}, "warning", "RestrictAddressFamilies=none"),
        ("247.3-7", {"podman"}, "warning", "RestrictAddressFamilies=none"),
        ("247.3-7", {"systemd"}, "problem", "PrivateIPC="),
        ("246", set(), "problem", "247"),
        ("", set(), "problem", "gives no version"),
        ("devel", set(), "problem", "gives no version"),
    ],
)
def test_what_a_version_of_systemd_lacks(version: str, used: set[str], state: str, said: str) -> None:
    found = list(service_manager.judge(service_manager.Facts(pid_1="systemd", version=version), frozenset(used)))
    assert states(found) == {"systemd": state}
    assert any(said in each.sentence for each in found)


def test_a_host_that_systemd_has_not_booted() -> None:
    (found,) = service_manager.judge(service_manager.Facts(pid_1="docker-init", is_booted=False), NONE)
    assert found.state is State.PROBLEM
    assert "docker-init" in found.found


@pytest.mark.parametrize("fault", ["hangs", "fails"])
def test_a_systemd_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def run(argv: tuple[str, ...], timeout: float) -> Output:
        if fault == "hangs":
            raise LaunchError(Reason.ENGINE_TIMEOUT, "systemctl show took more than 30 s")
        return Output(1, "", "Failed to connect to bus: No such file or directory\n")

    monkeypatch.setattr(service_manager, "run", run)
    monkeypatch.setattr(service_manager, "is_booted", lambda: True)
    (found,) = service_manager.judge(service_manager.look(), NONE)
    assert found.state is State.PROBLEM
    assert ("30 s" if fault == "hangs" else "Failed to connect") in found.found


# ---------------------------------------------------------------- engines

PODMAN = engines.Podman(version="5.4.2", runtime="/usr/bin/crun", store="/var/lib/containers/storage", images=3)
DOCKER = engines.Docker(version="26.1", api="1.45", runtime=str(engines.DOCKER_RUNTIME), live_restore=True)
GOOD = engines.Facts(podman=PODMAN, docker=DOCKER, bus=engines.Bus())
ALL = frozenset({"podman", "docker", "systemd"})


def test_engines_that_work() -> None:
    assert set(states(engines.judge(GOOD, ALL)).values()) == {"ok"}
    assert "the docker command is not needed" in the(engines.judge(GOOD, ALL), "docker").found


@pytest.mark.parametrize(
    ("facts", "said", "hint"),
    [
        (engines.Podman(is_installed=False), "not installed", "install podman"),
        (replace(PODMAN, version="3.4.4"), "podman 3.4.4", "4.0"),
        (replace(PODMAN, error="no configuration"), "no configuration", "podman info"),
        (replace(PODMAN, error="'Error: default OCI runtime \"x\" not found'"), "not found", "install crun or runc"),
        (replace(PODMAN, error="'Error: could not find \"netavark\" in one of'"), "netavark", "install netavark"),
        (replace(PODMAN, error="only netavark. Got unsupported network backend 'cni'"), "cni", "network_backend"),
        (replace(PODMAN, error="unsupported network backend 'cni', only netavark is"), "cni", "network_backend"),
        (replace(PODMAN, error="the BoltDB database backend was removed in Podman 6.0"), "6.0", "database_backend"),
        (replace(PODMAN, error="rename or remove the legacy database at '/x'"), "legacy database", "reboot"),
        (replace(PODMAN, has_runtime=False), "/usr/bin/crun does not exist", "install crun or runc"),
        (replace(PODMAN, manager="cgroupfs"), "cgroupfs", "cgroup_manager"),
        (engines.Podman(error="/usr/bin/podman info took more than 60 s"), "took more than 60 s", "podman info"),
    ],
)
def test_a_podman_that_cannot_start_anything(facts: engines.Podman, said: str, hint: str) -> None:
    host = replace(GOOD, podman=facts)
    found = the(engines.judge(host, frozenset({"podman"})), "podman")
    assert found.state is State.PROBLEM
    assert said in found.found
    assert hint in found.hint
    unused = the(engines.judge(host, frozenset({"docker"})), "podman")
    assert unused.state is State.OK
    assert "no enabled service uses it" in unused.found


@pytest.mark.parametrize(
    ("facts", "said", "hint"),
    [
        (engines.Docker(is_installed=False), "/run/docker.sock", "docker.io"),
        (engines.Docker(is_running=False), "is not running", "systemctl start docker"),
        (engines.Docker(refusal="400: 'client version 1.41 is too old'"), "too old", "min-api-version"),
        (engines.Docker(error="docker took more than 60 s", hint="systemctl restart docker"), "60 s", "restart docker"),
        (engines.Docker(error="it is odd"), "it is odd", "systemctl status docker"),
    ],
)
def test_a_docker_that_cannot_start_anything(facts: engines.Docker, said: str, hint: str) -> None:
    found = the(engines.judge(replace(GOOD, docker=facts), frozenset({"docker"})), "docker")
    assert found.state is State.PROBLEM
    assert said in found.found
    assert hint in found.hint
    assert states(engines.judge(replace(GOOD, docker=facts), frozenset({"podman"})))["docker"] == "ok"


def test_settings_that_docker_needs() -> None:
    bare = replace(DOCKER, runtime="", live_restore=False)
    found = list(engines.judge(replace(GOOD, docker=bare), frozenset({"docker"})))
    runtime, live = the(found, "docker-runtime"), the(found, "docker-live-restore")
    assert (runtime.state, live.state) == (State.PROBLEM, State.WARNING)
    assert str(engines.DOCKER_RUNTIME) in runtime.hint
    assert '{"live-restore": true}' in live.hint
    other = replace(DOCKER, runtime="/opt/old/docker-runtime")
    assert "/opt/old" in the(engines.judge(replace(GOOD, docker=other), frozenset({"docker"})), "docker-runtime").found
    unused = states(engines.judge(replace(GOOD, docker=bare), frozenset({"podman"})))
    assert "problem" not in unused.values()
    no_python = replace(GOOD, docker=replace(DOCKER, has_python=False))
    assert states(engines.judge(no_python, frozenset({"docker"})))["docker-runtime"] == "problem"


def test_at_least_one_engine_must_work() -> None:
    nothing = engines.Facts(
        podman=engines.Podman(is_installed=False),
        docker=engines.Docker(is_installed=False),
        bus=engines.Bus(error="the bus cannot be used"),
    )
    assert states(engines.judge(nothing, NONE))["engines"] == "problem"
    only_systemd = replace(nothing, bus=engines.Bus())
    assert states(engines.judge(only_systemd, NONE))["engines"] == "warning"
    assert "engines" not in states(engines.judge(only_systemd, frozenset({"systemd"})))
    assert states(engines.judge(nothing, frozenset({"systemd"})))["systemd-bus"] == "problem"
    assert "engines" not in states(engines.judge(replace(nothing, docker=DOCKER), NONE))


INFO = {
    "host": {"ociRuntime": {"path": sys.executable}, "cgroupManager": "systemd"},
    "store": {"graphRoot": "/store", "imageStore": {"number": 2}},
    "version": {"Version": "5.4.2"},
}


@pytest.mark.parametrize(
    ("code", "printed", "said"),
    [
        (0, json.dumps(INFO), ""),
        (0, json.dumps(INFO | {"host": {"ociRuntime": None, "cgroupManager": "systemd"}}), "runc: not found"),
        (0, "{}", "it printed"),
        (0, "no JSON", "it printed"),
        (125, "", "runc: not found"),
    ],
)
def test_what_podman_says_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, printed: str, said: str
) -> None:
    def run(argv: tuple[str, ...], timeout: float) -> Output:
        if argv[1] == "--version":
            return Output(0, "podman version 4.3.1\n", "")
        return Output(code, printed, "warning\nruntime runc: not found\n")

    monkeypatch.setattr(engines, "run", run)
    monkeypatch.setattr(engines, "PODMAN", sys.executable)
    found = engines.look_at_podman()
    assert said in found.error
    assert bool(said) == bool(found.error)
    if not said:
        assert (found.version, found.runtime, found.store, found.images) == ("5.4.2", sys.executable, "/store", 2)
    if code:
        assert found.version == "4.3.1"


def test_a_docker_that_is_not_used_is_not_started_by_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr(engines, "DOCKER_PID", tmp_path / "docker.pid")
    assert engines.look_at_docker(is_used=False) == engines.Docker(is_installed=False)
    (tmp_path / "docker.sock").touch()
    assert engines.look_at_docker(is_used=False) == engines.Docker(is_running=False)
    assert "cannot be asked" in engines.look_at_docker(is_used=True).error


@pytest.mark.parametrize(
    ("status", "version", "info", "expected"),
    [
        (400, {"message": "client version 1.41 is too old"}, {}, "too old"),
        (200, {"Version": "26.1", "ApiVersion": "1.45"}, {"LiveRestoreEnabled": True}, ""),
        (200, {}, {}, "lacks"),
        (200, None, None, "lacks"),
    ],
)
def test_what_docker_says_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, version: object, info: object, expected: str
) -> None:
    answers = {"/version": Answer(status, version), "/info": Answer(200, info)}
    monkeypatch.setattr(docker, "SOCKET", str(tmp_path))
    monkeypatch.setattr(docker, "ask", lambda method, path, body, timeout: answers[path])
    found = engines.look_at_docker(is_used=True)
    assert expected in found.error + found.refusal
    if not expected:
        assert (found.version, found.api, found.runtime, found.live_restore) == ("26.1", "1.45", "", True)


def test_engines_in_use_are_those_of_enabled_services() -> None:
    policies = {"podman": small.load(), "docker": small.load(('engine = "podman"', 'engine = "docker"'))}
    services = [Service(name=name, policy=policy, is_enabled=True) for name, policy in policies.items()]
    services.append(Service(name="broken", policy=None, is_enabled=True))
    assert engines_in_use(services) == {"podman", "docker"}
    assert engines_in_use([replace(each, is_enabled=each.name == "docker") for each in services]) == {"docker"}
    adopting = preset("neutron-dhcp-dnsmasq")
    assert adopting.adopt is not None
    other = replace(adopting, adopt=replace(adopting.adopt, engine="docker"))
    assert engines_in_use([Service(name="a", policy=other, is_enabled=True)]) == {"podman", "docker"}


# ---------------------------------------------------------------- the code

UNIT = "[Service]\nExecStart=PYTHON -I -S /opt/sidespawn/run.py sync %i\n"


def test_this_python_can_serve_requests() -> None:
    found = trusted_code.look_at(sys.executable)
    assert (found.error, found.exists) == ("", True)
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert trusted_code.judge_interpreter(found).state is State.OK


HIDING = """#!/bin/sh
# Called as the units call Python: -B -I -S -c CODE RUN_PY.
shift 4
code=$1
shift
exec {python} -B -I -S -c 'import sys
{hide}
code = sys.argv.pop(1)
exec(code)' "$code" "$@"
"""
# What a Python built with --with-builtin-hashlib-hashes=blake2 lacks.
BUILT_IN = ("_md5", "_sha1", "_sha2", "_sha256", "_sha512", "_sha3")


def python_without(tmp_path: Path, *modules: str, more: str = "") -> str:
    path = tmp_path / "python"
    hide = "\n".join([f"sys.modules[{each!r}] = None" for each in modules] + [more])
    path.write_text(HIDING.format(python=sys.executable, hide=hide.replace("'", '"')))
    path.chmod(0o755)
    return str(path)


def test_a_python_that_has_sha_2_only_of_openssl(tmp_path: Path) -> None:
    found = trusted_code.judge_interpreter(trusted_code.look_at(python_without(tmp_path, *BUILT_IN)))
    assert found.state is State.OK, found.sentence
    assert "SHA-256 of OpenSSL" in found.found


def test_openssl_in_fips_mode(tmp_path: Path) -> None:
    fips = "import _hashlib; _hashlib.get_fips_mode = lambda: 1"
    found = trusted_code.judge_interpreter(trusted_code.look_at(python_without(tmp_path, *BUILT_IN, more=fips)))
    assert found.state is State.OK, found.sentence
    assert "OpenSSL in FIPS mode" in found.found


@pytest.mark.parametrize(
    ("modules", "said"), [((*BUILT_IN, "_hashlib"), "sha256"), (("ctypes",), "ctypes"), (("tomllib",), "tomllib")]
)
def test_a_python_that_lacks_something(tmp_path: Path, modules: tuple[str, ...], said: str) -> None:
    found = trusted_code.judge_interpreter(trusted_code.look_at(python_without(tmp_path, *modules)))
    assert found.state is State.PROBLEM
    assert said in found.found


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = python_without(tmp_path, more="sys.version_info = (3, 9, 18)")
    found = trusted_code.judge_interpreter(trusted_code.look_at(old))
    assert found.state is State.PROBLEM
    assert "Python 3.9.18" in found.found


def test_a_python_that_is_gone_or_no_python(tmp_path: Path) -> None:
    gone = trusted_code.judge_interpreter(trusted_code.look_at("/opt/gone/bin/python3", "/etc/systemd/system/x"))
    assert gone.state is State.PROBLEM
    assert gone.found == "/etc/systemd/system/x names /opt/gone/bin/python3, which does not exist"
    assert "sidespawn enable" in gone.hint
    for other in ("/bin/true", "/bin/false", "/etc"):
        assert trusted_code.judge_interpreter(trusted_code.look_at(other)).state is State.PROBLEM


def test_the_interpreters_are_those_of_the_units() -> None:
    files = {"/etc/a": UNIT.replace("PYTHON", "/gone/1"), "/etc/b": UNIT.replace("PYTHON", "/gone/2"), "/etc/c": ""}
    assert [(each.path, each.named_by) for each in trusted_code.look(files)] == [
        ("/gone/1", "/etc/a"),
        ("/gone/2", "/etc/b"),
    ]
    assert [each.path for each in trusted_code.look({})] == [os.path.realpath(sys.executable)]


def test_code_that_others_can_write(tmp_path: Path) -> None:
    assert trusted_code.judge_writable([]).state is State.OK
    assert trusted_code.judge_writable([tmp_path]).state is State.WARNING
    path = tmp_path / "a.py"
    path.touch(mode=0o644)
    assert not trusted_code.is_writable_by_others(path)
    path.chmod(0o664)
    assert trusted_code.is_writable_by_others(path)


# ---------------------------------------------------------------- /run/netns and the journal

MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
25 22 0:23 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
90 25 0:23 /netns /run/netns rw,nosuid {} - tmpfs tmpfs rw
91 22 0:50 / /run-other rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        (MOUNTS.format("shared:7"), True),
        (MOUNTS.format("shared:7 master:3"), True),
        (MOUNTS.format("master:3"), False),
        (MOUNTS.format(""), False),
        (MOUNTS.replace("/run/netns", "/run/other"), True),
        (MOUNTS.replace("shared:5 ", "").replace("/run/netns", "/run/other"), False),
        ("", False),
    ],
)
def test_whether_the_mount_of_a_path_is_shared(text: str, shared: bool) -> None:
    rows = [row.split(" ") for row in text.splitlines()]
    assert network_namespaces.is_shared((row for row in rows if len(row) > 4), "/run/netns") is shared


@pytest.mark.parametrize(
    ("facts", "services", "state"),
    [
        (network_namespaces.Facts(mode=0o755, names=3), ("a",), "ok"),
        (network_namespaces.Facts(mode=0o700), ("a",), "warning"),
        (network_namespaces.Facts(mode=0o750), ("a",), "warning"),
        (network_namespaces.Facts(mode=0o755, is_shared=False), ("a",), "warning"),
        (network_namespaces.Facts(mode=0o755, names=3, of_engines=1), ("a",), "warning"),
        (network_namespaces.Facts(mode=0o755, names=3, of_engines=1), (), "ok"),
        (network_namespaces.Facts(mode=None), ("a",), "warning"),
        (network_namespaces.Facts(mode=None), (), "ok"),
    ],
)
def test_the_directory_of_namespaces(facts: network_namespaces.Facts, services: tuple[str, ...], state: str) -> None:
    assert states(network_namespaces.judge(facts, services)) == {"network-namespaces": state}


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({}, ""),
        ({"free": file_systems.LEAST_BYTES}, ""),
        ({"free": file_systems.LEAST_BYTES - 1}, "is full: 1023 kB are free"),
        ({"free_files": file_systems.LEAST_FILES}, ""),
        ({"free_files": 0}, "is full: 0 inodes are free"),
        ({"is_read_only": True, "free": 0}, "is read-only"),
    ],
)
def test_file_systems_have_space(fact: dict[str, Any], said: str) -> None:
    system = file_systems.FileSystem(path="/run", free=10**9)
    (found,) = file_systems.judge([replace(system, **fact)])
    assert (found.id, found.state) == ("file-systems", State.PROBLEM if said else State.OK)
    assert said in found.found
    assert [each.id for each in file_systems.judge([system, replace(system, free=0), replace(system, free=1)])] == [
        "file-systems", "file-systems",
    ]  # fmt: skip


def test_file_systems_of_the_engines_in_use_are_looked_at() -> None:
    assert [each.path for each in file_systems.look([])] == ["/run"]
    assert {each.path for each in file_systems.look(["podman", "systemd"])} <= {"/run", "/var/lib/containers"}


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        (journal.Facts(has_journalctl=True), "ok", "on disk"),
        (journal.Facts(has_journalctl=True, storage="volatile"), "ok", "until the next boot"),
        (journal.Facts(has_journalctl=True, storage=""), "warning", "stores nothing"),
        (journal.Facts(has_journalctl=True, listens=False), "warning", "nothing listens"),
        (journal.Facts(has_journalctl=False), "warning", "journalctl"),
    ],
)
def test_the_journal(facts: journal.Facts, state: str, said: str) -> None:
    (found,) = journal.judge(facts)
    assert (found.state, said in found.found) == (state, True)


def test_a_socket_that_is_left_is_not_listened_at(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "socket"))
        assert journal.listens(tmp_path / "socket")
    assert (tmp_path / "socket").exists()
    assert not journal.listens(tmp_path / "socket")


# ---------------------------------------------------------------- the report as a whole


def test_an_error_in_one_look_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: object) -> Iterator[Finding]:
        yield ok(Topic.JOURNAL, "seen before it broke")
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    looks = {"first": breaks, "second": lambda _: [problem(Topic.PODMAN, "bad", "so", "do")]}
    monkeypatch.setattr(host_report, "ALWAYS", looks)
    monkeypatch.setattr(host_report, "FOR_ROOT", {})
    found = host_report.report([])
    assert [each.id for each in found][:2] == [Topic.PODMAN, Topic.NOT_LOOKED_AT]
    assert "/somewhere" in the(found, "not-looked-at").found
    assert the(found, "not-looked-at").subject == "first"


def test_our_own_error_in_a_look_tells_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: object) -> Iterator[Finding]:
        raise LaunchError(Reason.HOST_UNSUITABLE, "the table is too long", "shorten it")

    monkeypatch.setattr(host_report, "ALWAYS", {"mount-namespaces": breaks})
    monkeypatch.setattr(host_report, "FOR_ROOT", {})
    found = the(host_report.report([]), "not-looked-at")
    assert (found.found, found.hint) == ("mount-namespaces: the table is too long", "shorten it")


def test_other_users_than_root_learn_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_report, "ALWAYS", {})
    monkeypatch.setattr(host_report, "FOR_ROOT", {"x": lambda _: [problem(Topic.DOCKER, "bad", "so", "do")]})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert states(host_report.report([])) == {"root": "warning"}


def test_only_what_is_not_fine_concerns_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_report, "look_at_kernel", lambda _: [ok(Topic.KERNEL, "fine")])
    monkeypatch.setattr(host_report, "look_at_code", lambda _: [warning(Topic.CODE, "a", "b", "c")])
    monkeypatch.setattr(host_report, "look_at_engine", lambda _: [])
    looks = {
        "units": lambda _: [problem(Topic.UNITS, "a", "b", "c")],
        "leftovers": lambda _: [warning(Topic.DOCKER, "a", "b", "c")],
    }
    monkeypatch.setattr(host_report, "FOR_ROOT", looks)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    service = Service(name="a", policy=small.load(), is_enabled=False)
    assert states(host_report.concerning(service)) == {"code": "warning"}
    assert states(host_report.concerning(replace(service, is_enabled=True))) == {"code": "warning", "units": "problem"}


def test_the_worst_state_counts() -> None:
    fine, poor, bad = ok(Topic.KERNEL, "x"), warning(Topic.CODE, "x", "y", "z"), problem(Topic.UNITS, "x", "y", "z")
    assert [worst(each) for each in ([], [fine], [fine, poor], [poor, bad, fine])] == ["ok", "ok", "warning", "problem"]


@pytest.mark.parametrize(
    ("version", "uid", "capabilities", "said"),
    [
        (256, 1000, '["NET_RAW"]', []),
        (256, 1000, '["NET_RAW", "NET_ADMIN"]', ["of this host and of other namespaces"]),
        (256, 0, "[]", ["runs as root"]),
        (256, 0, '["NET_ADMIN"]', ["runs as root", "NET_ADMIN"]),
        (257, 0, "[]", []),
        (257, 0, '["NET_ADMIN"]', ["could change every interface of this host;"]),
    ],
)
def test_what_systemd_does_not_confine_is_reported(
    monkeypatch: pytest.MonkeyPatch, version: int, uid: int, capabilities: str, said: list[str]
) -> None:
    """docs/security.md says what a program can do with the host's pids, and with its output."""
    facts = service_manager.Facts(pid_1="systemd", version=str(version))
    monkeypatch.setattr(service_manager, "look", lambda: facts)
    changes = (
        ('engine = "podman"', 'engine = "systemd"'), ("uid = 1000", f"uid = {uid}"),
        ('capabilities = ["NET_RAW", "NET_ADMIN"]', f"capabilities = {capabilities}"),
    )  # fmt: skip
    found = suitability.confinement_warnings(small.load(*changes))
    assert len(found) == len(said)
    assert all(word in each for word, each in zip(said, found, strict=True))
