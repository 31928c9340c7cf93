"""Rights of a service's unit beyond what every service's may: a drop-in made from its engine and its policy.

`units/ENGINE.conf` says what the engine needs and why; the policy adds the capabilities that its side containers get,
since an engine that starts them as its children cannot give what it has not got itself.
"""

from __future__ import annotations

from pathlib import Path

from sidespawn.core.policy import Policy
from sidespawn.setup.systemd import INSTALLED, SHIPPED

APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
SELINUX = Path("/sys/fs/selinux/enforce")


def drop_in(service: str) -> Path:
    return INSTALLED / f"sidespawn@{service}.service.d" / "engine.conf"


def engine_of(policy: Policy) -> str:
    """Whose needs count. podman's include those of the others, and who adopts its containers must end them with it."""
    return "podman" if policy.adopt and policy.adopt.engine == "podman" else policy.side_container.engine


def text_of(policy: Policy) -> str:
    side_container, parallel, engine = policy.side_container, policy.pace.parallel, engine_of(policy)
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
        "MORE": "".join(more) if engine == "podman" else "",
    }
    text = (SHIPPED / f"{engine}.conf").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def has_apparmor() -> bool:
    return APPARMOR.exists() and APPARMOR.read_text(encoding="ascii").startswith("Y")


def has_selinux() -> bool:
    return SELINUX.exists()


def install(policy: Policy) -> bool:
    """Write the drop-in of the policy's service; whether it changed."""
    if is_current(policy):
        return False
    path = drop_in(policy.service)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text(text_of(policy), encoding="utf-8")
    path.chmod(0o644)
    return True


def is_current(policy: Policy) -> bool:
    path = drop_in(policy.service)
    return path.exists() and path.read_text(encoding="utf-8") == text_of(policy)


def remove(service: str) -> bool:
    """Return whether there was one. Options that an operator has put beside it stay."""
    path = drop_in(service)
    if not path.exists():
        return False
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return True
