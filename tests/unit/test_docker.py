"""Requests to docker: their JSON has all that a side container gets, and what the runtime adds."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines import NameTaken, Other, api, control_groups, docker, docker_runtime
from sidespawn.engines.api import Answer, in_url
from sidespawn.engines.docker import Docker
from sidespawn.errors import LaunchError, Reason
from sidespawn.host import seccomp
from sidespawn.system import oci
from tests.attacks.catalogue import attack
from tests.unit.small import NET
from tests.unit.test_podman import ID, PINS, PLAN

pytestmark = pytest.mark.usefixtures("a_host")
HOSTILE = ("--privileged", "$HOME", "%h", "a\nb", '"', "a,b", "")


class Daemon:
    """Answers each request on a socket with the next of `answers`, and records the requests."""

    def __init__(self, path: Path) -> None:
        self.answers: list[bytes] = []
        self.asked: list[str] = []
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            connection = self.listening.accept()[0]
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(1 << 20)
                line = head.decode().partition(" HTTP/1.0\r\n")[0]
                if line == "STOP":
                    return
                self.asked.append(line)
                connection.sendall(self.answers.pop(0))

    def stop(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.listening.getsockname())
            last.sendall(b"STOP HTTP/1.0\r\n\r\n")
        self.thread.join()
        self.listening.close()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(docker, "SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr(docker, "confirmed", lambda pid, container: pid)
    daemon = Daemon(tmp_path / "docker.sock")
    yield daemon
    daemon.stop()


def answer(status: int, body: Any = None) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    return b"HTTP/1.0 %d Whatever\r\nContent-Type: application/json\r\n\r\n%s" % (status, text)


def body(plan: Any = PLAN) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(Docker().describe(plan, PINS, ID)[2])
    return described


def pinned(tmp_path: Path) -> Any:
    return replace(PINS, netns=tmp_path / f"{ID}.netns")


# ---------------------------------------------------------------- what it is asked


def test_a_side_container_gets_what_the_plan_says_and_nothing_else() -> None:
    assert body() == {
        "Hostname": ID,
        "Image": PLAN.image,
        "Entrypoint": [PLAN.command],
        "Cmd": list(PLAN.arguments),
        "Env": [f"TAG=tool-{NET}"],
        "User": f"{PLAN.uid}:{PLAN.gid}",
        "WorkingDir": "/",
        "Labels": {
            "io.sidespawn.service": "small",
            "io.sidespawn.instance": PLAN.instance,
            "io.sidespawn.netns": PLAN.netns,
            "io.sidespawn.request": ID,
            "io.sidespawn.plan": PLAN.digest,
        },
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Runtime": "sidespawn",
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "UsernsMode": "host",
            "Privileged": False,
            "Init": False,
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_ADMIN", "NET_RAW"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "ShmSize": 65536,
            "Tmpfs": {"/run/tool": "rw,nosuid,nodev,noexec,size=64k,mode=1777"},
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/pins/1.mount0",
                    "Target": PLAN.mounts[0].path,
                    "ReadOnly": False,
                    "BindOptions": {"Propagation": "rprivate"},
                },
                {
                    "Type": "bind",
                    "Source": "/snapshots/1.0",
                    "Target": "/state/tool.conf",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                },
            ],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "journald", "Config": {"labels": "io.sidespawn.service"}},
            "CgroupParent": "sidespawn-small.slice",
            "Ulimits": [
                {"Name": "nofile", "Soft": PLAN.limits.open_files, "Hard": PLAN.limits.open_files},
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nproc", "Soft": 63311, "Hard": 63311},
            ],
            "Memory": PLAN.limits.memory,
            "MemorySwap": PLAN.limits.memory,
            "PidsLimit": PLAN.limits.tasks,
        },
    }


def test_arguments_are_values_and_never_anything_else() -> None:
    assert body(replace(PLAN, arguments=HOSTILE))["Cmd"] == list(HOSTILE)


def test_limits_that_the_host_cannot_enforce_are_left_out() -> None:
    control_groups.CONTROLLERS.write_text("cpu\n")
    assert not {"Memory", "MemorySwap", "PidsLimit"} & body()["HostConfig"].keys()


# ---------------------------------------------------------------- how it is asked


def test_a_start_leaves_the_runtimes_record_only_while_docker_needs_it(tmp_path: Path, daemon: Daemon) -> None:
    daemon.answers = [
        answer(201, {"Id": "abc"}),
        answer(204),
        answer(200, {"Id": "abc", "State": {"Running": True, "Pid": 42}}),
    ]
    assert Docker().start(PLAN, pinned(tmp_path), ID) == ("abc", 42)
    assert [each.partition("?")[0] for each in daemon.asked] == [
        "POST /v1.41/containers/create",
        "POST /v1.41/containers/abc/start",
        "GET /v1.41/containers/abc/json",
    ]
    assert not list(tmp_path.glob("*.oci"))


@pytest.mark.parametrize("seen", [answer(200, {"State": {"Running": False, "Pid": 0}}), answer(404, {"message": "no"})])
def test_a_program_that_has_already_ended_has_no_pid(tmp_path: Path, daemon: Daemon, seen: bytes) -> None:
    daemon.answers = [answer(201, {"Id": "abc"}), answer(204), seen]
    assert Docker().start(PLAN, pinned(tmp_path), ID) == ("abc", 0)


@pytest.mark.parametrize(
    ("answers", "reason", "said"),
    [
        ([answer(404, {"message": "No such image: x"})], Reason.IMAGE_MISSING, "docker has no image"),
        ([answer(400, {"message": "unknown runtime"})], Reason.ENGINE_FAILED, "unknown runtime"),
        ([answer(201, {"Id": "a"}), answer(500, {"message": "no\x1b[2J"})], Reason.ENGINE_FAILED, "docker start"),
        ([b"HTTP/1.0 201 OK\r\n\r\n{rubbish"], Reason.ENGINE_FAILED, "cannot be read"),
        ([b""], Reason.ENGINE_FAILED, "docker ended before it answered"),
    ],
)
def test_a_failed_start_says_why(
    tmp_path: Path, daemon: Daemon, answers: list[bytes], reason: Reason, said: str
) -> None:
    daemon.answers = answers
    with pytest.raises(LaunchError, match=said) as caught:
        Docker().start(PLAN, pinned(tmp_path), ID)
    assert caught.value.reason is reason
    assert caught.value.message.isprintable()
    assert not list(tmp_path.glob("*.oci"))


@attack(263)
def test_a_record_has_a_name_that_no_agent_can_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep apart two services of one agent, which may ask both with the same id at once."""
    seen = []

    def ask(_method: str, _path: str, text: str, _timeout: float) -> Answer:
        [record] = tmp_path.glob("*.oci")
        assert json.loads(text)["Hostname"] == record.stem
        seen.append(record.stem)
        return Answer(409, None)

    monkeypatch.setattr(docker, "ask", ask)
    for _ in range(2):
        with pytest.raises(NameTaken):
            Docker().start(PLAN, pinned(tmp_path), ID)
    assert all(len(name) == 32 and set(name) <= oci.HEX for name in seen)
    assert len({*seen, ID}) == 3


def test_a_name_that_is_taken(tmp_path: Path, daemon: Daemon) -> None:
    daemon.answers = [answer(409, {"message": "Conflict"})]
    with pytest.raises(NameTaken):
        Docker().start(PLAN, pinned(tmp_path), ID)


def test_without_docker_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "SOCKET", str(tmp_path / "none"))
    with pytest.raises(LaunchError, match="none: No such file or directory"):
        Docker().find("x")


def test_a_docker_that_hangs_is_not_awaited_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "SOCKET", str(tmp_path / "docker.sock"))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(docker.SOCKET)
        silent.listen()
        with pytest.raises(LaunchError, match=r"took more than 0 s: GET /info") as failure:
            docker.ask("GET", "/info", "", 0.1)
    assert failure.value.reason is Reason.ENGINE_TIMEOUT
    assert "restart docker" in failure.value.hint


def test_a_container_that_is_not_there(daemon: Daemon) -> None:
    daemon.answers = [answer(404, {"message": "No such container"}), answer(404), answer(204), answer(500)]
    assert Docker().find("x") is None
    Docker().remove("x")
    Docker().remove("x")
    with pytest.raises(LaunchError):
        Docker().remove("x")


def test_a_removal_that_a_killed_run_had_asked_for_is_waited_for(daemon: Daemon) -> None:
    daemon.answers = [answer(409, {"message": "removal of container x is already in progress"})] * 3 + [answer(404)]
    Docker().remove("x")
    assert len(daemon.asked) == 4


def test_leftovers_of_a_killed_run_are_removed_before_they_start_without_pins(daemon: Daemon) -> None:
    def container(name: str, status: str) -> dict[str, Any]:
        state = {"Running": status == "running", "Pid": 42, "Status": status, "OOMKilled": False}
        return {"Id": name, "Name": f"/{name}", "Config": {"Labels": {}}, "State": state}

    seen = [container("a", "running"), container("b", "created"), container("c", "exited")]
    daemon.answers = [answer(200, [{"Id": each["Id"]} for each in seen]), *(answer(200, each) for each in seen)]
    daemon.answers += [answer(204)]
    Docker().reap("small")
    assert daemon.asked[-1].startswith("DELETE /v1.41/containers/b?")


def test_a_pid_that_another_process_has_by_now_is_not_the_programs(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "confirmed", api.confirmed)
    state = {"Running": True, "Pid": os.getpid(), "Status": "running", "OOMKilled": False}
    daemon.answers = [answer(200, {"Id": "abc", "Name": "/x", "Config": {"Labels": {}}, "State": state})]
    found = Docker().find("x")
    assert found is not None
    assert found.pid is None


def test_containers_of_others(daemon: Daemon) -> None:
    state = {"Running": True, "Pid": 42}
    listed = [
        {"Id": "a", "Labels": {}},
        {"Id": "b", "Labels": {"io.sidespawn.service": "x"}},
        {"Id": "c", "Labels": {}},
    ]
    named = {"Id": "a", "Name": "/old", "Config": {"Image": "old:1"}, "State": state}
    daemon.answers = [answer(200, listed), answer(200, named), answer(404)]
    assert Docker().others() == (Other(id="a", name="old", image="old:1", pid=42),)


def test_names_in_urls() -> None:
    assert in_url('a-b_c.9~/?&%"é\n') == "a-b_c.9~%2F%3F%26%25%22%C3%A9%0A"


# ---------------------------------------------------------------- what the runtime adds


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(oci, "HOMES", str(tmp_path / "homes"))
    (tmp_path / "homes/other/pins").mkdir(parents=True)
    pins = tmp_path / "homes/small/pins"
    pins.mkdir(parents=True)
    (pins / f"{ID}.oci").write_text(json.dumps(docker.runtime_record(PLAN, PINS)))
    (tmp_path / "homes/small/outside.oci").write_text("{}")
    return tmp_path


def description(hostname: str) -> dict[str, Any]:
    """Return a shortened copy of what docker 20.10 passes to runc."""
    return {
        "hostname": hostname,
        "process": {
            "env": ["PATH=/usr/bin", "HOSTNAME=x", "LD_PRELOAD=/of/the/image.so", f"TAG=tool-{NET}"],
            "user": {"uid": 1, "gid": 1, "additionalGids": [4, 20]},
            "capabilities": {"bounding": ["CAP_NET_ADMIN", "CAP_NET_RAW"]},
        },
        "hooks": {"prestart": [{"path": "/proc/1/exe", "args": ["libnetwork-setkey"]}]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/docker/c/hosts", "options": ["rbind"]},
            {"destination": "/volume", "type": "bind", "source": "/var/lib/docker/volumes/v", "options": ["rbind"]},
            {"destination": "/state", "type": "bind", "source": "/pins/1.mount0", "options": ["rbind", "rprivate"]},
            {"destination": "/state/tool.conf", "type": "bind", "source": "/snapshots/1.0", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "pid"}],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [
                    {"names": ["io_uring_setup", "read", "socket", "socketcall"], "action": "SCMP_ACT_ALLOW"},
                    {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"},
                ],
            },
        },
    }


def adapted(homes: Path, hostname: str = ID) -> tuple[int, dict[str, Any]]:
    (homes / "config.json").write_text(json.dumps(description(hostname)))
    code = docker_runtime.main(["--log", str(homes / "log"), "create", "--bundle", str(homes), "container"])
    return code, json.loads((homes / "config.json").read_text())


def test_the_runtime_puts_in_the_namespace_and_takes_out_what_the_plan_does_not_say(homes: Path) -> None:
    code, found = adapted(homes)
    assert code == 0
    assert found["linux"].keys() == {"namespaces", "seccomp"}
    assert found["linux"]["namespaces"] == [
        {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/pins/1.netns"},
    ]  # fmt: skip
    assert found["process"]["env"] == [f"TAG=tool-{NET}"]
    assert found["process"]["user"] == {"uid": 1, "gid": 1, "additionalGids": []}
    assert "hooks" not in found
    assert [(each["destination"], each["options"]) for each in found["mounts"]] == [
        ("/proc", ["nosuid"]),
        ("/state", ["rbind", "rprivate", "nosuid", "nodev", "noexec"]),
        ("/state/tool.conf", ["rbind", "ro", "nosuid", "nodev", "noexec"]),
    ]


def test_the_runtime_narrows_dockers_list_of_system_calls(homes: Path) -> None:
    calls = adapted(homes)[1]["linux"]["seccomp"]
    assert calls["architectures"] == ["SCMP_ARCH_X86_64"]
    first, *sockets = calls["syscalls"]
    assert first["names"] == ["read"]
    assert {tuple(each["names"]) for each in sockets} == {("socket",)}
    wanted = {tuple((each["index"], each["value"]) for each in rule["args"]) for rule in sockets}
    families = {((0, each),) for each in (seccomp.UNIX, seccomp.INET, seccomp.INET6, seccomp.PACKET)}
    assert wanted == families | {((0, seccomp.NETLINK), (2, each)) for each in seccomp.NETLINKS}


def test_the_runtime_leaves_out_a_bind_mount_of_any_type(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = description(ID)
    told["mounts"].append({"destination": "/x", "type": "none", "source": "/srv", "options": ["bind"]})
    monkeypatch.setattr(sys.modules[__name__], "description", lambda _: told)
    assert "/x" not in {each["destination"] for each in adapted(homes)[1]["mounts"]}


def test_a_record_that_was_removed_is_not_found(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker removes it as soon as it gives up."""
    monkeypatch.setattr(oci, "find_record", lambda _: str(homes / "gone.oci"))
    assert adapted(homes) == (1, description(ID))
    assert json.loads((homes / "log").read_text())["msg"] == oci.REFUSAL


def test_a_host_on_which_no_service_has_started_yet_has_no_record(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "HOMES", str(homes / "none"))
    assert adapted(homes)[0] == 1
    assert json.loads((homes / "log").read_text())["msg"] == oci.REFUSAL


@pytest.mark.parametrize("uid", [0, 1])
def test_the_runtime_gives_root_no_inotify(homes: Path, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Root has 128 instances in all containers together."""
    told = description(ID)
    told["process"]["user"]["uid"] = uid
    told["linux"]["seccomp"]["syscalls"][0]["names"].append("inotify_init1")
    monkeypatch.setattr(sys.modules[__name__], "description", lambda _: told)
    names = [name for rule in adapted(homes)[1]["linux"]["seccomp"]["syscalls"] for name in rule["names"]]
    assert ("inotify_init1" in names) is (uid == 1)


def test_a_daemon_that_filters_nothing_is_left_to_its_operator(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfiltered = description(ID)
    del unfiltered["linux"]["seccomp"]
    monkeypatch.setattr(sys.modules[__name__], "description", lambda _: unfiltered)
    assert "seccomp" not in adapted(homes)[1]["linux"]


def test_a_user_that_is_not_root_has_the_plans_capabilities(homes: Path) -> None:
    capabilities = adapted(homes)[1]["process"]["capabilities"]
    assert set(capabilities) == {"bounding", "permitted", "effective", "inheritable", "ambient"}
    assert all(each == ["CAP_NET_ADMIN", "CAP_NET_RAW"] for each in capabilities.values())


@pytest.mark.parametrize(
    "hostname", ["", "host", "0" * 31 + "1", "0" * 33, "0" * 31 + "G", f"../outside{ID}"[:32], "\n" * 32]
)
def test_the_runtime_is_for_side_containers_only(
    homes: Path, hostname: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = adapted(homes, hostname)
    assert code == 1
    assert found == description(hostname)
    assert json.loads((homes / "log").read_text())["msg"] == oci.REFUSAL


def test_a_profile_of_the_policy_is_named() -> None:
    options = body(replace(PLAN, apparmor="sidespawn-side-container"))["HostConfig"]["SecurityOpt"]
    assert options == ["no-new-privileges", "apparmor=sidespawn-side-container"]
