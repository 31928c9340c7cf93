"""A transient unit has all that a side container gets; nothing that an agent wrote is read as syntax."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidespawn.authoring.start_command import start_command, written
from sidespawn.core.plan import Mount, Plan, Script
from sidespawn.engines import Pins, get_engine, systemd, systemd_bus, systemd_roots
from sidespawn.engines.systemd import CAPABILITIES, Systemd, properties, unit_name, version_of
from sidespawn.engines.systemd_bus import Bus, BusError, get, put, split
from sidespawn.errors import LaunchError, Reason
from sidespawn.host_report import service_manager
from sidespawn.loading.parse import CAPABILITIES as POSSIBLE
from sidespawn.system import kernel
from tests.attacks.catalogue import attack
from tests.unit.small import NET
from tests.unit.test_podman import PINS, PLAN

ID = "0" * 32


GIVEN = systemd_roots.given_path(PLAN.service, PLAN.image)


HIDDEN = "TemporaryFileSystem"
OLD, NEW = 252, 257  # systemd versions without and with pid namespaces


def unit(plan: Plan = PLAN, pins: Pins = PINS, version: int = OLD) -> dict[str, Any]:
    """Return the values of the unit's properties; of a repeated one, the last."""
    return {name: value for name, (_, value) in properties(plan, pins, ID, version)}


def test_the_unit_is_what_the_plan_says() -> None:
    found = unit()
    assert found["Slice"] == "sidespawn-small.slice"
    assert found["NetworkNamespacePath"] == "/pins/1.netns"
    assert (found["User"], found["Group"]) == ("1000", "1000")
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == 1 << 12 | 1 << 13
    assert found["Environment"] == [f"TAG=tool-{NET}"]
    assert ("/pins/1.mount0", f"/state/{NET}", False, 0) in found["BindPaths"]
    assert (f"{GIVEN}/texts/1.0", "/state/tool.conf", False, 0) in found["BindPaths"]
    assert (found["MemoryMax"], found["TasksMax"], found["LimitNOFILE"]) == (64 * 2**20, 8, 1024)
    assert f"SIDESPAWN_LABEL_INSTANCE={NET}".encode() in found["LogExtraFields"]
    assert f"SIDESPAWN_LABEL_PLAN={PLAN.digest}".encode() in found["LogExtraFields"]


def test_what_confines_every_side_container() -> None:
    found = unit(replace(PLAN, capabilities=(), environment=(), mounts=(), configuration=(), scratch=()), NO_PINS)
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == found["RestrictNamespaces"] == 0
    assert (found["NoNewPrivileges"], found["ReadOnlyPaths"], found["MountAPIVFS"]) == (True, ["+/"], False)
    filters = [value for name, (_, value) in properties(PLAN, PINS, ID, OLD) if name == "SystemCallFilter"]
    assert [allowed for allowed, _ in filters] == [True, False]
    assert {"pidfd_open", "process_vm_readv"} <= set(filters[1][1])
    assert found["BindPaths"] == [(f"{GIVEN}/{each}", f"/{each}", False, 1 << 14) for each in ("proc", "dev")]


NO_PINS = replace(PINS, mounts=(), configuration=())


@pytest.mark.parametrize("image", [PLAN.image, "host"])
def test_systemd_has_nothing_to_make_read_only_but_the_root(image: str) -> None:
    """systemd 252 reads the host's whole list of mounts twice for each path that it makes read-only."""
    mounts = (*PLAN.mounts, Mount(path="/read", beneath="read", writable=False))
    plan = replace(PLAN, image=image, mounts=mounts, scripts=(Script(path="/s", text=""),))
    found = unit(plan, replace(PINS, mounts=(*PINS.mounts, Path("/pins/1.mount1")), scripts=(Path("/snapshots/1.1"),)))
    asked = {name for name in found if name.endswith(("Path", "Paths")) or name.startswith(("Private", "Protect"))}
    assert asked == {"BindPaths", "NetworkNamespacePath", "PrivateIPC", "ReadOnlyPaths"}
    assert found["ReadOnlyPaths"] == ["+/"]


def test_in_the_agents_state_there_is_only_what_is_mounted() -> None:
    """Mount points are made in an empty directory. If the whole state is mounted, none is needed."""
    assert ("/state", "ro,mode=755,nosuid,nodev,noexec,size=64k") in unit()["TemporaryFileSystem"]
    whole = replace(PLAN, mounts=(Mount(path="/all", beneath=".", writable=False),), configuration=())
    places = [path for path, _ in unit(whole, replace(PINS, configuration=()))["TemporaryFileSystem"]]
    assert places == ["/dev/shm", "/run/tool"]


def test_with_selinux_its_programs_and_its_scratch_space_have_labels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    label = "system_u:object_r:{}:s0"
    monkeypatch.setattr(systemd_roots, "domain", lambda service: ("type:x", "level:s0"))
    assert all(f"context={label.format('container_file_t')}" in options for _, options in unit()[HIDDEN])
    mounted: list[str] = []
    monkeypatch.setattr(kernel, "mount", lambda *arguments: mounted.append(arguments[4]))
    systemd_roots.make(tmp_path / "root", PLAN.service, str(tmp_path), refresh=False)
    assert mounted[0].endswith(f",context={label.format('sidespawn_root_t')}")


def test_dollars_are_doubled_and_nothing_else_is_changed() -> None:
    ((path, argv, ignores_failure),) = unit(replace(PLAN, arguments=("$HOME", "%h", "a\nb", "")))["ExecStart"]
    assert (path, argv, ignores_failure) == (PLAN.command, [PLAN.command, "$$HOME", "%h", "a\nb", ""], False)


def test_root_and_the_hosts_network_are_what_a_unit_has_by_itself() -> None:
    found = unit(replace(PLAN, uid=0, gid=0, host_network=True))
    assert not {"User", "Group", "NetworkNamespacePath"} & set(found)


def test_a_systemd_that_can_gives_a_pid_namespace() -> None:
    before = unit(version=256)
    assert before == unit(version=0)
    after = unit(version=NEW)
    assert after == unit(version=300)
    assert after["PrivatePIDs"] == "yes"
    assert {name for name in after if after[name] != before.get(name)} == {"PrivatePIDs", "BindPaths", HIDDEN}
    # What it would mount, writable, without the other mounts.
    covered = {path for _, path, *_ in after["BindPaths"]} | {path for path, _ in after[HIDDEN]}
    assert {"/proc", "/sys", "/dev", "/run"} <= covered
    assert ("/run", "ro,mode=755,nosuid,nodev,noexec,size=64k") in after[HIDDEN]
    writable = unit(replace(PLAN, scratch=("/run",)), version=NEW)[HIDDEN]
    assert [options for path, options in writable if path == "/run"] == ["mode=1777,nosuid,nodev,noexec,size=64k"]


@pytest.mark.parametrize(
    ("said", "version"), [("252.39-1~deb12u1", 252), ("257.9-1~deb13u1", 257), ("258~rc2", 258), ("", 0), ("v", 0)]
)
def test_the_version_is_that_of_pid_1(server: socket.socket, said: str, version: int) -> None:
    answers(server, ACCEPTED, message(2, 1, "v", ("s", said)))
    with Bus(5) as bus:
        assert version_of(bus) == version


def test_scripts_are_mounted_and_can_be_executed() -> None:
    plan, pins = replace(PLAN, scripts=(Script(path="/s", text=""),)), replace(PINS, scripts=(Path("/snapshots/1.1"),))
    assert (f"{GIVEN}/scripts/1.1", "/s", False, 0) in unit(plan, pins)["BindPaths"]


def test_a_variable_of_the_plan_is_not_taken_back() -> None:
    assert "HOME" in unit()["UnsetEnvironment"]
    assert "HOME" not in unit(replace(PLAN, environment=(("HOME", "/x"),)))["UnsetEnvironment"]


def test_every_mount_is_pinned() -> None:
    for without in ({"mounts": ()}, {"configuration": ()}, {"scripts": (Path("/x"),)}):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            unit(pins=replace(PINS, **without))


def test_every_capability_that_a_policy_can_give_has_its_number() -> None:
    assert set(CAPABILITIES) == POSSIBLE


def test_the_name_is_the_containers_and_can_be_no_other_unit() -> None:
    assert unit_name("small_x") == "sidespawn-small_x.service"
    assert unit_name(unit_name("small_x")) == unit_name("small_x")


@pytest.mark.parametrize("version", [OLD, NEW])
def test_what_is_described_is_a_command_of_busctl(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    monkeypatch.setattr(service_manager, "look", lambda: service_manager.Facts(pid_1="systemd", version=str(version)))
    command = start_command(replace(PLAN, engine="systemd", arguments=("--x", "a b")), PINS, ID)
    assert command[:4] == ("/usr/bin/busctl", "--system", "--", "call")
    assert command[7:11] == ("StartTransientUnit", "ssa(sv)a(sa(sv))", f"sidespawn-small_{NET}.service", "fail")
    assert command[11] == str(len(properties(PLAN, PINS, ID, version)))
    assert ("PrivatePIDs" in command) is (version == NEW)
    at = command.index("ExecStart")
    assert command[at + 1 : at + 9] == ("a(sasb)", "1", "/usr/sbin/tool", "3", "/usr/sbin/tool", "--x", "a b", "false")
    assert command[-1] == "0"


def test_an_engine_is_got_by_its_name() -> None:
    assert isinstance(get_engine("systemd", "small"), Systemd)


# ---------------------------------------------------------------- roots


def test_each_image_has_a_root_of_its_own() -> None:
    paths = {systemd_roots.root_path("small", image) for image in ("host", "/srv/root", "localhost/tool:1")}
    assert len(paths) == 3
    assert all(str(path).startswith("/run/sidespawn/small/roots/") for path in paths)


def test_of_the_host_little_is_seen() -> None:
    seen = systemd_roots.seen_of_the_host()
    assert "/usr" in seen
    assert not {"/", "/etc", "/root", "/home", "/var", "/run", "/proc", "/sys", "/dev", "/etc/shadow"} & set(seen)


# ---------------------------------------------------------------- the bus

VALUES = [
    ("s", ""),
    ("s", "a\nb \u4e2d $%"),
    ("o", "/a/b"),
    ("g", "a(sv)"),
    ("b", 1),
    ("i", -1),
    ("u", 2**32 - 1),
    ("t", 2**64 - 1),
    ("y", 255),
    ("as", []),
    ("as", ["", "x" * 70_000]),
    ("aay", [[1, 2], []]),
    ("a(sasb)", [("/bin/x", ["a", ""], 0), ("", [], 1)]),
    ("(bas)", (1, ["AF_UNIX"])),
    ("a(ssbt)", [("a", "b", 1, 7)]),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[kind for kind, _ in VALUES])
@pytest.mark.parametrize("before", range(9))
def test_a_value_comes_back_in_every_position(kind: str, value: object, before: int) -> None:
    message = bytearray(before)
    put(message, kind, value)
    end = len(message)
    put(message, "v", (kind, value))
    assert get(bytes(message), before, kind) == (value, end)
    assert get(bytes(message), end, "v") == (value, len(message))


@pytest.mark.parametrize(
    ("signature", "types"),
    [("", []), ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]), ("aas(b(as))t", ["aas", "(b(as))", "t"])],
)
def test_a_signature_is_split_into_its_types(signature: str, types: list[str]) -> None:
    assert split(signature) == types


def test_numbers_and_truths_for_busctl() -> None:
    assert list(written("a(sb)", [("x", True), ("y", False)])) == ["2", "x", "true", "y", "false"]
    assert list(written("v", ("aay", [b"ab"]))) == ["aay", "1", "2", "97", "98"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen where PID 1 would."""
    monkeypatch.setattr(systemd_bus, "SOCKET", str(tmp_path / "bus"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "bus"))
        listening.listen()
        yield listening


def answers(server: socket.socket, *answers: bytes) -> None:
    """Serve a systemd that sends these answers in turn, whatever it is asked, and closes after the last one."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            for each in answers:
                connection.sendall(each)
            while answers and connection.recv(65536):
                pass

    threading.Thread(target=serve, daemon=True).start()


def message(kind: int, serial: int, signature: str = "", value: object = None, error: str = "") -> bytes:
    fields: list[tuple[int, tuple[str, object]]] = [(5, ("u", serial)), (8, ("g", signature))]
    fields += [(4, ("s", error))] if error else []
    body, whole = bytearray(), bytearray()
    if signature:
        put(body, signature, value)
    whole += struct.pack("<BBBBII", ord("l"), kind, 0, 1, len(body), 1)
    put(whole, "a(yv)", fields)
    whole += bytes(-len(whole) % 8)
    return bytes(whole + body)


ACCEPTED = b"OK 1234\r\n"


def test_the_answer_is_that_of_the_call(server: socket.socket) -> None:
    signal = message(4, 0, "s", "of no interest")
    answers(server, ACCEPTED, signal, message(2, 1, "as", ["a", "b"]))
    with Bus(5) as bus:
        assert bus.call("/a", "a.b", "C") == ["a", "b"]


@attack(262)
@pytest.mark.parametrize("kind", [1, 4], ids=["call", "signal"])
def test_what_is_no_answer_counts_as_none(server: socket.socket, kind: int) -> None:
    answers(server, ACCEPTED, message(kind, 1, "s", "not an answer"), message(2, 1, "s", "the answer"))
    with Bus(5) as bus:
        assert bus.call("/a", "a.b", "C") == "the answer"


def test_a_refusal_has_its_name(server: socket.socket) -> None:
    answers(server, ACCEPTED, message(3, 1, "s", "it is there", error="a.b.UnitExists"))
    with Bus(5) as bus, pytest.raises(BusError, match="it is there") as raised:
        bus.call("/a", "a.b", "C")
    assert raised.value.name == "a.b.UnitExists"


def test_a_systemd_that_is_silent_refuses_or_hangs_up_is_an_engines_error(server: socket.socket) -> None:
    with pytest.raises(LaunchError) as raised:
        Bus(0.05)
    assert raised.value.reason is Reason.ENGINE_TIMEOUT
    answers(server)
    answers(server)
    with pytest.raises(LaunchError) as raised:
        Bus(5)
    assert raised.value.reason is Reason.ENGINE_FAILED
    Path(systemd_bus.SOCKET).unlink()
    with pytest.raises(LaunchError, match="cannot be asked") as raised:
        Bus(5)
    assert raised.value.reason is Reason.ENGINE_FAILED


def test_a_profile_of_the_policy_is_named_and_must_be_there() -> None:
    assert unit(replace(PLAN, apparmor="sidespawn-side-container"))["AppArmorProfile"] == (
        False,
        "sidespawn-side-container",
    )
    assert "AppArmorProfile" not in unit()


def test_a_start_waits_until_systemd_knows_the_program_and_not_what_forked_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    pids = iter([gone.pid, gone.pid, os.getpid()])
    values: dict[str, Callable[[], Any]] = {
        "ActiveState": lambda: "active",
        "Job": lambda: [0, "/"],
        "MainPID": lambda: next(pids),
    }
    bus = SimpleNamespace(call=lambda *_: "/unit")
    monkeypatch.setattr(systemd, "get", lambda bus, path, interface, name: values[name]())
    monkeypatch.setattr(systemd, "pause", lambda bus: None)
    assert systemd.started(cast("Bus", bus), "x.service", PLAN) == os.getpid()
