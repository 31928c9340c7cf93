"""Places side containers in the host's control groups, and finds the limits that the host can enforce."""

from __future__ import annotations

from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = CONTROL_GROUPS / "cgroup.controllers"
PID_1_LIMITS = Path("/proc/1/limits")


def slice_name(service: str) -> str:
    """Return a name without hyphens, which systemd.slice(5) reads as levels, so every slice is in sidespawn.slice."""
    return f"sidespawn-{service.replace('-', '_')}.slice"


def slice_path(service: str) -> Path:
    return CONTROL_GROUPS / "sidespawn.slice" / slice_name(service)


def controllers() -> list[str]:
    """Return the host's controllers, such as memory and pids; `sidespawn check` reports missing ones."""
    return CONTROLLERS.read_text().split() if CONTROLLERS.exists() else []


def process_limit() -> int:
    """Return the limit of PID 1, and so of every service; -1 for no limit. Exceeding it takes CAP_SYS_RESOURCE."""
    rows = PID_1_LIMITS.read_text().split("\n")
    said = next((row.split()[-2] for row in rows if row.startswith("Max processes")), "4096")
    return -1 if said == "unlimited" else int(said)
