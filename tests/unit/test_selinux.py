"""The SELinux module: its syntax, checked by the compiler, its labels, and when it is installed and removed.

tests/host/test_selinux.py tries what it forbids, on a machine that enforces it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidespawn import engines
from sidespawn.cli import agent_options
from sidespawn.cli.main import cli
from sidespawn.engines import systemd_roots
from sidespawn.errors import SidespawnError
from sidespawn.host import directories, labels
from sidespawn.setup import hardening, selinux
from sidespawn.setup.agent_options import options_of
from sidespawn.system import kernel
from sidespawn.system.places import Places
from sidespawn.testing import agent

COMPILER = "/usr/bin/secilc"
TEXT = selinux.MODULE.read_text(encoding="utf-8")
# What every policy for containers has, as far as the module refers to it.
EVERYWHERE = """
(handleunknown allow) (mls true)
(sid kernel) (sidorder (kernel)) (sidcontext kernel (system_u object_r kernel_t ((s0) (s0))))
(class process (transition getattr signull getcap setrlimit rlimitinh siginh)) (class fd (use))
(class system (module_request))
(class process2 (nnp_transition nosuid_transition)) (class unix_stream_socket (getattr ioctl read write))
(class dir (getattr open read search lock ioctl mounton write add_name remove_name))
(class file (getattr open read create unlink mounton ioctl write entrypoint execute execute_no_trans map))
(class lnk_file (getattr read)) (class chr_file (getattr open read write append ioctl))
(class fifo_file (getattr open read write append ioctl)) (class filesystem (mount unmount remount))
(class capability (audit_write chown dac_override dac_read_search fowner fsetid ipc_lock kill net_admin
    net_bind_service net_broadcast net_raw setgid setpcap setuid sys_admin sys_chroot sys_nice))
(classorder (process system process2 unix_stream_socket fd dir file lnk_file chr_file fifo_file filesystem capability))
(sensitivity s0) (sensitivityorder (s0)) (category c0) (categoryorder (c0)) (sensitivitycategory s0 (c0))
(user system_u) (userrole system_u object_r) (userrole system_u system_r) (userlevel system_u (s0))
(userrange system_u ((s0) (s0))) (role object_r) (role system_r)
(type kernel_t) (roletype object_r kernel_t) (roletype system_r kernel_t) (allow kernel_t self (process (transition)))
(typeattribute file_type) (typeattribute non_auth_file_type) (typeattribute non_security_file_type)
(typeattribute domain) (typeattribute container_domain) (typeattribute container_net_domain)
(typeattribute mcs_constrained_type) (typeattribute process_user_target)
(type container_file_t) (type container_ro_file_t) (type nsfs_t) (type sysfs_t) (type sysctl_net_t) (type proc_t)
(roletype object_r container_file_t) (roletype object_r container_ro_file_t)
(type init_t) (type initrc_t) (type unconfined_t) (type var_run_t) (type tmpfs_t) (type var_lock_t)
"""
REFERENCE_POLICY = """
(typeattribute container_system_domain) (type ifconfig_runtime_t) (type podman_t) (type podman_conmon_t)
(type container_runtime_t) (type container_engine_tmpfs_t) (type container_engine_lock_t)
(type proc_net_t) (type sysctl_fs_t) (type sysctl_vm_t) (type sysctl_vm_overcommit_t) (type random_device_t)
(type urandom_device_t) (type devpts_t) (type user_devpts_t)
"""
CONTAINER_SELINUX = "(type ifconfig_var_run_t) (type container_runtime_t) (type container_var_run_t)"


def compiled(place: Path, policy: str, text: str = TEXT) -> subprocess.CompletedProcess[str]:
    (place / "policy.cil").write_text(EVERYWHERE + policy)
    (place / "sidespawn.cil").write_text(text.replace("@DIGEST@", "0123456789abcdef"))
    argv = (COMPILER, "-N", "-M", "1", "-o", "policy", "-f", "contexts", "policy.cil", "sidespawn.cil")
    return subprocess.run(argv, cwd=place, capture_output=True, text=True, timeout=60, check=False)


def words_of(policy: Path) -> set[bytes]:
    return set(re.findall(rb"[\w@]+", policy.read_bytes()))


def test_it_compiles_with_the_reference_policy(tmp_path: Path) -> None:
    done = compiled(tmp_path, REFERENCE_POLICY)
    assert done.returncode == 0, done.stderr
    # The policy itself has the file names of its type transitions: the blocks with them were not left out.
    assert {b"netns", b"libpod", b"libpod_lock"} <= words_of(tmp_path / "policy")


def test_it_compiles_with_container_selinux(tmp_path: Path) -> None:
    done = compiled(tmp_path, CONTAINER_SELINUX)
    assert done.returncode == 0, done.stderr
    assert not {b"libpod", b"libpod_lock"} & words_of(tmp_path / "policy")


def test_the_compiler_would_notice(tmp_path: Path) -> None:
    assert compiled(tmp_path, REFERENCE_POLICY, TEXT.replace("(type sidespawn_pins_t)", "(tipe x)")).returncode != 0
    assert compiled(tmp_path, REFERENCE_POLICY, TEXT.replace("nsfs_t", "no_such_t")).returncode != 0


# ---------------------------------------------------------------- labels


def label_of(path: Path, contexts: str) -> str:
    """Return the label that SELinux chooses: that of the last matching pattern, in the compiler's order."""
    found = [line.split() for line in contexts.splitlines()]
    return [context for pattern, context in found if re.fullmatch(pattern, str(path))][-1]


def test_file_contexts_say_what_is_set_when_the_directories_are_made(tmp_path: Path) -> None:
    assert compiled(tmp_path, REFERENCE_POLICY).returncode == 0
    contexts = (tmp_path / "contexts").read_text()
    places = Places("neutron-dhcp-dnsmasq")
    wanted = {places.spool / "processes": labels.WRITABLE, places.pins / "x.pid": labels.PINS}
    wanted |= {places.replies / "x.json": labels.READABLE, places.doorbell: labels.READABLE}
    wanted |= {places.agent / "dnsmasq": labels.READABLE, places.snapshots / "x.0": labels.READABLE}
    for path, kind in wanted.items():
        assert label_of(path, contexts) == label_of(path.parent, contexts) == labels.context_of(kind)
    hosts = (places.run, places.home, places.answers, places.claims, places.ledger, places.operator, places.lock)
    for path in (*hosts, places.compiled, places.syscalls, places.operators_doorbell):
        assert label_of(path, contexts) == labels.context_of(labels.HOST)


@pytest.fixture
def a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a file that accepts every context, like a kernel that knows them all."""
    (tmp_path / "context").touch()
    monkeypatch.setattr(labels, "VALID", tmp_path / "context")
    return tmp_path / "context"


def test_a_label_is_set_where_the_kernel_knows_it(
    tmp_path: Path, a_kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Path, str, bytes]] = []
    monkeypatch.setattr(os, "setxattr", lambda path, name, value, **_: calls.append((path, name, value)))
    labels.label(tmp_path, labels.HOST)
    assert calls == [(tmp_path, "security.selinux", b"system_u:object_r:sidespawn_runtime_t:s0\0")]
    assert a_kernel.read_text() == "system_u:object_r:sidespawn_runtime_t:s0"


def test_nothing_is_labelled_without_selinux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "VALID", tmp_path / "no/context")
    monkeypatch.setattr(os, "setxattr", lambda *_, **__: pytest.fail("it was labelled"))
    labels.label(tmp_path, labels.HOST)


def test_every_file_system_has_a_label_before_anything_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(kernel, "mount", lambda _, path, kind, *__: seen.append(f"{kind} {path}"))
    monkeypatch.setattr(labels, "label", lambda path, kind: seen.append(f"{kind} {path}"))
    directories.mount_tmpfs(tmp_path, 0, "", labels.WRITABLE)
    assert seen == [f"tmpfs {tmp_path}", f"None {tmp_path}", f"container_file_t {tmp_path}"]


@pytest.mark.parametrize(
    ("label", "confined"),
    [
        (b"system_u:object_r:sidespawn_runtime_t:s0\0", True),
        (b"system_u:object_r:tmpfs_t:s0\0", False),  # SELinux without the module
        (None, False),
    ],
)
def test_engines_have_a_domain_where_the_directories_have_labels(
    monkeypatch: pytest.MonkeyPatch, label: bytes | None, confined: bool
) -> None:
    def getxattr(path: Path, name: str) -> bytes:
        assert (path, name) == (Path("/run/sidespawn/x"), "security.selinux")
        if label is None:
            raise OSError
        return label

    monkeypatch.setattr(os, "getxattr", getxattr)
    wanted = ("type:sidespawn_side_container_t", "level:s0")
    assert engines.domain("x") == (wanted if confined else ())
    kind = ",context=system_u:object_r:container_file_t:s0" if confined else ""
    assert systemd_roots.labelled("size=64k", "x", systemd_roots.SCRATCH_LABEL) == f"size=64k{kind}"


# ---------------------------------------------------------------- installing and removing


@pytest.fixture
def semodule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a stand-in for the tool that records its calls in `called` and exits as `act` says."""
    (tmp_path / "act").write_text(f'case $1 in -i) cp "$2" {tmp_path}/module;; -r) rm {tmp_path}/module;; esac\n')
    tool = tmp_path / "semodule"
    tool.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/called\n. {tmp_path}/act\n')
    tool.chmod(0o755)
    monkeypatch.setattr(selinux, "SEMODULE", str(tool))
    runcon = tmp_path / "runcon"
    runcon.write_text('#!/bin/sh\n[ "$1" = u:r:t:s0 ] || exit 125\nshift\nexec "$@"\n')
    runcon.chmod(0o755)
    monkeypatch.setattr(selinux, "RUNCON", str(runcon))
    (tmp_path / "context").write_text("u:r:t:s0\0")
    monkeypatch.setattr(selinux, "OWN_CONTEXT", tmp_path / "context")

    def is_known(kind: str) -> bool:
        module = tmp_path / "module"
        return module.exists() and f"{kind}" in module.read_text()

    monkeypatch.setattr(labels, "is_known", is_known)
    monkeypatch.setattr(selinux, "mend_labels", lambda: None)
    return tmp_path


def calls(place: Path) -> list[str]:
    called = place / "called"
    return [line.split()[0] for line in called.read_text().splitlines()] if called.exists() else []


def test_it_is_installed_once_and_again_when_it_changed(semodule: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selinux.install()
    selinux.install()
    assert calls(semodule) == ["-i"]
    changed = semodule / "sidespawn.cil"
    changed.write_text(TEXT + "; changed\n")
    monkeypatch.setattr(selinux, "MODULE", changed)
    selinux.install()
    assert calls(semodule) == ["-i", "-i"]


@pytest.mark.parametrize("code", [125, 126, 127])
def test_a_policy_that_does_not_let_semodule_stay_in_the_callers_domain(semodule: Path, code: int) -> None:
    (semodule / "runcon").write_text(f"#!/bin/sh\nexit {code}\n")
    selinux.install()
    assert calls(semodule) == ["-i"]


def test_it_is_removed_if_present(semodule: Path) -> None:
    assert selinux.remove() == []
    selinux.install()
    assert selinux.remove() == []
    assert calls(semodule) == ["-i", "-r"]


def test_it_stays_while_a_process_is_in_one_of_its_domains(semodule: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selinux.install()
    monkeypatch.setattr(selinux, "processes", lambda: iter((4711,)))
    (said,) = selinux.remove()
    assert "4711" in said
    assert "semodule -r sidespawn" in said
    assert calls(semodule) == ["-i"]


def test_the_tools_message_is_reported(semodule: Path) -> None:
    (semodule / "act").write_text(
        "printf '%s\\n' 'Failed to resolve typeattributeset statement at cil:12' 'semodule:  Failed!' >&2; exit 1\n"
    )
    with pytest.raises(SidespawnError, match=r"Failed to resolve typeattributeset statement at cil:12.$"):
        selinux.install()


def test_a_missing_tool_is_reported(semodule: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "SEMODULE", "/nonexistent/semodule")
    with pytest.raises(SidespawnError, match="/nonexistent/semodule cannot be run") as caught:
        selinux.install()
    assert caught.value.hint == "install policycoreutils"


def test_all_names_of_namespaces_are_relabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {tmp_path: "initrc_runtime_t", tmp_path / "a": "nsfs_t", tmp_path / "b": "ifconfig_runtime_t"}
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(selinux, "PODMAN", ())
    monkeypatch.setattr(selinux, "NAMESPACES", tmp_path)
    monkeypatch.setattr(selinux, "FILES", {})
    monkeypatch.setattr(selinux, "label_of", lambda path: f"u:r:{kinds[Path(path)]}:s0")
    monkeypatch.setattr(selinux, "run", lambda argv, _: called.append(argv))
    selinux.mend_labels()
    assert called == [(selinux.RESTORECON, "-F", str(tmp_path))]


def test_what_podman_left_before_is_relabelled_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/hosts").touch()
    kinds = {tmp_path: "container_runtime_t", tmp_path / "below": "var_run_t", tmp_path / "below/hosts": "var_run_t"}
    kinds |= {tmp_path / "other": "container_file_t"}
    (tmp_path / "other").touch()
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(selinux, "PODMAN", (tmp_path,))
    monkeypatch.setattr(selinux, "NAMESPACES", tmp_path / "none")
    monkeypatch.setattr(selinux, "FILES", {})
    monkeypatch.setattr(selinux, "label_of", lambda path: f"u:r:{kinds[Path(path)]}:s0")
    monkeypatch.setattr(selinux, "run", lambda argv, _: called.append(argv))
    selinux.mend_labels()
    assert called == [(selinux.RESTORECON, "-F", str(tmp_path / "below"), str(tmp_path / "below/hosts"))]


# ---------------------------------------------------------------- what an agent is told


@pytest.mark.parametrize(("installable", "told"), [(True, True), (False, False)])
def test_a_dry_run_names_the_options_that_enable_will_name(
    monkeypatch: pytest.MonkeyPatch, installable: bool, told: bool
) -> None:
    monkeypatch.setattr(selinux, "is_installed", lambda: False)
    monkeypatch.setattr(selinux, "is_installable", lambda: installable)
    done = CliRunner().invoke(cli, ["enable", "neutron-dhcp-dnsmasq", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (selinux.LEVEL in said["podman_options"]) is told
    assert (selinux.AGENT in said["security_options"]) is told


@pytest.mark.parametrize("has_module", [True, False])
def test_a_contained_agent_is_given_the_level_and_the_domain(monkeypatch: pytest.MonkeyPatch, has_module: bool) -> None:
    monkeypatch.setattr(selinux, "is_installed", lambda: has_module)
    given = agent_options.security_modules_of(options_of(()))
    assert [each for each in given if "label" in each] == ([selinux.LEVEL, selinux.AGENT] if has_module else [])
    assert not [each for each in given if "seccomp" in each]


@pytest.mark.parametrize("enforces", [True, False])
def test_agents_are_started_by_hand_without_the_categories_of_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enforces: bool
) -> None:
    monkeypatch.setattr(hardening, "SELINUX", tmp_path if enforces else tmp_path / "none")
    assert agent.podman() == (("runcon", "--range=s0", "env", "podman") if enforces else ("podman",))
