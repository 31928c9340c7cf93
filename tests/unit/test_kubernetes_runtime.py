"""Additions to the descriptions that containerd writes, and refusals, with recordings of real containerd.

tests/kubernetes tries the same with containerd and runc.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.core.plan import Plan
from sidespawn.engines import kubernetes, kubernetes_runtime, labels
from sidespawn.engines.kubernetes import Kubernetes, record
from sidespawn.engines.kubernetes_runtime import NOT_CONFINED, ONLY_CREATE, USED, WORD
from sidespawn.system import oci
from sidespawn.system.processes import identify
from tests.unit.test_podman import ID, PINS, PLAN

pytestmark = pytest.mark.usefixtures("a_host")
RECORDED = [json.loads(line) for line in Path("tests/data/containerd_descriptions.jsonl").read_text().splitlines()]
VERSIONS = ("1.6", "1.7", "2.1")
SHELL = Path(kubernetes_runtime.__file__).with_name("kubernetes-runtime")
RUNC = """\
#!/bin/sh
echo "$*" >>{home}/calls
case " $* " in
    *" --log "*) test -e {home}/fails && {{ echo '{{"level": "error", "msg": "no luck"}}' >>{home}/log; exit 1; }} ;;
esac
echo $PPID >{home}/pid
"""
Description = dict[str, Any]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the record of PLAN, and a runc that records its calls."""
    (tmp_path / "homes/small/pins").mkdir(parents=True)
    (tmp_path / "homes/other").mkdir(parents=True)
    monkeypatch.setattr(oci, "HOMES", str(tmp_path / "homes"))
    monkeypatch.setattr(oci, "RUNS", str(tmp_path / "runs"))
    write_record(tmp_path)
    (tmp_path / "bin").mkdir()
    runc = tmp_path / "bin/runc"
    runc.write_text(RUNC.format(home=tmp_path))
    runc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def write_record(host: Path, plan: Plan = PLAN) -> None:
    pin(host, ".oci").write_text(json.dumps(record(plan, PINS, ID, ID)))


def pin(host: Path, suffix: str) -> Path:
    return host / f"homes/small/pins/{ID}{suffix}"


def recorded(kind: str, version: str = "2.1") -> Description:
    """Return PLAN's pod as containerd describes it: the recorded one, adapted to PLAN's manifest."""
    (found,) = (each["description"] for each in RECORDED if (each["kind"], each["containerd"]) == (kind, version))
    description: Description = json.loads(json.dumps(found))
    metadata = json.loads(Kubernetes().describe(PLAN, PINS, ID)[3])["metadata"]
    description["annotations"] |= {
        f"io.kubernetes.cri.sandbox-{each}": metadata[each] for each in ("name", "namespace", "uid")
    }
    description["annotations"]["io.kubernetes.cri.sandbox-name"] += "-node1"
    if kind == "container":
        description["process"]["args"] = [WORD, PLAN.command, *PLAN.arguments]
        description["process"]["user"] = {"uid": PLAN.uid, "gid": PLAN.gid, "additionalGids": [1, 2]}
    return description


def call(host: Path, description: Description, *verb: str) -> tuple[int, Description]:
    (host / "config.json").write_text(json.dumps(description))
    argv = ["--root", "/r", "--log", str(host / "log"), "--log-format", "json", *(verb or ("create",))]
    argv += ["--bundle", str(host), "--pid-file", str(host / "pid"), "abc"]
    return kubernetes_runtime.main([str(SHELL), *argv]), json.loads((host / "config.json").read_text())


def message(host: Path) -> str:
    return str(json.loads((host / "log").read_text().splitlines()[-1])["msg"])


# ---------------------------------------------------------------- what is added


@pytest.mark.parametrize("version", VERSIONS)
def test_the_program_gets_what_the_record_says(host: Path, version: str) -> None:
    before = recorded("container", version)
    code, found = call(host, before)
    assert code == 0
    process = found["process"]
    assert process["args"] == [PLAN.command, *PLAN.arguments]
    assert process["env"] == [f"{name}={value}" for name, value in PLAN.environment]
    assert process["user"] == {"uid": PLAN.uid, "gid": PLAN.gid}
    assert set(process["capabilities"]) == {"bounding", "permitted", "effective", "inheritable", "ambient"}
    assert all(each == ["CAP_NET_ADMIN", "CAP_NET_RAW"] for each in process["capabilities"].values())
    assert process["noNewPrivileges"] is True
    assert [each["type"] for each in process["rlimits"]] == ["RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_NPROC"]
    assert found["linux"]["namespaces"] == [
        *({"type": each} for each in ("mount", "pid", "ipc", "uts", "cgroup")),
        {"type": "network", "path": str(PINS.netns)},
    ]
    assert found["linux"]["resources"] == before["linux"]["resources"] | {
        "memory": {"limit": PLAN.limits.memory, "swap": PLAN.limits.memory}, "pids": {"limit": PLAN.limits.tasks}
    }  # fmt: skip
    assert found["annotations"]["io.sidespawn.name"] == PLAN.name
    assert "hooks" not in found


@pytest.mark.parametrize("version", VERSIONS)
def test_containerds_list_of_system_calls_is_narrowed(host: Path, version: str) -> None:
    """containerd allows all sockets (from 1.7 on, all but one kind), and io_uring up to 1.7."""
    calls = call(host, recorded("container", version))[1]["linux"]["seccomp"]
    assert calls["architectures"] == ["SCMP_ARCH_X86_64"]
    first, *sockets = calls["syscalls"]
    assert first["names"] == ["bind", "read"]
    assert [each["names"] for each in sockets] == [["socket"]] * len(oci.SOCKETS)
    assert all(argument["op"] == "SCMP_CMP_EQ" for each in sockets for argument in each["args"])


@pytest.mark.parametrize(
    ("machine", "listed", "kept"),
    [
        ("x86_64", ["X86_64", "X86", "X32"], ["X86_64"]),
        ("aarch64", ["ARM", "AARCH64"], ["AARCH64"]),
        ("s390x", ["S390", "S390X"], ["S390X"]),
        ("ppc64le", [], []),  # runc always has the host's own
    ],
)
def test_only_the_hosts_own_architecture_is_kept(
    monkeypatch: pytest.MonkeyPatch, machine: str, listed: list[str], kept: list[str]
) -> None:
    """On some hosts containerd lists the 32-bit architecture first."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node", "6", "1", machine)))
    calls: Description = {"architectures": [f"SCMP_ARCH_{each}" for each in listed], "syscalls": []}
    oci.narrow(calls, as_root=False)
    assert calls["architectures"] == [f"SCMP_ARCH_{each}" for each in kept]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubelets_mounts_are_left_out(host: Path, version: str) -> None:
    before = recorded("container", version)
    _, found = call(host, before)
    given = [each["destination"] for each in before["mounts"] if each["type"] != "bind"]
    assert given == ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]
    ours = ["/dev/shm", *sorted([PLAN.mounts[0].path, "/state/tool.conf", "/run/tool"])]
    assert [each["destination"] for each in found["mounts"]] == given + ours
    options = {each["destination"]: each["options"] for each in found["mounts"]}
    assert options[PLAN.mounts[0].path] == ["bind", "rprivate", "nosuid", "nodev", "rw", "noexec"]
    assert options["/state/tool.conf"] == ["bind", "rprivate", "nosuid", "nodev", "ro", "noexec"]


def test_what_the_node_adds_is_left_out(host: Path) -> None:
    description = recorded("container")
    description["hooks"] = {"createRuntime": [{"path": "/opt/hook"}]}
    description["mounts"] += [{"destination": "/x", "type": each, "options": ["rbind"]} for each in ("bind", "none")]
    description["linux"] |= {
        "sysctl": {"net.ipv4.ip_forward": "1"}, "devices": [{"path": "/dev/x"}], "rootfsPropagation": "rshared"
    }  # fmt: skip
    _, found = call(host, description)
    assert "hooks" not in found
    assert "/x" not in {each["destination"] for each in found["mounts"]}
    assert "sysctl" not in found["linux"]
    assert "rootfsPropagation" not in found["linux"]
    assert found["linux"]["devices"] == []


def test_a_profile_of_the_policy_is_the_programs(host: Path) -> None:
    write_record(host, replace(PLAN, apparmor="sidespawn-side-container"))
    assert call(host, recorded("container"))[1]["process"]["apparmorProfile"] == "sidespawn-side-container"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_sandbox_has_no_privilege_and_no_network(host: Path, version: str) -> None:
    before = recorded("sandbox", version)
    assert {"type": "network"} not in before["linux"]["namespaces"]  # it would use the host's
    code, found = call(host, before)
    assert code == 0
    assert found["process"]["capabilities"] == {}
    assert {"type": "network"} in found["linux"]["namespaces"]
    assert {"type": "uts"} in found["linux"]["namespaces"]
    assert found["process"]["args"] == before["process"]["args"]
    assert pin(host, ".oci").exists()


def test_runc_is_called_as_containerd_called_us_and_the_outcome_is_noted(host: Path) -> None:
    assert call(host, recorded("container"))[0] == 0
    called = (host / "calls").read_text()
    assert called == (
        f"--root /r --log {host}/log --log-format json create --bundle {host} --pid-file {host}/pid abc\n"
    )
    process = identify(os.getpid())
    assert process is not None
    assert json.loads((host / "runs" / ID).read_text()) == {
        "container": "abc",
        "pid": process.pid,
        "started": process.started,
        "annotations": labels(PLAN, ID) | {"io.sidespawn.name": PLAN.name},
        "group": os.path.dirname(Path("/proc/self/cgroup").read_text().rstrip().rpartition(":")[2]),
    }
    assert not pin(host, ".oci").exists()
    assert pin(host, ".taken").exists()


def test_why_runc_fails_is_noted(host: Path) -> None:
    (host / "fails").touch()
    assert call(host, recorded("container"))[0] == 1
    assert json.loads(pin(host, ".failed").read_text()) == {"message": "no luck"}
    assert not (host / "runs").exists()


@pytest.mark.parametrize("ends", ["echo no pid >{host}/pid", "exit 3"])
def test_a_service_that_is_disabled_in_the_meantime(host: Path, ends: str) -> None:
    """In that case the note's directory is gone. No other error may hide the message from runc."""
    script = f'#!/bin/sh\nrm -r {host}/homes/small\necho \'{{"msg": "no luck"}}\' >>{host}/log\n'
    (host / "bin/runc").write_text(script + ends.format(host=host))
    code, _ = call(host, recorded("container"))
    assert code == (3 if "exit" in ends else 1)
    assert ("no luck" if "exit" in ends else "ValueError") in message(host)


def test_a_runc_that_does_not_say_why_it_fails(host: Path) -> None:
    assert kubernetes_runtime.last_error(str(host / "none")) == "runc failed and did not say why"
    for text in ("", "no JSON\n", '{"level": "error"}\n'):
        (host / "log").write_text(text)
        assert kubernetes_runtime.last_error(str(host / "log")) == "runc failed and did not say why"


def test_a_program_that_ended_before_its_start_is_reported(host: Path) -> None:
    """Otherwise its parent, and with it the engine, would wait for it."""
    runc = host / "bin/runc"
    runc.write_text(f"#!/bin/sh\necho {2**22 + 1} >{host}/pid\n")  # above the highest possible pid
    assert call(host, recorded("container"))[0] == 1
    assert "ended before its start" in json.loads(pin(host, ".failed").read_text())["message"]
    assert not (host / "runs").exists()


def test_any_failure_is_reported(host: Path) -> None:
    (host / "bin/runc").write_text(f"#!/bin/sh\necho no pid >{host}/pid\n")
    assert call(host, recorded("container"))[0] == 1
    assert "ValueError" in json.loads(pin(host, ".failed").read_text())["message"]
    assert "ValueError" in message(host)


def test_an_unreadable_record_is_reported(host: Path) -> None:
    for text in ("", "no JSON", "[]", "{}"):
        pin(host, ".oci").write_text(text)
        assert call(host, recorded("container"))[0] == 1
        assert "cannot be made" in json.loads(pin(host, ".failed").read_text())["message"]
    assert not (host / "calls").exists()


def test_a_record_that_is_withdrawn_just_now(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "find_record", lambda _: str(pin(host, ".oci")))
    pin(host, ".oci").unlink()
    assert call(host, recorded("container"))[0] == 1
    assert message(host) == USED


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ["sandbox", "container"])
@pytest.mark.parametrize("uid", ["", "x", "..", "0" * 31 + "1", "0" * 33, "G" * 32, f"../small/pins/{ID}", "é" * 32])
def test_without_a_record_there_is_no_container(host: Path, kind: str, uid: str) -> None:
    description = recorded(kind)
    description["annotations"]["io.kubernetes.cri.sandbox-uid"] = uid
    assert call(host, description) == (1, description)
    assert message(host) == (oci.REFUSAL if kind == "sandbox" else USED)
    assert not (host / "calls").exists()
    assert pin(host, ".oci").exists()


def test_a_description_without_a_pod_is_refused(host: Path) -> None:
    for said in ({}, {"io.kubernetes.cri.container-type": "sandbox"}):
        description = recorded("container") | {"annotations": said}
        assert call(host, description) == (1, description)
    description = recorded("container")
    del description["annotations"]
    assert call(host, description)[0] == 1


def test_a_record_serves_one_start(host: Path) -> None:
    assert call(host, recorded("container"))[0] == 0
    assert call(host, recorded("container"))[0] == 1
    assert message(host) == USED
    assert call(host, recorded("sandbox"))[0] == 1
    assert (host / "calls").read_text().count("\n") == 1


def test_one_of_two_starts_at_once_has_the_record(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found it, and the other one takes it first."""
    real = os.rename

    def rename(old: str, new: str) -> None:
        real(old, f"{old}.other")
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    assert call(host, recorded("container"))[0] == 1
    assert message(host) == USED
    assert not (host / "calls").exists()


def change(*path: str | int, to: Any) -> Callable[[Description], None]:
    def apply(description: Description) -> None:
        place: Any = description
        for each in path[:-1]:
            place = place[each]
        place[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("alter", "what"),
    [
        (change("process", "args", to=[PLAN.command, *PLAN.arguments]), "command"),
        (change("process", "args", to=[WORD, PLAN.command]), "command"),
        (change("process", "args", to=[]), "command"),
        (change("annotations", "io.kubernetes.cri.sandbox-name", to="x"), "name"),
        (change("annotations", "io.kubernetes.cri.sandbox-name", to=None), "name"),
        (change("annotations", "io.kubernetes.cri.sandbox-namespace", to="default"), "namespace"),
        (change("process", "user", "uid", to=0), "user"),
        (change("process", "user", "gid", to=0), "user"),
        (change("root", "readonly", to=False), "a read-only root"),
        (change("process", "noNewPrivileges", to=False), "allowPrivilegeEscalation: false"),
        (change("linux", "seccomp", to=None), "a seccomp profile"),
        (change("linux", "maskedPaths", to=[]), "hidden parts of /proc"),
        (change("linux", "namespaces", to=[{"type": "user"}]), "the host's users"),
    ],
)
def test_a_pod_that_is_not_what_was_written(host: Path, alter: Callable[[Description], None], what: str) -> None:
    description = recorded("container")
    alter(description)
    assert call(host, description) == (1, description)
    assert what in message(host)
    assert json.loads(pin(host, ".failed").read_text())["message"] == message(host)
    assert not (host / "calls").exists()
    assert call(host, recorded("container"))[0] == 1  # it is used up even so


@pytest.mark.parametrize(("name", "code"), [("{}", 0), ("{}-node1", 0), ("{}node1", 1), ("x-{}", 1), ("", 1)])
def test_a_pods_name_is_followed_by_its_nodes(host: Path, name: str, code: int) -> None:
    pod = json.loads(Kubernetes().describe(PLAN, PINS, ID)[3])["metadata"]["name"]
    description = recorded("container")
    description["annotations"]["io.kubernetes.cri.sandbox-name"] = name.format(pod)
    assert call(host, description)[0] == code


def test_what_a_pod_lacks_is_named(host: Path) -> None:
    description = recorded("container")
    del description["linux"]["seccomp"]
    call(host, description)
    assert message(host) == NOT_CONFINED.format(what="a seccomp profile")


# ---------------------------------------------------------------- other calls of runc


def by_shell(host: Path, *argv: str) -> int:
    environment = {"PATH": f"{host}/bin:/usr/bin:/bin"}
    return subprocess.run((SHELL, *argv), env=environment, timeout=60, check=False, capture_output=True).returncode


def test_what_only_shows_or_ends_is_runcs(host: Path) -> None:
    for verb in ("start", "state", "kill", "delete", "list", "ps", "events", "update", "pause", "resume"):
        assert by_shell(host, "--root", "/r", verb, "abc") == 0
    assert by_shell(host, "features") == 0
    assert by_shell(host, "--version") == 0
    assert (host / "calls").read_text().count("\n") == 12


def test_what_would_run_something_else_is_refused(host: Path) -> None:
    for verb in ("exec", "run", "restore", "checkpoint", "spec", "init", "", "create-x"):
        assert by_shell(host, "--root", "/r", "--log", f"{host}/log", verb, "abc") != 0
    for argv in ((), ("exec",), ("exec", "delete", "abc"), ("--root", "/r", "exec", "--process", "x", "kill")):
        assert by_shell(host, *argv) != 0
    assert not (host / "calls").exists()
    assert message(host) == ONLY_CREATE


def test_a_verb_within_the_arguments_of_another_is_no_way_in(host: Path) -> None:
    """Any call that could run a program is inspected, whatever else is on its command line."""
    (host / "config.json").write_text("{}")
    for argv in (("delete", "exec"), ("exec", "create"), ("state", "run")):
        by_shell(host, "--log", f"{host}/log", "--bundle", str(host), *argv)
    assert not (host / "calls").exists()


def test_nothing_but_the_standard_library_is_imported(host: Path) -> None:
    path = kubernetes_runtime.__file__
    code = f"import sys; exec(open({path!r}).read(), {{'__name__': 'x', '__file__': {path!r}}}); print(*sys.modules)"
    done = subprocess.run(
        ("/usr/bin/python3", "-IS", "-c", code), capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert {each for each in loaded if each.startswith("sidespawn")} == {
        "sidespawn", "sidespawn.system", "sidespawn.system.oci"
    }  # fmt: skip
    assert not loaded & {"typing", "subprocess", "pathlib", "socket", "hashlib", "dataclasses"}


def test_the_words_are_the_same_on_both_sides() -> None:
    assert kubernetes.WORD == kubernetes_runtime.WORD
