"""What is shipped for clusters: valid by Kubernetes' own schemas, and admission rules that judge cases right.

The rules are evaluated as a ValidatingAdmissionPolicy is: conditions decide whether it applies, each validation that
does not hold refuses, and so does an error. No API server takes part.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sidespawn.engines import agent_runtime
from sidespawn.engines.kubernetes import Kubernetes
from sidespawn.recipes import containers, yaml_text
from sidespawn.recipes.containers import Agent, Mount
from tests.attacks.catalogue import attack
from tests.kubernetes.containerds import CHECKOUT, PYTHON
from tests.unit.test_podman import ID, PINS, PLAN

SHIPPED = CHECKOUT / "integrations/kubernetes"
FILES = sorted(path for path in SHIPPED.glob("*.yaml") if path.name != "kustomization.yaml")
POLICIES_SINCE = "1.30.0"  # admissionregistration.k8s.io/v1 has ValidatingAdmissionPolicy
KUBELET = {"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}
TENANT = {"username": "alice", "groups": ["system:authenticated"]}
ADMINISTRATOR = {"username": "kubernetes-admin", "groups": ["system:masters"]}
Document = dict[str, Any]
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    if not PYTHON.exists():
        pytest.skip("needs libraries in .cache, which ./dev test kubernetes installs")
    argv = (str(PYTHON), "-I", str(Path(__file__).with_name("judge.py")))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as judge:
        stdin, stdout = judge.stdin, judge.stdout
        assert stdin is not None
        assert stdout is not None

        def call(*what: Any) -> Any:
            print(json.dumps(what), file=stdin, flush=True)
            return json.loads(stdout.readline())

        yield call
        stdin.close()


@pytest.fixture(scope="module")
def policies(ask: Ask) -> list[Document]:
    found = ask("documents", str(SHIPPED / "admission.yaml"))
    return [each for each in found if each["kind"] == "ValidatingAdmissionPolicy"]


def pod(**spec: Any) -> Document:
    """The engine's own, as kubelet shows it."""
    made: Document = json.loads(Kubernetes().describe(PLAN, PINS, ID)[3])
    made["metadata"]["name"] += "-n1"
    made["spec"] |= {"nodeName": "n1"} | spec
    made["metadata"]["annotations"]["kubernetes.io/config.mirror"] = ID
    return made


def agent(**context: Any) -> Document:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}} | context
    return agent_pod(containers=[{"name": "agent", "securityContext": security}])


def agent_pod(**spec: Any) -> Document:
    confined = {"name": "agent", "securityContext": {"allowPrivilegeEscalation": False}}
    return {
        "metadata": {"name": "agent"},
        "spec": {"runtimeClassName": "sidespawn-agent", "containers": [confined]} | spec,
    }


def debugged(**context: Any) -> Document:
    """An agent with a container that was added to it."""
    given = {"allowPrivilegeEscalation": False} | context
    security = {name: value for name, value in given.items() if value is not None}
    return agent_pod(ephemeralContainers=[{"name": "init", "securityContext": security}])


@dataclass(frozen=True)
class Case:
    name: str
    object: Document
    user: Document
    refused_by: str = ""  # a part of the message; empty: nothing refuses it
    namespace: str = "sidespawn"
    labels: dict[str, str] | None = None  # of the namespace
    operation: str = "CREATE"
    resource: str = "pods"


def without(document: Document, *path: str) -> Document:
    made = copy.deepcopy(document)
    place = made
    for each in path[:-1]:
        place = place[each]
    del place[path[-1]]
    return made


LABEL = "sidespawn.io/agents"
OPENSTACK: dict[str, Any] = {"namespace": "openstack", "labels": {LABEL: "allowed"}}
MIRROR = ("metadata", "annotations", "kubernetes.io/config.mirror")
DEBUG = "pods/ephemeralcontainers"
TO_DEBUG: dict[str, Any] = {"operation": "UPDATE", "resource": DEBUG}
ESCALATION = "an agent's containers have allowPrivilegeEscalation false"
ORDINARY: Document = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c"}]}}
CASES = (
    Case("a mirror pod by its kubelet", pod(), KUBELET),
    Case("its update by its kubelet", pod(), KUBELET, operation="UPDATE"),
    Case("by another node's kubelet", pod(nodeName="n2"), KUBELET, "only a kubelet"),
    Case("by a tenant", pod(), TENANT, "only a kubelet"),
    Case("by an administrator", pod(), ADMINISTRATOR, "only a kubelet"),
    Case("by a user with a node's name", pod(), {**KUBELET, "groups": ["system:authenticated"]}, "only a kubelet"),
    Case("without a node", without(pod(), "spec", "nodeName"), KUBELET, "only a kubelet"),
    Case("not a mirror", without(pod(), *MIRROR), KUBELET, "only the mirror"),
    Case("without annotations", without(pod(), "metadata", "annotations"), KUBELET, "only the mirror"),
    Case("the class elsewhere", pod(), KUBELET, "for each other only", namespace="default"),
    Case("a tenant's pod with the class", pod(), TENANT, "for each other only", namespace="default"),
    Case("another class in the namespace", pod(runtimeClassName="runc"), KUBELET, "for each other only"),
    Case("no class in the namespace", without(pod(), "spec", "runtimeClassName"), KUBELET, "for each other only"),
    Case("an ordinary pod in the namespace", ORDINARY, ADMINISTRATOR, "for each other only"),
    Case("an ordinary pod elsewhere", ORDINARY, TENANT, namespace="default"),
    Case("another class elsewhere", pod(runtimeClassName="kata"), TENANT, namespace="default"),
    Case("exec", {"spec": {}}, ADMINISTRATOR, "not entered", operation="CONNECT", resource="pods/exec"),
    Case("attach", {"spec": {}}, ADMINISTRATOR, "not entered", operation="CONNECT", resource="pods/attach"),
    Case("a debug container", pod(), ADMINISTRATOR, "not entered", operation="UPDATE", resource=DEBUG),
    Case("exec elsewhere", {"spec": {}}, TENANT, namespace="default", operation="CONNECT", resource="pods/exec"),
    Case("an agent", agent(), ADMINISTRATOR, **OPENSTACK),
    Case("an agent elsewhere", agent(), TENANT, "is not marked", namespace="default", labels={"a": "b"}),
    Case("a namespace marked otherwise", agent(), TENANT, "is not marked", labels={LABEL: "no"}),
    Case("a namespace without labels", agent(), TENANT, "is not marked", namespace="x"),
    Case("a privileged agent", agent(privileged=True), ADMINISTRATOR, "not privileged", **OPENSTACK),
    Case("an agent that may gain privileges", agent(allowPrivilegeEscalation=True), TENANT, ESCALATION, **OPENSTACK),
    Case("an agent that does not say", agent_pod(containers=[{"name": "a"}]), TENANT, ESCALATION, **OPENSTACK),
    Case("an agent's debug container", debugged(), TENANT, **OPENSTACK, **TO_DEBUG),
    Case("a privileged one", debugged(privileged=True), TENANT, "debug containers", **OPENSTACK, **TO_DEBUG),
    Case("one that does not say", debugged(allowPrivilegeEscalation=None), TENANT, "debug", **OPENSTACK, **TO_DEBUG),
    Case("such an init container", agent_pod(initContainers=[{"name": "a"}]), TENANT, "init containers", **OPENSTACK),
)


def matches(policy: Document, case: Case) -> bool:
    rules = policy["spec"]["matchConstraints"]["resourceRules"]
    return any(case.resource in each["resources"] and case.operation in each["operations"] for each in rules)


def judge(ask: Ask, policy: Document, case: Case) -> str | None:
    """Why the policy refuses it."""
    variables = {
        "object": case.object,
        "request": {"namespace": case.namespace, "userInfo": case.user, "operation": case.operation},
        "namespaceObject": {"metadata": {"name": case.namespace} | ({"labels": case.labels} if case.labels else {})},
    }
    for each in policy["spec"].get("matchConditions", ()):
        answer = ask("evaluate", each["expression"], variables)
        if answer != {"value": True}:
            return f"error: {answer['error']}" if "error" in answer else None
    for each in policy["spec"]["validations"]:
        answer = ask("evaluate", each["expression"], variables)
        if answer != {"value": True}:
            return f"error: {answer['error']}" if "error" in answer else str(each["message"])
    return None


@attack(272)
@pytest.mark.parametrize("case", CASES, ids=[each.name for each in CASES])
def test_the_admission_rules_judge(ask: Ask, policies: list[Document], case: Case) -> None:
    found = [why for each in policies if matches(each, case) and (why := judge(ask, each, case)) is not None]
    assert not [each for each in found if each.startswith("error")]
    if case.refused_by:
        assert any(case.refused_by in each for each in found), found
    else:
        assert found == []


def test_each_validation_refuses_something(ask: Ask, policies: list[Document]) -> None:
    """So none is superfluous, and each case that is refused can fail."""
    refused = {judge(ask, each, case) for each in policies for case in CASES if matches(each, case)}
    assert {each["message"] for policy in policies for each in policy["spec"]["validations"]} <= refused


def test_each_policy_is_bound_and_denies(ask: Ask, policies: list[Document]) -> None:
    found = ask("documents", str(SHIPPED / "admission.yaml"))
    bindings = [each["spec"] for each in found if each["kind"] == "ValidatingAdmissionPolicyBinding"]
    bound = {each["policyName"]: each["validationActions"] for each in bindings}
    assert bound == {each["metadata"]["name"]: ["Deny", "Audit"] for each in policies}
    assert {each["spec"]["failurePolicy"] for each in policies} == {"Fail"}


# ---------------------------------------------------------------- schemas


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_shipped_is_valid_for_the_newest_kubernetes(ask: Ask, path: Path) -> None:
    for document in ask("documents", str(path)):
        for version in (POLICIES_SINCE, ask("versions")[-1]):
            assert ask("validate", document, version) == ""


def test_what_is_wrong_is_found(ask: Ask) -> None:
    """Else the other tests of schemas could not fail."""
    newest = ask("versions")[-1]
    broken = json.loads(Kubernetes().describe(PLAN, PINS, ID)[3])
    broken["spec"]["restartsPolicy"] = "Never"
    assert "restartsPolicy" in ask("validate", broken, newest)


def test_a_side_containers_pod_is_valid_for_every_kubernetes(ask: Ask) -> None:
    described = json.loads(Kubernetes().describe(PLAN, PINS, ID)[3])
    assert {version: ask("validate", described, version) for version in ask("versions")} == dict.fromkeys(
        ask("versions"), ""
    )


def test_the_base_names_every_file(ask: Ask) -> None:
    (base,) = ask("documents", str(SHIPPED / "kustomization.yaml"))
    assert base["resources"] == ["namespace.yaml", "runtime-classes.yaml", "admission.yaml"]
    assert sorted(base["resources"]) == [path.name for path in FILES]


def test_names_are_those_that_the_engine_uses(ask: Ask) -> None:
    described = json.loads(Kubernetes().describe(PLAN, PINS, ID)[3])
    (namespace,) = ask("documents", str(SHIPPED / "namespace.yaml"))
    classes = {
        each["metadata"]["name"]: each["handler"] for each in ask("documents", str(SHIPPED / "runtime-classes.yaml"))
    }
    assert described["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert classes[described["spec"]["runtimeClassName"]] == "sidespawn"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


MOUNTS = tuple(
    Mount(source=f"/run/sidespawn/dhcp/{each}", target=f"/run/sidespawn/dhcp/{each}", writable=each == "spool")
    for each in ("spool", "replies")
)


def printed_pod(kind: str = "dhcp") -> Document:
    """The specification that `sidespawn agent-options --for kubernetes` prints."""
    agent = Agent(uid=42435, gid=42435, mounts=MOUNTS, capabilities=containers.CAPABILITIES[kind])
    return containers.kubernetes(replace(agent, name=containers.NAMES[kind]))


@pytest.mark.parametrize("kind", containers.CAPABILITIES)
def test_a_daemonset_with_the_printed_pod_is_valid_and_admitted(ask: Ask, policies: list[Document], kind: str) -> None:
    """It is valid for every Kubernetes that has the field seccompProfile, 1.19."""
    spec = printed_pod(kind)
    labels = {"matchLabels": {"application": "neutron"}}
    template = {"metadata": {"labels": labels["matchLabels"]}, "spec": spec}
    daemonset = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "openstack"}}
    daemonset |= {"spec": {"selector": labels, "template": template}}
    versions = [each for each in ask("versions") if int(each.split(".")[1]) >= 19]
    assert {version: ask("validate", daemonset, version) for version in versions} == dict.fromkeys(versions, "")
    case = Case("printed", {"metadata": {"name": "agent-1"}, "spec": spec}, TENANT, **OPENSTACK)
    assert [judge(ask, each, case) for each in policies if matches(each, case)] == [None, None]
    # And the runtime's own conditions, as far as a pod can say them.
    (context,) = (each["securityContext"] for each in spec["containers"])
    assert {f"CAP_{each}" for each in context["capabilities"]["add"]} <= agent_runtime.CAPABILITIES


def test_the_printed_pod_uses_what_the_base_has(ask: Ask, policies: list[Document]) -> None:
    classes = {
        each["metadata"]["name"]: each["handler"] for each in ask("documents", str(SHIPPED / "runtime-classes.yaml"))
    }
    handler = classes[printed_pod()["runtimeClassName"]]
    assert f".runtimes.{handler}]\n" in containers.HANDLER
    key, _, value = containers.CLUSTER[1].split()[-1].partition("=")
    said = []
    for labels in ({key: value}, {key: "no"}, None):
        spec = {"metadata": {"name": "agent-1"}, "spec": printed_pod()}
        case = Case("printed", spec, TENANT, namespace=containers.NAMESPACE, labels=labels)
        said.append("\n".join(why for each in policies if matches(each, case) and (why := judge(ask, each, case))))
    assert said[0] == ""
    assert all("is not marked" in each for each in said[1:])


@pytest.mark.parametrize("kind", containers.CAPABILITIES)
def test_the_printed_text_is_the_same_pod(ask: Ask, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("\n".join(yaml_text.lines(printed_pod(kind))))
    assert ask("documents", str(path)) == [printed_pod(kind)]


@pytest.mark.parametrize(
    "value", ["no", "1e3", "~", "a: b", "a #b", "x\n", "", "- a", "0x1", "1:30", "2026-11-30", "é"]
)
def test_text_stays_text_in_yaml(ask: Ask, tmp_path: Path, value: str) -> None:
    path = tmp_path / "text.yaml"
    path.write_text("\n".join(yaml_text.lines({"value": value, "values": [value, "plain"]})))
    assert ask("documents", str(path)) == [{"value": value, "values": [value, "plain"]}]


def test_values_for_openstack_helm_pass_the_admission_rules_and_are_valid(ask: Ask, policies: list[Document]) -> None:
    """In a pod put together as the chart does it: contexts and mounts are taken as they stand."""
    (values,) = ask("documents", str(SHIPPED / "openstack-helm/neutron-dhcp-agent.yaml"))
    agent = "neutron_dhcp_agent"
    context, mounts = values["pod"]["security_context"][agent], values["pod"]["mounts"][agent][agent]
    containers = [
        {"name": name, "image": "x", "securityContext": context["container"][name.replace("-", "_")]}
        for name in ("neutron-dhcp-agent", "neutron-dhcp-agent-init")
    ]
    containers[0]["volumeMounts"] = mounts["volumeMounts"]
    spec = {
        "runtimeClassName": values["pod"]["runtimeClassName"][agent],
        "hostNetwork": True,
        "securityContext": context["pod"],
        "initContainers": containers[1:],
        "containers": containers[:1],
        "volumes": mounts["volumes"],
    }
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent", "namespace": "openstack"}, "spec": spec}
    assert ask("validate", made, ask("versions")[-1]) == ""
    assert {each["name"] for each in mounts["volumeMounts"]} == {each["name"] for each in mounts["volumes"]}
    case = Case("the values", made, TENANT, **OPENSTACK)
    assert [judge(ask, each, case) for each in policies if matches(each, case)] == [None, None]
    # And the runtime's own conditions, as far as a pod can say them.
    (given,) = (each["securityContext"] for each in spec["containers"])
    assert {f"CAP_{each}" for each in given["capabilities"]["add"]} <= agent_runtime.CAPABILITIES
    assert (given["allowPrivilegeEscalation"], given["privileged"], context["pod"]["runAsUser"]) == (
        False,
        False,
        42424,
    )
