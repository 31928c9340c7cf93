"""`sidespawn scan` on files as people, deployers and engines write them: what is found where, and what is not."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidespawn import host_scan
from sidespawn.engines import docker
from sidespawn.errors import LaunchError
from sidespawn.host_scan import bundles, containers, engines, files, listeners, sources
from sidespawn.host_scan.containers import Container, ContainerMount
from sidespawn.host_scan.findings import Deployment, Finding, Kind
from sidespawn.host_scan.sources import Sources
from sidespawn.host_scan.yaml_entries import DEEPEST, LONGEST, entries

SOURCES = Sources(
    sockets=frozenset({"/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock"}),
    present=frozenset({"/run/docker.sock"}),
    storage=frozenset({"/var/lib/containers", "/var/lib/docker"}),
)
Files = dict[str, str]


def write(root: Path, texts: Files) -> None:
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def found(root: Path) -> list[str]:
    """Return KIND PATH:LINE of each finding."""
    return sorted(f"{each.kind} {each.where.removeprefix(f'{root}/')}" for each in files.look(SOURCES, root))


# ---------------------------------------------------------------- where engines listen

UNIT, DROP_IN = "usr/lib/systemd/system/docker.service", "etc/systemd/system/docker.service.d/10-tcp.conf"
FD = "[Service]\nExecStart=/usr/bin/dockerd -H fd://\n"
LISTENERS: list[tuple[str, Files, list[str]]] = [
    ("log", {"etc/docker/daemon.json": '{"log-opts": {"syslog-address": "tcp://192.0.2.1:514"}}'}, []),
    ("proxy", {"etc/docker/daemon.json": '{"proxies": {"http-proxy": "http://192.0.2.1:3128"}}'}, []),
    ("mirror", {"etc/docker/daemon.json": '{"registry-mirrors": ["http://x:5000"], "hosts": ["fd://"]}'}, []),
    ("no-list", {"etc/docker/daemon.json": '{"hosts": "tcp://0.0.0.0:2375"}'}, []),
    ("broken", {"etc/docker/daemon.json": '{"hosts": ["tcp://0.0.0.0:2375"],'}, []),
    ("bare", {"etc/docker/daemon.json": '{\n"hosts": [\n"0.0.0.0:2375"]}'}, ["etc/docker/daemon.json:3"]),
    ("tls", {"etc/docker/daemon.json": '{"hosts": ["tcp://:2376"], "tls": true}'}, ["etc/docker/daemon.json:1"]),
    (
        "drop-in",
        {UNIT: FD, DROP_IN: "[Service]\nExecStart=\nExecStart=dockerd -H fd:// -H tcp://0:1\n"},
        [f"{DROP_IN}:3"],
    ),
    ("reset", {UNIT: FD.replace("fd://", "tcp://:1"), DROP_IN: "[Service]\nExecStart=\nExecStart=dockerd\n"}, []),
    ("vendors", {UNIT: FD.replace("fd://", "tcp://:1")}, [f"{UNIT}:2"]),
    ("overridden", {UNIT: FD.replace("fd://", "tcp://:1"), UNIT.replace("usr/lib", "etc"): FD}, []),
    (
        "in-run",
        {UNIT.replace("usr/lib", "run"): FD.replace("fd://", "tcp://:1")},
        ["run/systemd/system/docker.service:2"],
    ),
    (
        "later",
        {
            UNIT: FD,
            DROP_IN: "[Service]\nExecStart=\nExecStart=dockerd -H tcp://:1\n",
            DROP_IN.replace("10-", "20-"): "[Service]\nExecStart=\nExecStart=dockerd\n",
        },
        [],
    ),
    (
        "lines",
        {UNIT: "[Service]\nExecStart=/usr/bin/dockerd \\\n  # the network\n  --host=tcp://:1 \\\n  -H fd://\n"},
        [f"{UNIT}:4"],
    ),
    (
        "commented",
        {UNIT: "[Service]\nExecStart=/usr/bin/dockerd \\\n  ;-H tcp://:1 \\\n  -H fd://\n#-H tcp://:2\n"},
        [],
    ),
    ("glued", {UNIT: "ExecStart=dockerd -Htcp://:1\n"}, [f"{UNIT}:1"]),
    ("syslog", {UNIT: "ExecStart=dockerd --log-opt syslog-address=tcp://192.0.2.1:514\n"}, []),
    ("variable", {UNIT: 'Environment="OPTIONS=-H fd:// -H tcp://:1"\nExecStart=dockerd $OPTIONS\n'}, [f"{UNIT}:1"]),
    ("plain-variable", {UNIT: "Environment=A=b OPTIONS=-Htcp://:1\nExecStart=dockerd ${OPTIONS}\n"}, [f"{UNIT}:1"]),
    ("certificates", {UNIT: "ExecStart=dockerd -H tcp://:1 --tlsverify --tlscacert=/x\n"}, []),
    (
        "another-unit",
        {"etc/systemd/system/engine.service": "ExecStart=/opt/dockerd -H tcp://:1\n"},
        ["etc/systemd/system/engine.service:1"],
    ),
    ("client", {"etc/systemd/system/x.service": "ExecStart=docker -H tcp://192.0.2.1:2376 ps\n"}, []),
    (
        "containers-own",
        {"etc/systemd/system/x.service": "ExecStart=/usr/bin/docker run -d app uvicorn --host 0.0.0.0\n"},
        [],
    ),
    (
        "old-daemon",
        {
            "etc/systemd/system/x.service": "ExecStart=/usr/bin/docker -d -H fd:// -H tcp://0.0.0.0:2375\n",
            "etc/systemd/system/y.service": "ExecStart=/usr/bin/docker daemon -H tcp://0.0.0.0:2375\n",
        },
        ["etc/systemd/system/x.service:1", "etc/systemd/system/y.service:1"],
    ),
    (
        "socket",
        {"etc/systemd/system/docker-tcp.socket": "[Socket]\nListenStream=2375\nService=docker.service\n"},
        ["etc/systemd/system/docker-tcp.socket:2"],
    ),
    (
        "socket-reset",
        {
            "usr/lib/systemd/system/podman.socket": "ListenStream=1\n",
            "etc/systemd/system/podman.socket.d/a.conf": "ListenStream=\nListenStream=%t/podman/podman.sock\n",
        },
        [],
    ),
    ("another-socket", {"etc/systemd/system/cups.socket": "[Socket]\nListenStream=631\n"}, []),
    (
        "podman",
        {"etc/systemd/system/p.service": "ExecStart=podman --trace system service \\\n --time=0 tcp:0.0.0.0:8\n"},
        ["etc/systemd/system/p.service:2"],
    ),
    (
        "podmans-log",
        {"etc/systemd/system/p.service": "ExecStart=podman run --log-opt address=tcp://192.0.2.1:1 x\n"},
        [],
    ),
    ("options", {"etc/default/docker": 'DOCKER_OPTS="-H tcp://0.0.0.0:2375 -H fd://"\n'}, ["etc/default/docker:1"]),
    (
        "options-log",
        {"etc/sysconfig/docker": "OPTIONS='--log-opt syslog-address=tcp://x:1'\nhttp_proxy=http://x:1\n"},
        [],
    ),
]


@pytest.mark.parametrize(("texts", "expected"), [each[1:] for each in LISTENERS], ids=[each[0] for each in LISTENERS])
def test_where_an_engine_listens(tmp_path: Path, texts: Files, expected: list[str]) -> None:
    write(tmp_path, texts)
    assert found(tmp_path) == [f"engine-listener {each}" for each in expected]


def test_what_the_engines_configuration_adds(tmp_path: Path) -> None:
    """Sockets of other names, and storage in other places."""
    write(
        tmp_path,
        {
            "etc/docker/daemon.json": '{"hosts": ["unix:///srv/a.sock", "tcp://:1"], "data-root": "/srv/docker"}',
            "etc/systemd/system/podman.socket": "ListenStream=/srv/b.sock\nListenStream=%t/c.sock\n",
            "etc/containers/storage.conf": '[storage]\n# graphroot = "/x"\n graphroot = "/srv/containers"\n',
        },
    )
    assert sorted(listeners.local(tmp_path)) == ["/run/c.sock", "/srv/a.sock", "/srv/b.sock"]
    assert sorted(listeners.storage(tmp_path)) == ["/srv/containers", "/srv/docker"]


# ---------------------------------------------------------------- units and compose files

AGENT_UNIT = "etc/containers/systemd/edpm_ovn_agent.container"
COMPOSE = "opt/neutron/docker-compose.yml"
UNITS: list[tuple[str, Files, list[str]]] = [
    (
        "lines",
        {"etc/systemd/system/a.service": "ExecStart=podman run \\\n  --rm \\\n  -v \\\n  /run/docker.sock:/x y\n"},
        ["etc/systemd/system/a.service:4"],
    ),
    (
        "comment",
        {"etc/systemd/system/a.service": "ExecStart=podman run \\\n; -v /run/docker.sock:/x \\\n# -v /run:/x \\\n x\n"},
        [],
    ),
    (
        "no-continuation",
        {"etc/systemd/system/a.service": "ExecStart=podman run x \\\\\nX=1 -v /run/docker.sock:/x\n"},
        [],
    ),
    (
        "comment-between",
        {"etc/systemd/system/a.service": "ExecStart=podman run \\\n# the engine\n -v /run/docker.sock:/x \\\n x\n"},
        ["etc/systemd/system/a.service:3"],
    ),
    (
        "global-option",
        {"run/systemd/system/a.service": "ExecStart=-/usr/bin/docker --config /x run -v /run/docker.sock:/x y\n"},
        ["run/systemd/system/a.service:1"],
    ),
    (
        "shell",
        {"usr/lib/systemd/system/a.service": "ExecStart=/bin/sh -c 'docker run -v /run/docker.sock:/x y'\n"},
        ["usr/lib/systemd/system/a.service:1"],
    ),
    ("not-an-engine", {"etc/systemd/system/a.service": "ExecStart=/usr/bin/backup -v /run/docker.sock:/x\n"}, []),
    (
        "reset",
        {
            "usr/lib/systemd/system/a.service": "ExecStart=docker run -v /run/docker.sock:/x y\n",
            "etc/systemd/system/a.service.d/b.conf": "[Service]\nExecStart=\nExecStart=docker run y\n",
        },
        [],
    ),
    (
        "quadlet-lines",
        {"etc/containers/systemd/a.container": "[Container]\nPodmanArgs=--tz=UTC \\\n  --volume /run/docker.sock:/x\n"},
        ["etc/containers/systemd/a.container:3"],
    ),
    (
        "quadlet-group",
        {
            "etc/containers/systemd/container.d/a.conf": "[Container]\nVolume=/run/docker.sock:/x\n",
            "etc/containers/systemd/a.container": "[Container]\nImage=x\n",
        },
        ["etc/containers/systemd/container.d/a.conf:2"],
    ),
    (
        "quadlet-in-run",
        {
            "run/containers/systemd/a.container": "Volume=/run:/x\n",
            "etc/containers/systemd/a.container": "Volume=/run/docker.sock:/x\n",
        },
        ["run/containers/systemd/a.container:1"],
    ),
    (
        "edpm",
        {AGENT_UNIT: "[Container]\nContainerName=ovn_agent\nPodmanArgs=--privileged --tz=UTC\nPodmanArgs=--pid=host\n"},
        [f"{AGENT_UNIT}:3"],
    ),
    ("pids", {AGENT_UNIT: "[Container]\nPodmanArgs=--pid=host\n"}, [f"{AGENT_UNIT}:2"]),
    (
        "served",
        {AGENT_UNIT: "[Container]\nPodmanArgs=--pid=host\nVolume=/run/sidespawn/x/spool:/run/sidespawn/x/spool\n"},
        [],
    ),
    ("capabilities", {AGENT_UNIT: "[Container]\nAddCapability=all\n"}, [f"{AGENT_UNIT}:2"]),
    (
        "by-name",
        {"etc/containers/systemd/a.container": "ContainerName=neutron_dhcp_agent\nPodmanArgs=--privileged\n"},
        ["etc/containers/systemd/a.container:2"],
    ),
    (
        "compose",
        {
            COMPOSE: "services:\n  neutron-dhcp-agent:\n    privileged: true\n    pid: host\n    volumes:\n"
            "      - /var/run/docker.sock:/x:ro\n      - type: bind\n        source: /run\n        target: /host\n"
        },
        [f"{COMPOSE}:{number}" for number in (3, 4, 6, 8)],
    ),
    ("compose-no-path", {COMPOSE: 'services: {x: {volumes: ["/\\0:/x", "/run/docker.sock:/y"]}}\n'}, [f"{COMPOSE}:1"]),
    ("compose-other", {COMPOSE: "services:\n  web:\n    privileged: true\n    pid: host\n    image: x\n"}, []),
    (
        "compose-quiet",
        {
            COMPOSE: "services:\n  neutron_dhcp_agent:\n    privileged: false\n    # pid: host\n    environment:\n"
            "      DOCKER: /run/docker.sock:/x\n    labels: ['a=/run/docker.sock:/x']\n    volumes:\n"
            "    - data:/run/docker.sock\n    - /etc/docker:/etc/docker:ro\nvolumes:\n  data:\n"
        },
        [],
    ),
    (
        "compose-flow",
        {"srv/compose.yaml": "services: {x: {volumes: ['${SOCKET:-/var/run/docker.sock}:/x'], image: y}}\n"},
        ["srv/compose.yaml:1"],
    ),
    (
        "compose-merge",
        {"root/compose.yml": "x-a: &a\n  privileged: yes\nservices:\n  neutron_l3_agent:\n    <<: *a\n    image: x\n"},
        ["root/compose.yml:2"],
    ),
    (
        "compose-volume",
        {
            "etc/a/compose.yml": "services:\n  x:\n    volumes: [s:/x]\n"
            "volumes:\n  s:\n    driver_opts: {type: none, o: bind, device: /run}\n"
        },
        ["etc/a/compose.yml:3"],
    ),
    (
        "compose-api-socket",
        {"srv/a/compose.yaml": "services:\n  x:\n    image: y\n    use_api_socket: true\n"},
        ["srv/a/compose.yaml:4"],
    ),
    (
        "compose-of-another-name",
        {"srv/a/docker-compose.production.yml": "services:\n  x:\n    volumes: [/run:/run]\n"},
        ["srv/a/docker-compose.production.yml:3"],
    ),
    (
        "compose-1",
        {"opt/docker-compose.yml": "neutron_dhcp:\n  image: x\n  container_name: a\n  privileged: true\n"},
        ["opt/docker-compose.yml:4"],
    ),
    (
        "manifest",
        {
            "etc/kubernetes/manifests/a.yaml": "spec:\n  containers:\n  - name: neutron-l3-agent\n"
            "    securityContext:\n      privileged: true\n"
            "  - name: other\n    securityContext: {privileged: true}\n"
        },
        ["etc/kubernetes/manifests/a.yaml:5"],
    ),
    (
        "kube",
        {"etc/containers/systemd/a.kube": "[Kube]\nYaml=/opt/pod.yaml\n", "opt/pod.yaml": "hostPath: {path: /run}\n"},
        ["opt/pod.yaml:1"],
    ),
]


@pytest.mark.parametrize(("texts", "expected"), [each[1:] for each in UNITS], ids=[each[0] for each in UNITS])
def test_what_starts_containers(tmp_path: Path, texts: Files, expected: list[str]) -> None:
    write(tmp_path, texts)
    assert found(tmp_path) == sorted(f"unit-file {each}" for each in expected)


def test_where_the_kubelet_reads_manifests(tmp_path: Path) -> None:
    manifest = "volumes:\n- name: a\n  hostPath:\n    # the engine's\n\n    path: '/run'\n"
    write(tmp_path, {"var/lib/kubelet/config.yaml": "staticPodPath: /opt/pods/\n", "opt/pods/a.yaml": manifest})
    assert found(tmp_path) == ["unit-file opt/pods/a.yaml:6"]


@pytest.mark.parametrize(
    ("deployment", "what", "word"),
    [
        (Deployment.EDPM, "is privileged", "PodmanArgs="),
        (Deployment.EDPM, "mounts /run", "common_volumes"),
        (Deployment.COMPOSE, "x has the host's pids", "--print=compose"),
        (Deployment.KUBERNETES, "is privileged", "hostPID"),
        (Deployment.KUBERNETES, "mounts /run", "hostPath"),
    ],
)
def test_the_hint_for_a_file_is_for_what_it_does(deployment: Deployment, what: str, word: str) -> None:
    assert word in Finding(kind=Kind.UNIT_FILE, where="x:1", found=what, deployment=deployment).hint


def test_a_directory_that_cannot_be_listed_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip a user's sshfs whose server has died."""
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith("mnt"):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)
        return scandir(path)

    text = "services: {x: {volumes: ['/run/docker.sock:/x']}}\n"
    write(tmp_path, {"home/a/mnt/compose.yml": text, "home/b/.own/compose.yml": text, "srv/compose.yml": text})
    monkeypatch.setattr(os, "scandir", failing)
    assert found(tmp_path) == ["unit-file home/b/.own/compose.yml:1", "unit-file srv/compose.yml:1"]


def test_a_masked_unit_and_another_name_of_one_do_not_count_twice(tmp_path: Path) -> None:
    unit = "ExecStart=docker run -v /run/docker.sock:/x y\n"
    write(tmp_path, {"usr/lib/systemd/system/a.service": unit, "usr/lib/systemd/system/b.service": unit})
    etc = tmp_path / "etc/systemd/system"
    etc.mkdir(parents=True)
    (etc / "a.service").symlink_to("/dev/null")
    (etc / "alias.service").symlink_to(tmp_path / "usr/lib/systemd/system/b.service")
    (etc / "itself.service").symlink_to("itself.service")
    assert found(tmp_path) == ["unit-file usr/lib/systemd/system/b.service:1"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[[[[",
        ": : :",
        "a: {b: ",
        "a: *x",
        '"',
        "? a\n: b",
        "\t- a",
        "a: &",
        "- - -",
        "a: |",
        "}",
        "{]",
        "{:}",
        "[,]",
    ],
)
def test_bad_yaml_is_no_trouble(text: str) -> None:
    assert all(isinstance(each.line, int) for each in entries("x", text, []))


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 300_000, "a: " + "x:" * 300_000, "{" + '"a" ' * 200_000, ("- " * 20 + "\n") * 20_000,
        "a: {b\n" * 60_000, "{" + ":" * 500_000, "a: " + "'" * 500_000, "x: &a\n" + "- *a\n" * 100_000,
        "&a " * 200_000, " " * 800_000 + "a", "a" + " " * 800_000, "- " * 500_000, "? " * 500_000,
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 40)),
        "a0: &a0 {x: y}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 40)),
        "a0: &a0 x\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 30_000)),
        "x: &a\n" + "".join(f"  k{n}: v\n" for n in range(50_000)) + "y:\n" + "  <<: *a\n" * 50_000,
        "x: &a\n" + "  <<: *a\n" * 100_000, "a:\n" + "  <<: {a: b}\n" * 60_000,
        ("{<<: " * 40 + "a" + "}" * 40 + "\n---\n") * 1_500, ("[" * 45 + "a," * 4_000 + "]" * 45 + "\n---\n") * 100,
    ],
    ids=range(21),
)  # fmt: skip
def test_yaml_that_is_made_to_keep_us_busy(text: str) -> None:
    began = time.process_time()
    list(entries("x", text, []))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"a{number}: {{b: c}}\n" for number in range(30_000)),
        "services:\n" + "".join(f"  a{number}: {{b: c}}\n" for number in range(30_000)),
        f"services: {{ovn_{'a_' * 60}x: {{image: x}}}}\n",
        f"services: {{ovn{'_' * 60}x: {{image: x}}}}\n",
    ],
    ids=range(4),
)
def test_a_compose_file_that_is_made_to_keep_us_busy(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"var/lib/neutron/x/compose.yml": text})
    began = time.process_time()
    assert found(tmp_path) == []
    assert time.process_time() - began < 10


YAML: list[tuple[str, str, list[str]]] = [
    ("lines", "a:\n- b: c\n\n  d: 'e'\n- f\n", ["a/0/b=c:2", "a/0/d=e:4", "a/1=f:5"]),
    ("text-over-lines", "a:\n- >-\n  /run\n  /x\n- |\n  b\nc: d\n  e", ["a/0=/run /x:2", "a/1=b\n:5", "c=d e:7"]),
    ("json", '{\n\t"a": ["\\/b", "\\ud83d\\ude00", "\\u00e9"]\n}', ["a/0=/b:2", "a/1=\ufffd\ufffd:2", "a/2=é:2"]),
    ("nothing", "a:\nb: ''\nc: ~\n", ["c=~:3"]),
    ("tags", "a: !reset null\nb: !x {c: d}\n", ["a=null:1", "b/c=d:2"]),
    ("key-of-two", "? [a, b]\n: c\nd: e\n", ["=c:2", "d=e:3"]),
    ("documents", "a: b\n---\na: c\n", ["a=b:1", "a=c:3"]),
    ("alias", "a: &x [b]\nc: *x\n", ["a/0=b:1", "c/0=b:1"]),
    ("alias-of-a-key", "a: &x b\n*x : c\n", ["a=b:1", "b=c:2"]),
    ("anchor-again", "a: &x b\nc: &x d\ne: *x\n", ["a=b:1", "c=d:2", "e=d:2"]),
    ("within-itself", "a: &x\n- b\n- *x\n", ["a/0=b:2"]),
    ("merge", "x: &x {a: b, c: d}\ny:\n  <<: *x\n  c: e\n", ["x/a=b:1", "x/c=d:1", "y/a=b:1", "y/c=e:4"]),
    (
        "merge-of-two",
        "x: &x {a: b}\ny: &y {<<: *x, c: d}\nz:\n  <<: [*x, {e: f}]\nw: {<<: *y, a: g}\n",
        ["x/a=b:1", "y/a=b:1", "y/c=d:2", "z/a=b:1", "z/e=f:4", "w/c=d:2", "w/a=g:5"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [each[1:] for each in YAML], ids=[each[0] for each in YAML])
def test_values_of_yaml(text: str, expected: list[str]) -> None:
    failed: list[str] = []
    assert [f"{'/'.join(each.path)}={each.value}:{each.line}" for each in entries("x", text, failed)] == expected
    assert failed == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b\n{% if c %}\nd: e\n", "x:2: not read from here on: found character that cannot start any token"),
        ("a: b\nc: *d\ne: f\n", "x:2: not read from here on: there is no &d before it"),
        ("a: b\nc: " + "[" * DEEPEST, f"x:2: not read from here on: nested more than {DEEPEST} deep"),
        ("a: b\nc:\n" + "-\n" * LONGEST, f"x:{LONGEST - 4}: not read from here on: too many values"),
    ],
    ids=["template", "anchor", "deep", "long"],
)
def test_what_precedes_an_error_is_read(text: str, problem: str) -> None:
    failed: list[str] = []
    assert [each.value for each in entries("x", text, failed)] == ["b"]
    assert failed == [problem]


def test_files_that_are_not_yaml_are_reported(tmp_path: Path) -> None:
    bad = "services: {x: {volumes: ['/run:/x']}}\n%}\n"
    manifest = "hostPath: {path: /run}\n{{ if }\n"
    places = [COMPOSE, "etc/kubernetes/manifests/a.yaml", "var/lib/kubelet/config.yaml"]
    write(tmp_path, dict(zip(places, (bad, manifest, "a: [\n"), strict=True)))
    failed: list[str] = []
    found = [each.where for each in files.look(SOURCES, tmp_path, failed)]
    assert found == [f"{tmp_path}/etc/kubernetes/manifests/a.yaml:1", f"{tmp_path}/{COMPOSE}:1"]
    assert sorted(each.partition(":")[0] for each in failed) == sorted(f"{tmp_path}/{each}" for each in places)


def test_names_in_a_manifest_are_those_of_the_same_document(tmp_path: Path) -> None:
    pod = "spec:\n  containers:\n  - name: {}\n    securityContext: {{privileged: true}}\n"
    manifest = "---\n".join(pod.format(each) for each in ("neutron-l3-agent", "other"))
    write(tmp_path, {"etc/kubernetes/manifests/a.yaml": manifest})
    assert found(tmp_path) == ["unit-file etc/kubernetes/manifests/a.yaml:4"]


# ---------------------------------------------------------------- settings

HIERADATA, GLOBALS, ENVIRONMENT = "etc/puppet/hieradata/x.json", "etc/kolla/globals.yml", "home/stack/overcloud.yaml"
WRAPPERS = "tripleo::profile::base::neutron::dhcp_agent_wrappers"
SETTINGS = [
    *[
        (GLOBALS, f"neutron_agents_wrappers: {value}\n", True)
        for value in ('"yes"', "'yes'", "yes", "True", "on", "1", "true # x")
    ],
    *[
        (GLOBALS, f"neutron_agents_wrappers: {value}\n", False)
        for value in ('"no"', "no", "False", "0", "off", '""', "'{{ x }}'")
    ],
    (GLOBALS, '#neutron_agents_wrappers: "yes"\n', False),
    (GLOBALS, 'a: "neutron_agents_wrappers: yes"\n', False),
    (HIERADATA, f'{{\n"{WRAPPERS}::enable_dnsmasq_wrapper": true\n}}', True),
    (HIERADATA, f'{{\n"{WRAPPERS}::enable_dnsmasq_wrapper": false,\n"{WRAPPERS}::debug": true}}', False),
    (HIERADATA, f'{{\n"{WRAPPERS}::dnsmasq_process_wrapper": "/var/lib/neutron/dnsmasq_wrapper"\n}}', False),
    (HIERADATA, f'{{\n"{WRAPPERS}::dnsmasq_image": "x/true"\n}}', False),
    ("etc/puppet/hieradata/y.yaml", "tripleo::profile::base::docker::additional_sockets:\n- /x\n", True),
    ("etc/puppet/hieradata/y.yaml", "tripleo::profile::base::docker::additional_sockets: null\n", False),
    (ENVIRONMENT, "parameter_defaults:\n  NeutronEnableDnsmasqDockerWrapper: true\n", True),
    (ENVIRONMENT, "parameter_defaults:\n  OVNEnableHaproxyDockerWrapper: 'True' # x\n", True),
    (ENVIRONMENT, "parameter_defaults:\n  NeutronEnableDnsmasqDockerWrapper: false\n", False),
    (ENVIRONMENT, "parameter_defaults:\n  # NeutronEnableKeepalivedWrapper: true\n", False),
    (ENVIRONMENT, "notes: x\nNeutronEnableKeepalivedWrapper: true\n", False),
]


@pytest.mark.parametrize(("path", "text", "is_found"), SETTINGS)
def test_a_setting_counts_if_it_is_true(tmp_path: Path, path: str, text: str, is_found: bool) -> None:
    write(tmp_path, {path: text})
    assert [each.partition(" ")[0] for each in found(tmp_path)] == ["deployer-setting"] * is_found


def test_a_later_file_of_kolla_and_sidespawns_mounts_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        {GLOBALS: "neutron_agents_wrappers: yes\n", "etc/kolla/globals.d/a.yml": "neutron_agents_wrappers: no\n"},
    )
    assert found(tmp_path) == []
    write(tmp_path, {"etc/kolla/globals.d/a.yml": "neutron_agents_wrappers: yes\n"})
    assert found(tmp_path) == ["deployer-setting etc/kolla/globals.d/a.yml:1"]
    write(tmp_path, {"etc/kolla/globals.d/b.yml": "neutron_dhcp_agent_extra_volumes: [/run/sidespawn/x/spool:/y]\n"})
    assert found(tmp_path) == []


# ---------------------------------------------------------------- scripts

# As the deployers' templates have them, and in other shapes.
CALLS = [
    'CLI="nsenter --net=/run/netns/${NETNS} --preserve-credentials -m -t1 podman"',
    'CLI="nsenter --net=/run/netns/${NETNS} --preserve-credentials -m -t 1 podman exec"',
    '  CLI="nsenter --all --preserve-credentials -t 1 podman"',
    '    CLI="docker"',
    "  CLI='docker'",
    '    CLI="docker exec --detach"',
    "nsenter \\\n  --target 1 \\\n  -m podman",
    "nsenter -mt 1 true",
    'subprocess.run(["nsenter", "--target", "1", "--mount", "podman", "kill"])',
    'os.execvp("docker", ["docker", "run", "x"])',
    "curl --unix-socket /run/docker.sock http://x/containers/json",
    "export DOCKER_HOST=unix:///var/run/docker.sock",
    "chroot /proc/1/root podman",
    'ID=$(podman inspect -f "{{.Id}}" x)',
    'echo "$(docker ps)"',
    "podman-remote run x",
]
NO_CALLS = [
    "# CLI='docker'",
    "exec dnsmasq  # was podman run",
    'echo "podman run is not used any more"',
    "nsenter -t 12 true",
    "nsenter --net=/run/netns/x dnsmasq",
    "CLI='echo noop'",
    "dockerize run",
    "kill -HUP 1",
    "LOG=/var/log/docker.log",
]


@pytest.mark.parametrize("text", [*CALLS, *NO_CALLS])
@pytest.mark.parametrize("path", ["var/lib/neutron/dnsmasq_wrapper", "etc/neutron/kill_scripts/haproxy-kill"])
def test_a_script(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, {path: f"#!/bin/bash\n{text}\n"})
    kind = "wrapper-script" if "wrapper" in path else "kill-script"
    assert found(tmp_path) == ([f"{kind} {path}:2"] if text in CALLS else [])


@pytest.mark.parametrize(
    ("file", "source", "target", "kind"),
    [
        ("opt/w/dns", "/opt/w/dns", "/usr/local/bin/dnsmasq", "wrapper-script"),
        ("opt/w/dnsmasq", "/opt/w", "/usr/local/bin", "wrapper-script"),
        ("vol/_data/dhcp_haproxy_wrapper", "/vol/_data", "/var/lib/neutron", "wrapper-script"),
        ("vol/_data/kill_scripts/haproxy-kill", "/vol/_data", "/var/lib/neutron", "kill-script"),
        ("opt/k/haproxy-kill", "/opt/k", "/etc/neutron/kill_scripts", "kill-script"),
        ("opt/k/x-kill", "/opt/k/x-kill", "/etc/neutron/kill_scripts/x-kill", "kill-script"),
        ("opt/w/dns", "/opt/w/dns", "/opt/dnsmasq", ""),
        ("run/sidespawn/x/agent/dnsmasq", "/run/sidespawn/x/agent", "/usr/local/bin", ""),
        ("opt/w/bash", "/opt/w", "/usr/local/bin", ""),
    ],
)
def test_a_script_that_a_mount_brings(tmp_path: Path, file: str, source: str, target: str, kind: str) -> None:
    write(tmp_path, {file: "#!/bin/sh\nexec docker run x\n"})
    agent = Container(engine="docker", name="x", mounts=(ContainerMount(source=source, target=target),))
    here = [f"{each.kind} {each.where}" for each in files.scripts_of(agent, tmp_path)]
    assert here == ([f"{kind} {tmp_path / file}:2"] if kind else [])


def test_a_script_that_another_mount_hides(tmp_path: Path) -> None:
    write(tmp_path, {"opt/k/dnsmasq-kill": "docker kill x\n", "opt/k/haproxy-kill": "docker kill x\n"})
    old = ContainerMount(source="/opt/k", target="/etc/neutron/kill_scripts")
    ours = "/run/sidespawn/x/agent/dnsmasq-kill"
    own = ContainerMount(source=ours, target="/etc/neutron/kill_scripts/dnsmasq-kill")
    agent = Container(engine="podman", name="x", mounts=(old, own))
    assert [each.where for each in files.scripts_of(agent, tmp_path)] == [f"{tmp_path}/opt/k/haproxy-kill:1"]


# ---------------------------------------------------------------- containers


def judged(container: Container, sources: Sources = SOURCES) -> list[Finding]:
    return list(containers.judge(container, sources, host_scan.shipped()))


def mounting(source: str, **more: Any) -> Container:
    mount = ContainerMount(source=source, target="/x")
    return Container(**{"engine": "podman", "name": "x", "mounts": (mount,), **more})


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/run/docker.sock", Kind.ENGINE_SOCKET), ("/var/run/docker.sock", Kind.ENGINE_SOCKET),
        ("/run/../run/docker.sock/", Kind.ENGINE_SOCKET), ("/proc/self/root/run/docker.sock", Kind.ENGINE_SOCKET),
        ("/run", Kind.ENGINE_SOCKET), ("/run/user/1000/podman/podman.sock", Kind.ENGINE_SOCKET),
        ("/run/podman", Kind.RUN_DIRECTORY), ("/run/containerd", Kind.RUN_DIRECTORY),
        ("/var/lib/docker/volumes", Kind.ENGINE_STORAGE), ("/var/lib/containers/storage/volumes", Kind.ENGINE_STORAGE),
        ("/var/lib/docker/volumes/x/_data", None), ("/run/user/1000/pulse", None), ("/etc/docker", None),
        ("/run/netns", None), ("/etc/containers", None),
    ],
)  # fmt: skip
def test_where_a_mount_leads(source: str, kind: Kind | None) -> None:
    assert [each.kind for each in judged(mounting(source))] == ([kind] if kind else [])


def test_a_users_engine_is_named(tmp_path: Path) -> None:
    (finding,) = judged(mounting("/run/user/1000/podman/podman.sock"))
    assert finding.found.endswith("the engine of user 1000, with that user's rights")
    users = Sources(
        sockets=frozenset(), present=frozenset(), storage=frozenset(), users=frozenset({"/run/user/7/docker.sock"})
    )
    assert [users.users_engine(each) for each in ("/run/user/7", "/run/user/77", "/run/user", "/")] == ["7", "", "", ""]


def test_users_sockets_are_looked_up(tmp_path: Path) -> None:
    for user in ("0", "7", "8"):
        (tmp_path / user).mkdir()
    (tmp_path / "8/docker.sock").touch()
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as roots:
        one.bind(str(tmp_path / "7/docker.sock"))
        roots.bind(str(tmp_path / "0/docker.sock"))
        assert list(sources.users_sockets(tmp_path)) == [str(tmp_path / "7/docker.sock")]
    assert list(sources.users_sockets(tmp_path / "none")) == []


def test_a_script_in_two_places_is_one_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Finding(kind=Kind.WRAPPER_SCRIPT, where="/x:1", found="docker", deployment=Deployment.EDPM)
    two = Finding(kind=Kind.WRAPPER_SCRIPT, where="/x:1", found="docker")
    monkeypatch.setattr(host_scan, "ENGINES", {"podman": lambda: [Container(engine="podman", name="x")]})
    monkeypatch.setattr(files, "scripts_of", lambda *_: [one])
    monkeypatch.setattr(files, "look", lambda *_: [two, one])
    assert host_scan.scan().findings == (one,)


def test_words_in_variables_and_labels_do_not_count() -> None:
    words = {"A": "/run/docker.sock", "DOCKER_HOST": "unix:///run/docker.sock", "B": "tcp://x:2375"}
    assert judged(Container(engine="docker", name="x", environment=words, labels={"c": "docker.sock"})) == []
    for address in ("tcp://127.0.0.1:2375", "ssh://root@x", "127.0.0.1:2375", ":2375", "[::1]:2375"):
        (finding,) = judged(Container(engine="docker", name="x", environment={"DOCKER_HOST": address}))
        assert finding.kind is Kind.ENGINE_ADDRESS


def test_a_stopped_container_says_whether_it_starts_again() -> None:
    name = f"neutron_l3_agent_radvd_{'1' * 8}-2222-3333-4444-{'5' * 12}"
    (finding,) = judged(Container(engine="docker", name=name, running=False, restart="always"))
    assert (finding.kind, finding.found) == (
        Kind.OLD_SIDE_CONTAINER,
        f"{name} is there, stopped, with restart policy always",
    )
    (finding,) = judged(mounting("/run/docker.sock", running=False))
    assert finding.found.endswith(", stopped")


KOLLA = {"labels": {"kolla_version": "1"}, "environment": {"KOLLA_NAME": "x"}}
EDPM, TRIPLEO = {"labels": {"managed_by": "edpm_ansible"}}, {"labels": {"managed_by": "tripleo_ansible"}}


@pytest.mark.parametrize(
    ("more", "deployment"),
    [
        (KOLLA, "kolla-ansible"), (EDPM, "edpm"), (TRIPLEO, "tripleo"), ({}, "none"),
        ({"labels": {"com.docker.compose.project": "x"}}, "compose"),
        ({"labels": {"PODMAN_SYSTEMD_UNIT": "x"}}, "quadlet"),
        ({"labels": {"io.kubernetes.pod.name": "x"}}, "kubernetes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["/run/docker.sock", "/var/lib/docker", "/run/podman"])
def test_a_hint_for_another_container_names_no_agents_setting(
    source: str, more: dict[str, Any], deployment: str
) -> None:
    for name, is_agent in (("prometheus_cadvisor", False), ("neutron_l3_agent", True)):
        for finding in judged(mounting(source, name=name, privileged=True, host_pids=True, **more)):
            assert finding.deployment == deployment
            words = ("agent", "AGENT", "neutron", "NeutronEnable", "DockerAdditionalSockets")
            assert is_agent or not any(word in finding.hint for word in words), finding.hint
            assert finding.as_row().keys() == {"kind", "where", "found", "deployment", "meaning", "hint"}


def test_only_sockets_count_that_are_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines make a directory in place of a source that is not there."""
    names = {name: str(tmp_path / f"{name}.sock") for name in ("file", "directory", "socket", "gone")}
    (tmp_path / "file.sock").touch()
    (tmp_path / "directory.sock").mkdir()
    monkeypatch.setattr(sources, "SOCKETS", tuple(names.values()))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(names["socket"])
        known = sources.look(tmp_path)
        assert known.sockets == {names["socket"], names["gone"]}
        assert known.present == {names["socket"]}


# ---------------------------------------------------------------- containerd

CRI = "io.kubernetes.cri."
POD = {f"{CRI}sandbox-namespace": "openstack", f"{CRI}sandbox-name": "neutron-dhcp-agent-x2x4z"}


def description(**more: Any) -> dict[str, Any]:
    namespaces = [{"type": "pid", "path": "/proc/4711/ns/pid"}, {"type": "mount"}]
    masked = {"maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]}
    return {
        "process": {"capabilities": {"bounding": ["CAP_CHOWN"]}, "env": ["A=b"]},
        "linux": {"namespaces": namespaces, **masked},
        "mounts": [],
        "annotations": {**POD, f"{CRI}container-name": "agent", f"{CRI}container-type": "container"},
        **more,
    }


def bind(source: str) -> list[dict[str, Any]]:
    proc = {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}
    return [proc, {"destination": "/x", "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"]}]


EVERYTHING = {"capabilities": {"bounding": [f"CAP_{each}" for each in (*containers.EVERYTHING, "CHOWN")]}}
BUNDLES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("plain", description(), set()),
    ("socket", description(mounts=bind("/run/containerd/containerd.sock")), {"engine-socket"}),
    ("parent", description(mounts=bind("/run")), {"engine-socket"}),
    ("privileged", description(process=EVERYTHING, linux={"namespaces": [{"type": "pid"}]}), {"privileged"}),
    ("host-pids", description(linux={"namespaces": [{"type": "mount"}], "maskedPaths": ["/x"]}), {"host-pids"}),
    ("config", description(mounts=bind("/etc/kubernetes")), set()),
    ("sandbox", description(mounts=bind("/run"), annotations={**POD, f"{CRI}container-type": "sandbox"}), set()),
]


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    yield


@pytest.mark.parametrize("state", ["run/containerd", "run/k3s/containerd"])
@pytest.mark.parametrize(("told", "kinds"), [each[1:] for each in BUNDLES], ids=[each[0] for each in BUNDLES])
def test_a_pods_container(tmp_path: Path, as_root: None, state: str, told: dict[str, Any], kinds: set[str]) -> None:
    write(tmp_path, {f"{state}/{bundles.TASKS}/k8s.io/abc/config.json": json.dumps(told)})
    here = [each for container in bundles.of_containerd(tmp_path) for each in judged(container)]
    assert {str(each.kind) for each in here} == kinds
    assert {each.where for each in here} <= {"containerd:openstack/neutron-dhcp-agent-x2x4z/agent"}
    assert {each.deployment for each in here} <= {Deployment.KUBERNETES}


def test_a_pod_with_the_hosts_pids_names_those_of_its_sandbox(
    tmp_path: Path, as_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """containerd: WithPodNamespaces gives the sandbox's namespace, which is the host's with hostPID."""
    (tmp_path / "pod").touch()
    (tmp_path / "host").symlink_to("pod")
    monkeypatch.setattr(bundles, "HOSTS_PIDS", str(tmp_path / "host"))
    for path, is_hosts in ((tmp_path / "pod", True), (tmp_path, False), (tmp_path / "gone", False)):
        told = description(linux={"namespaces": [{"type": "pid", "path": str(path)}], "maskedPaths": ["/x"]})
        write(tmp_path, {f"run/containerd/{bundles.TASKS}/k8s.io/abc/config.json": json.dumps(told)})
        assert [each.host_pids for each in bundles.of_containerd(tmp_path)] == [is_hosts]


def test_dockers_bundles_are_dockers_and_a_broken_one_is_said(tmp_path: Path, as_root: None) -> None:
    assert list(bundles.of_containerd(tmp_path)) == []
    write(tmp_path, {f"run/containerd/{bundles.TASKS}/moby/a/config.json": json.dumps(description())})
    assert list(bundles.of_containerd(tmp_path)) == []
    names = {"a": "[]", "b": json.dumps(description())}
    write(tmp_path, {f"run/containerd/{bundles.TASKS}/k8s.io/{name}/config.json": text for name, text in names.items()})
    read = bundles.of_containerd(tmp_path)
    assert next(read).name == "openstack/neutron-dhcp-agent-x2x4z/agent"
    with pytest.raises(LaunchError, match=r"a/config\.json is no description of a container"):
        next(read)


def test_only_root_sees_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (tmp_path / "run/containerd" / bundles.TASKS).mkdir(parents=True)
    with pytest.raises(LaunchError, match="only root"):
        list(bundles.of_containerd(tmp_path))


def test_a_node_without_podman_and_docker_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PODMAN", str(tmp_path / "podman"))
    monkeypatch.setattr(engines, "DOCKER_PID", tmp_path / "docker.pid")
    monkeypatch.setattr(engines, "DOCKER_CONTAINERS", tmp_path / "containers")
    monkeypatch.setattr(docker, "SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr(engines, "PROGRAMS", str(tmp_path / "bin"))
    assert [*engines.of_podman(), *engines.of_docker()] == []
    (tmp_path / "containers/abc").mkdir(parents=True)
    assert list(engines.of_docker()) == []  # left by a docker that is not installed any more
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dockerd").touch(mode=0o755)
    with pytest.raises(LaunchError, match="docker is not running, and has 1 containers"):
        list(engines.of_docker())
