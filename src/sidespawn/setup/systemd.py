"""Installs, enables and removes the units of a service.

Their files are in one of two places. A distribution's package installs them in /usr/lib/systemd/system, which only the
package manager changes. Any other installation, such as one by pip, has none there, and `sidespawn enable` writes them
to /etc/systemd/system. systemd prefers those in /etc, so files of an earlier installation by pip would override the
package's; `enable` removes them.
"""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

from sidespawn.errors import Reason, SidespawnError
from sidespawn.system.processes import Output, last_line, run

SYSTEMCTL = "/usr/bin/systemctl"
SHIPPED = Path(__file__).parent.parent / "units"
INSTALLED = Path("/etc/systemd/system")
PACKAGED = Path("/usr/lib/systemd/system")
PACKAGE = Path(__file__).resolve().parent.parent
TIMEOUT = 120.0
PACKAGED_COMMAND = "/usr/bin/sidespawn"
MODULE = " -I -m sidespawn.cli.main"
COMMAND = re.compile(r"^ExecStart=(\S+) -I -S (\S+)/run\.py ", re.MULTILINE)
METRICS = ("sidespawn-metrics.service", "sidespawn-metrics.timer")


def own_command() -> str:
    """Return what runs this command line: not a realpath, since that would leave the virtual environment."""
    return f"{sys.prefix}/bin/python3{MODULE}"


def contents(python: str, command: str = PACKAGED_COMMAND) -> dict[str, str]:
    """Return the content of each unit file by name, for this installation and the given interpreter and command."""
    for path in (python, command.removesuffix(MODULE), str(PACKAGE)):
        if any(character in path for character in " %\"'\\$"):
            raise SidespawnError(Reason.HOST_UNSUITABLE, f"a unit cannot name {path!r}", "install elsewhere")
    return {
        unit.name: filled_in(unit.read_text(), python, str(PACKAGE), command)
        for unit in sorted(SHIPPED.glob("sidespawn*.*"))
    }


def filled_in(text: str, python: str, package: str, command: str) -> str:
    return text.replace("@PYTHON@", python).replace("@PACKAGE@", package).replace("@COMMAND@", command)


def is_packaged() -> bool:
    """Return whether a distribution's package has installed this code and its units.

    The package chooses the interpreter, which may differ from the one that runs this.
    """
    python, package = command_of(text_of(PACKAGED / "sidespawn@.service"))
    return package == str(PACKAGE) and all(
        is_same(PACKAGED / name, content) for name, content in contents(python).items()
    )


def command_of(text: str) -> tuple[str, str]:
    """Return the interpreter and the package that a unit file names; empty if it runs neither."""
    found = COMMAND.search(text)
    return (found[1], found[2]) if found else ("", "")


def text_of(unit: Path) -> str:
    return unit.read_text() if unit.exists() else ""


def is_same(path: Path, content: str) -> bool:
    return path.exists() and path.read_text() == content


def in_etc() -> list[Path]:
    return [path for path in map(INSTALLED.joinpath, contents("")) if path.exists()]


def left_over() -> list[Path]:
    """Return files in /etc that another installation wrote and that override the package's: their commands name its
    code.

    Files that an operator made with `systemctl edit --full` name this installation's code.
    """
    commands = (command_of(text_of(INSTALLED / name)) for name in ("sidespawn@.service", "sidespawn-spool@.service"))
    is_of_another = any(package not in {"", str(PACKAGE)} for _, package in commands)
    return in_etc() if is_of_another and is_packaged() else []


def units(service: str) -> tuple[str, ...]:
    """Return the units that are enabled for a service."""
    return (f"sidespawn@{service}.socket", f"sidespawn@{service}.timer")


def path_unit(service: str) -> str:
    """Return the path unit, which is also enabled with `wake = "path"`, and starts and stops with the socket."""
    return f"sidespawn@{service}.path"


def wakes_by_path(service: str) -> bool:
    return (INSTALLED / f"sidespawn@{service}.socket.wants" / path_unit(service)).is_symlink()


def podman_units(service: str) -> tuple[str, ...]:
    """Return the units of the service's own podman, for the engine podman; the service's unit starts them."""
    return (f"sidespawn-podman@{service}.socket", f"sidespawn-podman@{service}.service")


def stop_podman(service: str) -> None:
    """Stop the service's podman; no error without such a unit, as with an earlier version's files."""
    run((SYSTEMCTL, "stop", *podman_units(service)), TIMEOUT)
    reset_failed(*podman_units(service))


def renew_podman(service: str, *, is_changed: bool) -> None:
    """Stop the service's podman if its unit has changed since it started; its socket starts another one.

    Otherwise it would keep its confinement as long as it is busy, and side containers would silently lack capabilities
    that their policy has since been given: a process cannot give its children any that its bounding set lacks. Requests
    that it was working on are repeated.
    """
    unit = podman_units(service)[1]
    if is_changed or is_older_than_its_files(unit):
        run((SYSTEMCTL, "stop", unit), TIMEOUT)


def is_older_than_its_files(unit: str) -> bool:
    """Return whether the unit's process started before a file of the unit was installed, added, changed or removed."""
    properties = "--property=ExecMainStartTimestampMonotonic,FragmentPath,DropInPaths"
    shown = run((SYSTEMCTL, "show", properties, unit), TIMEOUT).stdout
    found = dict(line.partition("=")[::2] for line in shown.splitlines())
    started = int(found.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
    if not started:
        return False
    drop_ins = [Path(each) for each in found.get("DropInPaths", "").split()]
    changed = 0.0
    for path in (Path(found.get("FragmentPath", "")), *drop_ins, *(each.parent for each in drop_ins)):
        with suppress(OSError):
            changed = max(changed, path.stat().st_ctime)  # packages keep the time of their build as mtime
    return time.time() - time.monotonic() + started < changed


def all_units(service: str) -> tuple[str, ...]:
    path = (path_unit(service),) if wakes_by_path(service) else ()
    return (*units(service), *path, *started_units(service))


def started_units(service: str) -> tuple[str, ...]:
    """Return the units that the enabled ones start."""
    return (f"sidespawn@{service}.service", f"sidespawn-spool@{service}.service")


def version() -> int:
    """Return the running manager's version; 0 if it does not answer."""
    found = re.match(r"\d+", run((SYSTEMCTL, "show", "--property=Version", "--value"), TIMEOUT).stdout)
    return int(found[0]) if found else 0


def is_booted() -> bool:
    """Return whether systemd booted this host, as sd_booted(3) does."""
    return Path("/run/systemd/system").is_dir()


def require_systemd() -> None:
    if not is_booted():
        raise SidespawnError(
            Reason.HOST_UNSUITABLE, "this host does not run systemd", "./dev lab in a checkout starts one"
        )


def install_templates() -> list[str]:
    """Write the unit files that differ, or remove those that override the package's; return their names.

    If there are any, systemd needs a daemon-reload.
    """
    if is_packaged():
        return remove(left_over())
    changed = []
    for name, content in contents(os.path.realpath(sys.executable), own_command()).items():
        path = INSTALLED / name
        if not is_same(path, content):
            path.write_text(content)
            path.chmod(0o644)
            changed.append(name)
    return changed


def is_any_enabled() -> bool:
    return any(INSTALLED.glob("*.wants/sidespawn@*"))


def remove_templates() -> list[str]:
    """Remove the unit files that `enable` wrote, and stop the slices; for when no service is enabled.

    Returns the files' names. If there are any, systemd needs a daemon-reload.
    """
    if not is_packaged() and (INSTALLED / METRICS[1]).exists():
        systemctl("disable", "--now", METRICS[1])
    removed = remove(left_over() if is_packaged() else in_etc())
    systemctl(
        "stop",
        "sidespawn.slice",
        "system-sidespawn.slice",
        "system-sidespawn\\x2dspool.slice",
        "system-sidespawn\\x2dpodman.slice",
    )
    return removed


def remove(paths: list[Path]) -> list[str]:
    for path in paths:
        path.unlink()
    return [path.name for path in paths]


def systemctl(*arguments: str) -> Output:
    """Run systemctl. Raises SidespawnError with systemd's message."""
    done = run((SYSTEMCTL, *arguments), TIMEOUT)
    if done.code != 0:
        command = " ".join(("systemctl", *arguments))
        hint = f"systemctl status {arguments[-1]}"
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"{command}: {last_line(done.stderr)}", hint)
    return done


def forget_failed_scopes(slice_name: str) -> None:
    """Forget failed scopes of a podman that was killed during a start: systemd keeps them, and with them the slice."""
    done = run((SYSTEMCTL, "show", "--property=Id,Slice,ActiveState", "libpod-*.scope"), TIMEOUT)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in done.stdout.split("\n\n")]
    failed = [each["Id"] for each in blocks if (each.get("Slice"), each.get("ActiveState")) == (slice_name, "failed")]
    if failed:
        reset_failed(*failed)


def reset_failed(*units: str) -> None:
    """Reset failed units. systemd has already forgotten the others, and complains about them."""
    run((SYSTEMCTL, "reset-failed", *units), TIMEOUT)
