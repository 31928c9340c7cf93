"""`sidespawn check` on a Kubernetes node: containerd's handler, kubelet's directory, the number of pods."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sidespawn.engines import agent_runtime
from sidespawn.errors import LaunchError, Reason
from sidespawn.host_report import engines, kubernetes, suitability
from sidespawn.host_report.findings import State
from sidespawn.system.oci import RUNC
from sidespawn.system.processes import Output
from tests.unit import small

GOOD = kubernetes.Facts(runtime=str(kubernetes.RUNTIME), root=RUNC)
KUBELET = "apiVersion: kubelet.config.k8s.io/v1beta1\nstaticPodPath: /x/pods # ours\nmaxPods: 250\n"
HANDLER = {"sidespawn": {"options": {"BinaryName": "/lib/kubernetes-runtime", "Root": RUNC}}, "runc": {}}


def judged(facts: kubernetes.Facts) -> dict[str, tuple[str, str]]:
    return {each.id.value: (each.state.value, each.sentence) for each in kubernetes.judge(facts)}


def test_a_node_that_is_ready() -> None:
    assert {state for state, _ in judged(GOOD).values()} == {"ok"}
    assert set(judged(GOOD)) == {"kubernetes", "static-pods"}


@pytest.mark.parametrize(
    ("facts", "topic", "said"),
    [
        (kubernetes.Facts(is_installed=False), "kubernetes", "containerd is not installed"),
        (replace(GOOD, error="no luck"), "kubernetes", "no luck"),
        (replace(GOOD, runtime=""), "kubernetes", "handler sidespawn is not there"),
        (replace(GOOD, runtime="/usr/sbin/runc"), "kubernetes", "handler sidespawn is /usr/sbin/runc"),
        (replace(GOOD, root=""), "kubernetes", "its Root not set"),
        (replace(GOOD, root="/run/x"), "kubernetes", "its Root /run/x"),
        (replace(GOOD, lacks="/usr/bin/python3"), "kubernetes", "there is no /usr/bin/python3"),
        (replace(GOOD, reads="/var/lib/pods"), "static-pods", "from /var/lib/pods, not from /etc/kubernetes/manifests"),
        (replace(GOOD, has_directory=False), "static-pods", "is not there"),
    ],
)
def test_what_a_node_lacks(facts: kubernetes.Facts, topic: str, said: str) -> None:
    state, sentence = judged(facts)[topic]
    assert state == "problem"
    assert said in sentence


def test_containerd_that_has_not_read_its_configuration_is_told_with_the_command() -> None:
    found = [each for each in kubernetes.judge(replace(GOOD, unread="/etc/containerd/config.toml")) if each.command]
    assert [(each.id, each.state, each.command) for each in found] == [
        ("kubernetes", State.WARNING, "systemctl restart containerd.service")
    ]
    assert "runs with an outdated configuration: /etc/containerd/config.toml was changed" in found[0].found


def test_a_configuration_is_unread_if_it_or_what_it_imports_has_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, imported = tmp_path / "config.toml", tmp_path / "conf.d/a.toml"
    imported.parent.mkdir()
    own.touch()
    imported.touch()
    monkeypatch.setattr(kubernetes, "CONFIGURATION", own)
    imports = {"imports": [f"{tmp_path}/conf.d/*.toml", "relative/*", 7]}
    pid, changed = os.getpid(), max(own.stat().st_ctime, imported.stat().st_ctime)
    assert kubernetes.unread(imports, pid, changed + 1) == ""
    assert kubernetes.unread(imports, pid, own.stat().st_ctime - 1) == str(own)
    assert kubernetes.unread(imports, 0, 0.0) == ""
    time.sleep(0.05)
    imported.touch()
    os.utime(imported, (1, 1))  # as if it was moved there from a backup
    assert kubernetes.unread(imports, pid, changed + 0.01) == str(imported)
    assert kubernetes.unread({}, pid, changed + 0.01) == ""
    own.unlink()
    assert kubernetes.unread({}, pid, 0.0) == ""


@pytest.mark.parametrize(
    ("argv", "file"),
    [
        ("/usr/bin/containerd", str(kubernetes.CONFIGURATION)),
        ("/usr/bin/containerd --config /x/a.toml -l debug", "/x/a.toml"),
        ("/usr/bin/containerd --config=/x/a.toml", "/x/a.toml"),
        ("/usr/bin/containerd -c /x/a.toml", "/x/a.toml"),
    ],
)
def test_the_configuration_that_containerd_was_given(argv: str, file: str) -> None:
    script = ("/bin/sh", "-c", "echo; read _", *argv.split())
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # by now it is executed
        assert str(kubernetes.own_configuration(process.pid)) == file
    assert kubernetes.own_configuration(0) == kubernetes.CONFIGURATION


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("u 7\nt 1764565957123456\n", (7, 1764565957.123456)),
        ("u 0\nt 1764565957123456\n", (0, 0.0)),
        ("u 0\nt 0\n", (0, 0.0)),
        ("", (0, 0.0)),
    ],
)
def test_when_containerd_was_started(monkeypatch: pytest.MonkeyPatch, said: str, found: tuple[int, float]) -> None:
    monkeypatch.setattr(kubernetes, "run", lambda *_: Output(0, said, ""))
    assert kubernetes.running() == found


AGENTS = replace(GOOD, lists_agents=True, agent_runtime=str(kubernetes.AGENT_RUNTIME))


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        (AGENTS, "ok", "handler sidespawn-agent"),
        (replace(AGENTS, has_pods_names=True), "problem", "can enter the network of every pod"),
        (replace(AGENTS, has_pods_names=True, agent_runtime=""), "problem", "is not there"),
        (replace(AGENTS, agent_runtime=""), "problem", "handler sidespawn-agent is not there"),
        (replace(AGENTS, agent_runtime="/usr/sbin/runc"), "problem", "handler sidespawn-agent is /usr/sbin/runc"),
        (replace(AGENTS, is_list_safe=False), "problem", "can be written by others than root"),
    ],
)
def test_a_node_that_lists_agents(facts: kubernetes.Facts, state: str, said: str) -> None:
    found, sentence = judged(facts)["kubernetes-agents"]
    assert found == state
    assert said in sentence


@pytest.mark.parametrize(
    ("policy", "warns"),
    [("", False), ("NeverVerifyPreloadedImages", False), ("NeverVerify", False), ("AlwaysVerify", True),
     ("NeverVerifyAllowlistedImages", True)],
)  # fmt: skip
def test_a_kubelet_that_verifies_who_may_use_an_image(node: Path, policy: str, warns: bool) -> None:
    """It may not start an image that was imported instead of pulled."""
    (node / "kubelet").write_text(f"{KUBELET}imagePullCredentialsVerificationPolicy: {policy}\n" if policy else KUBELET)
    state, sentence = judged(replace(GOOD, verifies_images=kubernetes.look().verifies_images))["kubernetes"]
    assert (state == "warning", "preloadedImagesVerificationAllowlist" in sentence) == (warns, warns)


def test_a_directory_that_others_can_write() -> None:
    state, sentence = judged(replace(GOOD, is_writable=True))["static-pods"]
    assert state == "warning"
    assert "root on this node" in sentence


def test_a_kubelet_that_may_read_no_static_pods() -> None:
    """Either its configuration names no directory, or it is not where kubeadm puts it."""
    state, sentence = judged(replace(GOOD, says_directory=False))["static-pods"]
    assert state == "warning"
    assert "staticPodPath" in sentence
    assert judged(replace(GOOD, says_directory=False, has_directory=False))["static-pods"][0] == "problem"


def test_the_hint_says_what_containerd_needs() -> None:
    _, sentence = judged(replace(GOOD, runtime=""))["kubernetes"]
    assert json.dumps({"BinaryName": str(kubernetes.RUNTIME), "Root": RUNC}) in sentence


def test_the_report_of_the_engines_has_it_where_it_is_used() -> None:
    host = engines.Facts(podman=engines.Podman(), docker=engines.Docker(), bus=engines.Bus(), kubernetes=None)
    assert "kubernetes" not in {each.id.value for each in engines.judge(host, frozenset({"podman"}))}
    used = replace(host, kubernetes=replace(GOOD, runtime=""))
    found = {each.id.value: each.state for each in engines.judge(used, frozenset({"kubernetes"}))}
    assert found["kubernetes"] is State.PROBLEM


# ---------------------------------------------------------------- looking


@pytest.mark.parametrize("plugin", ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"])
def test_the_handler_where_containerd_1_and_2_have_it(plugin: str) -> None:
    configuration = {"plugins": {plugin: {"containerd": {"runtimes": HANDLER}}, "io.containerd.gc.v1.scheduler": {}}}
    assert kubernetes.handler_of(configuration)["BinaryName"] == "/lib/kubernetes-runtime"


@pytest.mark.parametrize("plugin", ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"])
@pytest.mark.parametrize(("line", "shares"), [("x = 1", True), ("{} = false", True), ("{} = true", False)])
def test_where_the_network_namespaces_of_pods_are(
    node: Path, monkeypatch: pytest.MonkeyPatch, plugin: str, line: str, shares: bool
) -> None:
    """Agents that share /run/netns find them there by default."""
    assert (node / "pods").exists()
    text = f"[plugins.'{plugin}']\n{line.format('netns_mounts_under_state_dir')}\n"
    monkeypatch.setattr(kubernetes, "run", lambda *_: Output(0, text, ""))
    assert kubernetes.look().has_pods_names is shares


@pytest.mark.parametrize(
    "configuration", [{}, {"plugins": {}}, {"plugins": {"io.containerd.grpc.v1.cri": {"containerd": {"runtimes": {}}}}}]
)
def test_no_handler(configuration: dict[str, object]) -> None:
    assert kubernetes.handler_of(configuration) == {}


@pytest.mark.parametrize(
    ("text", "path", "most"),
    [
        (KUBELET, "/x/pods", "250"),
        (KUBELET.replace("/x/pods", '"/x/pods"'), "/x/pods", "250"),
        (KUBELET.replace("/x/pods", "'/x/pods'"), "/x/pods", "250"),
        (json.dumps({"staticPodPath": "/x/pods", "maxPods": 250}, indent=1), "/x/pods", "250"),
        ("a:\n  staticPodPath: /nested\n  maxPods: 3\n", "", ""),
        ("# staticPodPath: /no\n", "", ""),
        ("staticPodPath:\n", "", ""),
        ("", "", ""),
    ],
)
def test_what_kubelets_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str, most: str
) -> None:
    monkeypatch.setattr(kubernetes, "KUBELET_CONFIGURATION", tmp_path / "kubelet")
    (tmp_path / "kubelet").write_bytes(b"# \xff\n" + text.encode() if text[:1] != "{" else text.encode())
    assert kubernetes.setting("staticPodPath") == path
    assert kubernetes.setting("maxPods") == most
    assert kubernetes.most_pods() == int(most or kubernetes.MOST_PODS)


@pytest.mark.parametrize("most", ["many", "-1", "1.5", "9" * 5000, "\u0663"])
def test_an_invalid_number_of_pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str) -> None:
    monkeypatch.setattr(kubernetes, "KUBELET_CONFIGURATION", tmp_path / "kubelet")
    (tmp_path / "kubelet").write_text(f"maxPods: {most}\n")
    assert kubernetes.most_pods() == kubernetes.MOST_PODS


def test_a_kubelet_whose_configuration_only_root_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sidespawn check FILE` does not need root."""
    monkeypatch.setattr(Path, "read_text", refuse)
    assert kubernetes.setting("staticPodPath") == ""
    assert kubernetes.most_pods() == kubernetes.MOST_PODS


def refuse(*_: object, **__: object) -> str:
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kubelet").write_text(KUBELET)
    (tmp_path / "pods").mkdir()
    monkeypatch.setattr(kubernetes, "CONTAINERD", str(tmp_path / "kubelet"))
    monkeypatch.setattr(kubernetes, "KUBELET_CONFIGURATION", tmp_path / "kubelet")
    monkeypatch.setattr(kubernetes, "STATIC_PODS", tmp_path / "pods")
    return tmp_path


def test_looking_at_a_node(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes"
    text = (
        f"[{runtimes}.sidespawn.options]\nBinaryName = '/b'\nRoot = '/r'\n"
        f"[{runtimes}.sidespawn-agent.options]\nBinaryName = '/a'\n"
    )
    monkeypatch.setattr(kubernetes, "run", lambda *_: Output(0, text, ""))
    found = kubernetes.look()
    assert (found.runtime, found.root, found.reads, found.says_directory) == ("/b", "/r", "/x/pods", True)
    assert (found.lists_agents, found.agent_runtime) == (False, "/a")
    monkeypatch.setattr(agent_runtime, "LIST", str(node / "list"))
    (node / "list").write_text("openstack/dhcp\n")
    (node / "list").chmod(0o664)
    assert (kubernetes.look().lists_agents, kubernetes.look().is_list_safe) == (True, False)
    assert found.has_directory
    (node / "pods").rmdir()
    assert not kubernetes.look().has_directory


@pytest.mark.parametrize(("python", "lacks"), [("/bin/sh", ""), ("/usr/bin/python0", "/usr/bin/python0")])
def test_the_python_that_the_runtimes_call(
    node: Path, monkeypatch: pytest.MonkeyPatch, python: str, lacks: str
) -> None:
    assert kubernetes.interpreter() == "/usr/bin/python3"
    (node / "runtime").write_text(kubernetes.RUNTIME.read_text().replace("/usr/bin/python3", python))
    monkeypatch.setattr(kubernetes, "RUNTIME", node / "runtime")
    monkeypatch.setattr(kubernetes, "run", lambda *_: Output(0, "", ""))
    assert kubernetes.look().lacks == lacks


def test_the_directory_may_be_a_link_to_kubelets(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "run", lambda *_: Output(0, "", ""))
    kubelets = node / "kubelets"
    kubelets.mkdir()
    (node / "kubelet").write_text(f"staticPodPath: {kubelets}\n")
    assert kubernetes.look().reads == str(kubelets)
    (node / "pods").rmdir()
    (node / "pods").symlink_to(kubelets)
    found = kubernetes.look()
    assert (found.reads, found.has_directory) == ("", True)
    asked: list[Path] = []
    monkeypatch.setattr(kubernetes, "is_writable_by_others", asked.append)
    kubernetes.look()
    assert kubelets in asked
    assert node / "pods" not in asked  # the mode of a link has no effect


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Output(1, "", "containerd: line 3\n"), "line 3"),
        (Output(0, "no = TOML = x", ""), "cannot be read"),
        (Output(0, "plugins = 3", ""), "cannot be read"),
        (Output(0, "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes = 3", ""), "cannot be read"),
        (
            Output(0, "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.sidespawn.options = ['x']", ""),
            "cannot be",
        ),
        (LaunchError(Reason.ENGINE_TIMEOUT, "it took long"), "it took long"),
    ],
)
def test_a_containerd_that_does_not_say(monkeypatch: pytest.MonkeyPatch, answer: object, said: str) -> None:
    def run(*_: object) -> object:
        if isinstance(answer, LaunchError):
            raise answer
        return answer

    monkeypatch.setattr(kubernetes, "run", run)
    assert said in kubernetes.look().error


def test_a_node_without_kubelets_configuration_or_containerd(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "run", lambda *_: Output(0, "", ""))
    (node / "kubelet").rename(node / "other")
    monkeypatch.setattr(kubernetes, "CONTAINERD", str(node / "other"))
    assert (kubernetes.look().reads, kubernetes.look().says_directory) == ("", False)
    monkeypatch.setattr(kubernetes, "CONTAINERD", str(node / "none"))
    assert not kubernetes.look().is_installed


# ---------------------------------------------------------------- a policy on this node


@pytest.mark.parametrize(("most", "warns"), [(110, False), (256, True), (255, True), (1000, False)])
def test_more_side_containers_than_pods(most: int, warns: bool) -> None:
    policy = small.parse(f"{small.POLICY}\n[limits]\ninstances = {256 if warns else 100}\n")
    assert bool(suitability.pod_warnings(policy, most)) is warns


@pytest.mark.parametrize(
    ("answer", "missing"),
    [(Output(0, "", ""), True), (Output(0, "docker.io/library/x:latest\n", ""), False), (Output(1, "", ""), False)],
)
def test_an_image_that_the_node_lacks(monkeypatch: pytest.MonkeyPatch, answer: Output, missing: bool) -> None:
    monkeypatch.setattr("sidespawn.engines.containerd.run", lambda *_: answer)
    assert bool(suitability.kubernetes_image("x")) is missing
