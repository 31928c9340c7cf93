"""The units of a service: installing, enabling, removing them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sidespawn.errors import Reason, SidespawnError
from sidespawn.host.processes import Output, last_line, run

SYSTEMCTL = "/usr/bin/systemctl"
SHIPPED = Path(__file__).parent.parent / "units"
INSTALLED = Path("/etc/systemd/system")
PACKAGE = Path(__file__).resolve().parent.parent
TIMEOUT = 120.0


def templates() -> dict[Path, str]:
    """Each unit file to install, with its content for this installation of the package."""
    python = os.path.realpath(sys.executable)
    for path in (python, str(PACKAGE)):
        if any(character in path for character in " %\"'\\$"):
            raise SidespawnError(Reason.HOST_UNSUITABLE, f"a unit cannot name {path!r}", "install elsewhere")
    return {
        INSTALLED / unit.name: unit.read_text().replace("@PYTHON@", python).replace("@PACKAGE@", str(PACKAGE))
        for unit in sorted(SHIPPED.glob("sidespawn*@.*"))
    }


def units(service: str) -> tuple[str, ...]:
    """The units that are enabled for a service."""
    return (f"sidespawn@{service}.socket", f"sidespawn@{service}.timer")


def all_units(service: str) -> tuple[str, ...]:
    return (*units(service), f"sidespawn@{service}.service", f"sidespawn-spool@{service}.service")


def require_systemd() -> None:
    if not Path("/run/systemd/system").is_dir():
        raise SidespawnError(
            Reason.HOST_UNSUITABLE, "this host does not run systemd", "from a checkout, ./dev lab gives you one"
        )


def install_templates() -> list[str]:
    """Write the unit files that differ; their names. With one, systemd needs a daemon-reload."""
    changed = []
    for path, content in templates().items():
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            path.chmod(0o644)
            changed.append(path.name)
    return changed


def remove_templates() -> list[str]:
    """Remove the unit files when no service needs them any more; their names. With one, as above."""
    if any(INSTALLED.glob("*.wants/sidespawn@*")):
        return []
    removed = [path for path in templates() if path.exists()]
    for path in removed:
        path.unlink()
    if removed:
        systemctl("stop", "sidespawn.slice", "system-sidespawn.slice", "system-sidespawn\\x2dspool.slice")
    return [path.name for path in removed]


def systemctl(*arguments: str) -> Output:
    """Raises SidespawnError with systemd's own words."""
    done = run((SYSTEMCTL, *arguments), TIMEOUT)
    if done.code != 0:
        command = " ".join(("systemctl", *arguments))
        hint = f"systemctl status {arguments[-1]}"
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"{command}: {last_line(done.stderr)}", hint)
    return done
