"""Writes drop-ins with the extra rights of a service's units, from its engine and its policy.

`units/ENGINE.conf` says what the service needs with this engine and why. podman runs in the service's own podman unit,
which uses `units/podman-service.conf`. The policy adds the capabilities of its side containers, since a parent cannot
give its children capabilities that it lacks itself.

With the engine kubernetes, a line for systemd-tmpfiles removes the service's static pods at boot, before kubelet
starts: their records were in /run, and the runtime would refuse them until the first sweep.
"""

from __future__ import annotations

from pathlib import Path

from sidespawn.core.plan import container_name
from sidespawn.core.policy import Policy
from sidespawn.engines.kubernetes import PREFIX, STATIC_PODS, SUFFIX
from sidespawn.setup.systemd import INSTALLED, SHIPPED, is_same

APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
SELINUX = Path("/sys/fs/selinux/enforce")
PODMAN = "sidespawn-podman"
UNITS = ("sidespawn", PODMAN)  # that have one
TMPFILES = Path("/etc/tmpfiles.d")


def drop_in(service: str, unit: str = "sidespawn") -> Path:
    return INSTALLED / f"{unit}@{service}.service.d" / "engine.conf"


def at_boot(service: str) -> Path:
    return TMPFILES / f"sidespawn@{service}.conf"  # not sidespawn-agents.conf, which `sidespawn agent-options` shows


def engine_of(policy: Policy) -> str:
    """Return the engine whose needs count: podman's include the others', and adopted containers may be podman's."""
    return "podman" if policy.adopt and policy.adopt.engine == "podman" else policy.side_container.engine


def texts(policy: Policy) -> dict[Path, str]:
    """Return each file's text; empty for a file that must not exist."""
    podman = text_of(policy, "podman-service") if engine_of(policy) == "podman" else ""
    pods = of_pods(policy.service) if policy.side_container.engine == "kubernetes" else ""
    return {
        drop_in(policy.service): text_of(policy),
        drop_in(policy.service, PODMAN): podman,
        at_boot(policy.service): pods,
    }


def of_pods(service: str) -> str:
    """Return a line that removes the service's pods; see tmpfiles.d(5)."""
    return (
        "# Written by `sidespawn enable` for the engine kubernetes: a reboot leaves no pods to start again.\n"
        f"r! {STATIC_PODS}/{PREFIX}{container_name(service, '*')}{SUFFIX}\n"
    )


def text_of(policy: Policy, kind: str = "") -> str:
    side_container, parallel, kind = policy.side_container, policy.pace.parallel, kind or engine_of(policy)
    more = []
    if "SYS_NICE" in side_container.capabilities:
        more.append("# The policy gives SYS_NICE, which is for this.\nRestrictRealtime=no\n")
    if has_apparmor():
        more.append("# podman loads its profile into the kernel if it is not there yet.\n")
        more.append("CapabilityBoundingSet=CAP_MAC_ADMIN\n")
    values = {
        "CAPABILITIES": "".join(f" CAP_{each}" for each in side_container.capabilities),
        # SELinux lets a program change its domain only where its policy allows that explicitly; podman must.
        "NO_NEW_PRIVILEGES": "no" if has_selinux() else "yes",
        "MEMORY": str(256 + 64 * parallel),
        "TASKS": str(64 + 32 * parallel),
        "MORE": "".join(more) if kind == "podman-service" else "",
    }
    text = (SHIPPED / f"{kind}.conf").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def has_apparmor() -> bool:
    return APPARMOR.exists() and APPARMOR.read_text(encoding="ascii").startswith("Y")


def has_selinux() -> bool:
    return SELINUX.exists()


def install(policy: Policy) -> bool:
    """Write the drop-ins of the policy's service; return whether any changed."""
    changed = [remove_file(path) if not text else write(path, text) for path, text in texts(policy).items()]
    return any(changed)


def write(path: Path, text: str) -> bool:
    if is_same(path, text):
        return False
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return True


def is_current(policy: Policy) -> bool:
    return all(is_same(path, text) if text else not path.exists() for path, text in texts(policy).items())


def remove(service: str) -> bool:
    """Remove the drop-ins; return whether there were any. An operator's drop-ins beside them stay."""
    removed = [remove_file(path) for path in files(service)]
    return any(removed)


def files(service: str) -> tuple[Path, ...]:
    return (*(drop_in(service, unit) for unit in UNITS), at_boot(service))


def remove_file(path: Path) -> bool:
    if not path.exists():
        return False
    path.unlink()
    if path.parent.parent == INSTALLED and not any(path.parent.iterdir()):
        path.parent.rmdir()
    return True
