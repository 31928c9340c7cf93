"""`sidespawn scan`: what it finds in files, and in what the kernel reports about sockets and mounts."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from sidespawn.cli.output import printable
from sidespawn.host_scan import containers, engines, files, sources
from sidespawn.host_scan.findings import HINTS, MEANINGS, Deployment, Kind
from sidespawn.host_scan.sources import HostMount, Sources
from tests.attacks.catalogue import attack

SOURCES = Sources(
    sockets=frozenset({"/run/docker.sock", "/run/podman/podman.sock"}),
    present=frozenset(),
    storage=frozenset({"/var/lib/containers"}),
)
# Each: file, text, and the findings as KIND:LINE.
FILES = [
    ("var/lib/neutron/dnsmasq_wrapper", "#!/bin/bash\n# a\nCLI='nsenter --all -t 1 podman'\n", ["wrapper-script:3"]),
    ("var/lib/neutron/haproxy_wrapper", "#!/bin/sh\nnsenter --target 1 -m docker run x\n", ["wrapper-script:2"]),
    ("var/lib/neutron/radvd_wrapper", "#!/bin/sh\nDOCKER=/usr/bin/docker\n$DOCKER run x\n", ["wrapper-script:2"]),
    ("var/lib/neutron/x/keepalived_wrapper", "exec podman --log-level=error run --rm x\n", ["wrapper-script:1"]),
    ("usr/local/lib/neutron-wrappers/dnsmasq", "nsenter -m/proc/1/ns/mnt -- docker run x\n", ["wrapper-script:1"]),
    ("var/lib/neutron/kill_scripts/haproxy-kill", "\npodman exec x kill 1\n", ["kill-script:2"]),
    ("etc/neutron/kill_scripts/dnsmasq-kill", "docker kill --signal HUP x\n", ["kill-script:1"]),
    ("etc/containers/systemd/a.container", "[Container]\nVolume=/run/podman/podman.sock:/x\n", ["unit-file:2"]),
    ("etc/containers/systemd/b.container", "PodmanArgs=-v /var/lib/containers:/c\n", ["unit-file:1"]),
    ("etc/containers/systemd/c.container.d/1.conf", "Volume=/var/run/docker.sock:/x:ro\n", ["unit-file:1"]),
    ("etc/containers/systemd/neutron_dhcp.container", "PodmanArgs=--privileged --pid=host\n", ["unit-file:1"]),
    ("etc/systemd/system/d.service", "ExecStart=/usr/bin/docker run -v /run/docker.sock:/x y\n", ["unit-file:1"]),
    ("etc/systemd/system/neutron-l3.service", "ExecStart=podman run --privileged y\n", ["unit-file:1"]),
    ("etc/puppet/hieradata/e.json", '{\n"docker::Additional_Sockets": []}\n', ["deployer-setting:2"]),
    ("etc/puppet/hieradata/f/g.yaml", "x::dhcp_agent_wrappers::enable: true\n", ["deployer-setting:1"]),
    (
        "var/lib/tripleo-config/container-startup-config/step_4/neutron_dhcp.json",
        '{"image": "x",\n "privileged": true,\n "volumes": ["/a:/b",\n "/run/podman/podman.sock:/x"]}',
        ["unit-file:4", "unit-file:2"],
    ),
    ("var/lib/edpm-config/ovn_metadata.json", '{"volumes": ["/run/docker.sock:/x"]}', ["unit-file:1"]),
    (
        "etc/sysconfig/docker",
        "OPTIONS='--log-driver=journald -H unix:///run/docker.sock -H unix:///var/lib/openstack/docker.sock'\n",
        ["deployer-setting:1"],
    ),
    ("etc/containers/systemd/m.container", "Volume=%t/podman/podman.sock:/x\n", ["unit-file:1"]),
    ("etc/containers/systemd/n@.container", "Mount=type=bind,src=/run/docker.sock,dst=/x\n", ["unit-file:1"]),
    ("etc/containers/systemd/n.container", "Volume=%t:/host/run\n", ["unit-file:1"]),
    ("etc/containers/systemd/o.container", "Volume=/:/host:ro\nVolume=/run:/run\n", ["unit-file:1", "unit-file:2"]),
    ("etc/containers/systemd/p/q.volume", "[Volume]\nDevice=/run/docker.sock\nOptions=bind\n", ["unit-file:2"]),
    ("etc/containers/systemd/q.volume", "Device=%t/docker.sock\n", ["unit-file:1"]),
    (
        "etc/systemd/system/r.service",
        "ExecStart=/usr/bin/docker run \\\n -itv /run/docker.sock:/x \\\n",
        ["unit-file:2"],
    ),
    (
        "etc/kubernetes/manifests/s.yaml",
        "kind: Pod\nspec:\n  volumes:\n  - name: a\n    hostPath:\n      path: /run/docker.sock\n",
        ["unit-file:6"],
    ),
    (
        "etc/kubernetes/manifests/t.json",
        '{"hostPath": {"type": "Socket", "path": "/run/docker.sock"}}',
        ["unit-file:1"],
    ),
    (
        "etc/kubernetes/manifests/u.yaml",
        "hostPath: # the engine's\n  # type: x\n  type: Socket # it is\n  path: /run/docker.sock#\n",
        [],
    ),
    (
        "etc/kubernetes/manifests/v.yaml",
        "hostPath: # the engine's\n  # type: x\n  type: Socket # it is\n  path: /run/docker.sock # for all\n",
        ["unit-file:4"],
    ),
    ("etc/kubernetes/manifests/w.json", '{"a": "b #c", "hostPath": {"path": "/run/docker.sock"}}', ["unit-file:1"]),
    ("etc/kubernetes/manifests/y.yaml", "# hostPath: {path: /run/docker.sock}\na: # hostPath: {path: /run}\n", []),
    ("etc/containers/systemd/u.yml", "hostPath: {path: '/run'}\n", ["unit-file:1"]),
    ("etc/docker/daemon.json", '{"hosts":\n["unix:///run/docker.sock", "tcp://0.0.0.0:2375"]}', ["engine-listener:2"]),
    ("etc/systemd/system/docker.service.d/1.conf", "ExecStart=dockerd -H tcp://:2375\n", ["engine-listener:1"]),
    ("etc/systemd/system/docker.socket.d/1.conf", "[Socket]\nListenStream=2375\n", ["engine-listener:2"]),
    ("etc/systemd/system/podman.service", "ExecStart=podman system service tcp://[::]:1\n", ["engine-listener:1"]),
    ("etc/systemd/system/z.service", "ExecStart=docker run -v=/run/docker.sock:/x y\n", ["unit-file:1"]),
    # None of these is a finding.
    ("etc/docker/daemon.json", '{"hosts": ["tcp://0.0.0.0:2376"],\n"tlsverify": true}', []),
    ("etc/systemd/system/podman.socket", "[Socket]\nListenStream=%t/podman/podman.sock\nListenStream=/x\n", []),
    ("etc/systemd/system/other.service", "ExecStart=/usr/bin/x tcp://0.0.0.0:2375 -v /run\n", []),
    ("etc/systemd/system/v.service", "ExecStart=podman run -v /srv:/srv -w / image ls /run/docker.sock\n", []),
    ("etc/containers/systemd/users/w.container", "Volume=/run/docker.sock:/x\nVolume=%t/podman/podman.sock:/y\n", []),
    (
        "etc/containers/systemd/w.container",
        "Volume=/data\nVolume=data:/run/docker.sock\nMount=type=tmpfs,dst=/run\n",
        [],
    ),
    (
        "etc/kubernetes/manifests/x.yaml",
        "hostPath:\n  path: /etc/ssl\nhttpGet:\n  path: /\n# path: /run/docker.sock\n",
        [],
    ),
    ("etc/containers/systemd/y.volume", "Device=/dev/sdb1\nType=ext4\n", []),
    ("etc/default/docker", "DOCKER_OPTS='-H unix:///var/run/docker.sock'\n# -H unix:///x.sock\n", []),
    ("var/lib/neutron/dhcp_wrapper", "#!/bin/sh\n# was: nsenter -t 1 podman run\nexec dnsmasq\n", []),
    ("var/lib/neutron/ns_wrapper", "nsenter --net=/run/netns/x ip link\n", []),
    ("var/lib/neutron/kill_scripts/x-kill", '#!/usr/bin/python3\nSETTINGS = {"service": "x"}\n', []),
    ("var/lib/neutron/other", "nsenter -t 1 podman run\n", []),
    ("var/lib/neutron/binary_wrapper", "\0nsenter -t 1 podman run\n", []),
    ("etc/containers/systemd/h.container", "# Volume=/run/docker.sock:/x\nVolume=/run/netns:/run/netns\n", []),
    ("etc/containers/systemd/i.container", "Volume=/run/docker.sock.d:/x\nVolume=/srv/run/docker.sock:/x\n", []),
    ("etc/containers/systemd/j.container", "Volume=a:/run/docker.sock\nPodmanArgs=--privileged=false\n", []),
    ("etc/containers/systemd/nova.container", "PodmanArgs=--privileged\n", []),
    ("etc/systemd/system/docker.service", "ExecStart=/usr/bin/dockerd -H unix:///run/docker.sock\n", []),
    ("etc/systemd/system/k.service", "ExecStart=/usr/bin/podman run -v /srv:/srv x\n", []),
    ("etc/puppet/hieradata/l.json", "# additional_sockets\n", []),
    ("var/lib/edpm-config/broken.json", "{", []),
    ("var/lib/edpm-config/list.json", "[]", []),
]


@pytest.mark.parametrize(
    ("path", "text", "expected"), FILES, ids=[f"{number}-{each[0]}" for number, each in enumerate(FILES)]
)
def test_file(tmp_path: Path, path: str, text: str, expected: list[str]) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    found = list(files.look(SOURCES, tmp_path))
    assert [f"{each.kind}:{each.where.rpartition(':')[2]}" for each in found] == expected
    assert all(each.where.startswith(f"{file}:") for each in found)


def test_what_a_drop_in_has_emptied_is_no_finding(tmp_path: Path) -> None:
    unit = tmp_path / "etc/containers/systemd/edpm_neutron_dhcp_agent.container"
    own = unit.with_name(f"{unit.name}.d") / "50-sidespawn.conf"
    own.parent.mkdir(parents=True)
    unit.write_text("[Container]\nPodmanArgs=--privileged\nVolume=/run/docker.sock:/x\n")
    cases = {
        "PodmanArgs=--tz=UTC\n#Volume=\n": ["3", "2"],
        "PodmanArgs=\nPodmanArgs=--tz=UTC\n": ["3"],
        "PodmanArgs = \nVolume=\n": [],
        "PodmanArgs=\nVolume=\nPodmanArgs=--privileged\n": ["3"],
    }
    for text, expected in cases.items():
        own.write_text(text)
        found = [each.where.rpartition(":")[2] for each in files.look(SOURCES, tmp_path)]
        assert sorted(found) == sorted(expected), text


def test_a_file_that_is_linked_twice_or_is_huge_is_no_trouble(tmp_path: Path) -> None:
    home = tmp_path / "var/lib/neutron"
    home.mkdir(parents=True)
    (home / "a_wrapper").symlink_to("a_wrapper")
    (home / "b_wrapper").mkdir()
    (home / "c_wrapper").write_text("nsenter -t 1 podman run\n" + "x" * files.LARGEST)
    assert list(files.look(SOURCES, tmp_path)) == []


def test_the_deployer_of_a_script_is_known_by_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "var/lib/neutron/dnsmasq_wrapper"
    file.parent.mkdir(parents=True)
    file.write_text("podman run x\n")
    (tmp_path / "var/lib/tripleo-config").mkdir()
    assert next(files.look(SOURCES, tmp_path)).deployment is Deployment.TRIPLEO
    (tmp_path / "var/lib/edpm-config").mkdir()
    assert next(files.look(SOURCES, tmp_path)).deployment is Deployment.EDPM


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("deployment", Deployment)
def test_each_finding_has_a_meaning_and_a_hint(kind: Kind, deployment: Deployment) -> None:
    assert MEANINGS[kind]
    assert HINTS.get((kind, deployment)) or HINTS[kind, Deployment.NONE]


# ---------------------------------------------------------------- sockets and mounts


def test_a_listening_socket_in_another_place_is_known(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    found = ("/opt/x/docker.sock", "/run/user/0/podman/podman.sock", "/run/sidespawn-podman/a.sock")
    rows = (*found, "/run/user/1000/podman/podman.sock", "@docker.sock", "/run/sidespawn-podman-x/a.sock")
    lines = [f"0000: 00000002 00000000 00010000 0001 01 123 {each}" for each in rows]
    (tmp_path / "net/unix").write_text("\n".join(["Num RefCount Path", *lines, ""]))
    assert list(sources.listening(tmp_path)) == list(found)


def test_the_other_paths_of_a_file() -> None:
    mounts = (
        HostMount("/", "8:1", "/"),
        HostMount("/run", "0:20", "/"),
        HostMount("/srv/a", "0:20", "/podman"),  # a part of /run
        HostMount("/srv/b", "0:20", "/podman/podman.sock"),
        HostMount("/srv/c", "0:20", "/podman2"),
        HostMount("/srv/d", "8:1", "/podman"),
    )
    assert list(sources.other_paths("/run/podman/podman.sock", mounts)) == ["/srv/a/podman.sock", "/srv/b"]
    assert list(sources.other_paths("/run/podman/podman.sock", ())) == []


def test_blanks_in_mountinfo() -> None:
    assert sources.unescaped(r"/a\040b\134c") == r"/a b\c"


@pytest.mark.parametrize(
    "name",
    ["neutron_dhcp_agent", "neutron_dhcp", "neutron_l3_agent", "ovn_metadata_agent", "edpm_neutron_dhcp_agent",
     "edpm_ovn_metadata_agent", "neutron-l3-agent", "neutron_openvswitch_agent", "neutron_ovn_metadata_agent"],
)  # fmt: skip
def test_an_agents_name(name: str) -> None:
    assert containers.AGENT.fullmatch(name)


@pytest.mark.parametrize("name", ["nova_libvirt", "ovn_controller", "ovn_northd", "neutron_server", "agent", ""])
def test_no_agents_name(name: str) -> None:
    assert not containers.AGENT.fullmatch(name)


@attack(141)
@pytest.mark.parametrize("path", ["var/lib/neutron/x_wrapper", "var/lib/neutron/kill_scripts/x-kill"])
@pytest.mark.parametrize("what", ["fifo", "device", "waits", "huge", "socket", "loop", "directory", "gone"])
def test_an_agents_replacement_of_a_script_is_not_opened(tmp_path: Path, path: str, what: str) -> None:
    """Agents write in that directory. A reader of the kernel's log, a regular file, would wait forever."""
    place = tmp_path / path
    place.parent.mkdir(parents=True)
    targets = {"device": "/dev/zero", "waits": "/proc/kmsg", "loop": place.name, "gone": "/nowhere"}
    if what in targets:
        place.symlink_to(targets[what])
    elif what == "fifo":
        os.mkfifo(place)
    elif what == "huge":
        place.touch()
        os.truncate(place, 1 << 40)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(place))
    else:
        place.mkdir()
    assert list(files.look(SOURCES, tmp_path)) == []


def test_a_scripts_name_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "var/lib/neutron"
    directory.mkdir(parents=True)
    name = os.fsencode(directory) + b"/\x1b]0;x\x07\xff\n[red]_wrapper"
    Path(os.fsdecode(name)).write_text("podman run x\n")
    (finding,) = files.look(SOURCES, tmp_path)
    shown = printable(finding.where)
    assert shown.endswith("/\\x1b]0;x\\x07\\udcff\\n[red]_wrapper:1")
    assert shown.isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "podman" + " --a" * 40 + " zzz", "podman" + " -- -" * 40, "nsenter " * 100_000, "podman -" * 100_000,
        "a=/podman" * 80_000, "a=" * 300_000, "#" + " " * 800_000, " " * 800_000 + "podman",
    ],
    ids=range(8),
)  # fmt: skip
def test_a_line_that_is_made_to_keep_us_busy(tmp_path: Path, line: str) -> None:
    """Agents can write wrappers and kill scripts. CPU time is measured, since other processes run, too."""
    path = tmp_path / "var/lib/neutron/x_wrapper"
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\nnsenter -t 1 true\n")
    began = time.process_time()
    (found,) = files.scripts(tmp_path, files.WRAPPERS, Kind.WRAPPER_SCRIPT)
    assert found.where == f"{path}:2"
    assert time.process_time() - began < 5


INSPECTED = {
    "Name": "x",
    "State": {},
    "HostConfig": {},
    "Config": {},
    "Mounts": [{"Source": "/var/lib/containers/storage/volumes/v/_data", "Destination": "/y", "RW": True}],
}
VOLUME = {"Mountpoint": "/var/lib/containers/storage/volumes/v/_data", "Options": {"o": "bind", "device": "/run"}}


@pytest.mark.parametrize(
    ("volumes", "source"),
    [
        ([VOLUME], "/run"),
        ([VOLUME | {"Options": None}], VOLUME["Mountpoint"]),
        ([VOLUME | {"Options": {"o": "rw", "device": "/run"}}], VOLUME["Mountpoint"]),
        ([], VOLUME["Mountpoint"]),
        (None, VOLUME["Mountpoint"]),  # Go writes some empty lists like this
    ],
)
def test_a_volume_that_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, volumes: object, source: str) -> None:
    answers = {"ps": "abc\n", "volume": json.dumps(volumes), "inspect": json.dumps([INSPECTED])}
    monkeypatch.setattr(engines, "PODMAN", str(tmp_path))
    monkeypatch.setattr(engines, "podman", lambda verb, *_: answers[verb])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (found,) = engines.of_podman()
    assert [each.source for each in found.mounts] == [source]
