"""Installs the shipped AppArmor profiles and SELinux module if the kernel supports them.

AppArmor: two profiles. `sidespawn-side-container` is used where a policy says `apparmor = "sidespawn-side-container"`,
`sidespawn-agent` if an agent is started with it. Loading them confines nothing by itself.

SELinux: a module with labels for what agents share with the host, and domains for agents and side containers; see
setup/selinux.py.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sidespawn.errors import LaunchError, Reason, SidespawnError
from sidespawn.setup import selinux
from sidespawn.setup.hardening import has_apparmor, has_selinux
from sidespawn.setup.systemd import PACKAGE, version
from sidespawn.system.processes import last_line, run

PROFILES = PACKAGE / "apparmor"
AGENT = "sidespawn-agent"  # the profile for agents that make namespaces
APPARMOR_HOME = Path("/etc/apparmor.d")
PROCESSES = Path("/proc")
LOADED = Path("/sys/kernel/security/apparmor/profiles")
PARSER = "/usr/sbin/apparmor_parser"
TIMEOUT = 120.0
SETS_PROFILES = 262  # systemd 257 needs /proc for it, which side containers lack; those in between were not tried


def install() -> list[str]:
    """Install what the kernel supports. Return a sentence for each that could not be installed; the rest works."""
    failed = []
    for name, is_there, put in (
        ("AppArmor", has_apparmor(), install_profiles),
        ("SELinux", has_selinux(), selinux.install),
    ):
        try:
            if is_there:
                put()
        except (SidespawnError, OSError) as error:
            hint = error.hint if isinstance(error, SidespawnError) else ""
            failed.append("; ".join(filter(None, (f"cannot set up {name}: {error}", hint))))
    return failed


def remove() -> list[str]:
    """Remove them when no service is left; return a sentence for each thing that stays.

    A profile that confines a process stays loaded until the next boot: unloading it would set the process free.
    """
    for profile in profiles():
        if (APPARMOR_HOME / profile).exists() and not is_packaged(profile):
            if profile not in in_use():
                tool(PARSER, "-R", str(APPARMOR_HOME / profile), fails=True)
            (APPARMOR_HOME / profile).unlink()
    try:
        return selinux.remove()
    except SidespawnError as error:
        return [error.message]


def warnings(engine: str, image: str, apparmor: str) -> list[str]:
    """Return what an operator should know; `apparmor` is the profile that the policy names."""
    return [*apparmor_warnings(engine, apparmor), *(selinux_warnings(engine, image) if has_selinux() else ())]


def selinux_warnings(engine: str, image: str) -> list[str]:
    if engine != "docker" and (engine, image) != ("systemd", "host"):
        return []
    reason = "agents confined by SELinux cannot look up its side containers in /proc, and Neutron takes them for dead"
    whose = "docker" if engine == "docker" else "systemd with the host's own programs"
    return [f"with {whose}, {reason}: use podman, or systemd with an image"]


def apparmor_warnings(engine: str, apparmor: str) -> list[str]:
    wanted = f"the policy names AppArmor's profile {apparmor}, but"
    if not apparmor:
        return []
    if engine == "systemd" and has_apparmor() and version() < SETS_PROFILES:
        reason = f"{wanted} systemd sets one by /proc, which its side containers do not have"
        return [f"{reason}: nothing will start; leave `apparmor` out, or use podman or docker"]
    if engine == "systemd" and not has_apparmor():
        reason = f"{wanted} the host has no AppArmor, which systemd ignores"
        return [f"{reason}: side containers run without it; leave `apparmor` out"]
    if not has_apparmor():
        return [f"{wanted} the host has no AppArmor: nothing will start"]
    if LOADED.exists() and not is_loaded(apparmor):
        return [f"AppArmor's profile {apparmor} is not loaded: nothing will start"]
    return []


def profiles() -> list[str]:
    return sorted(path.name for path in PROFILES.iterdir())


def is_packaged(profile: str) -> bool:
    """Return whether a distribution's package owns the file in /etc, in which case this package has only a link to it.

    An operator may have changed it there.
    """
    return (PROFILES / profile).resolve() == APPARMOR_HOME / profile


def is_loaded(profile: str) -> bool:
    return LOADED.exists() and f"{profile} (" in LOADED.read_text(encoding="utf-8")


def in_use() -> set[str]:
    """Return the profiles that confine a process, alone or stacked with others."""
    found: set[str] = set()
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or the kernel has another module
            profile = (process / "attr/apparmor/current").read_text(errors="replace").partition(" ")[0]
            found |= set(profile.strip().split("//&"))
    return found


def install_profiles() -> None:
    for profile in profiles():
        path = APPARMOR_HOME / profile
        if is_packaged(profile):
            if not is_loaded(profile):
                tool(PARSER, "-r", str(path))
            continue
        content = (PROFILES / profile).read_text(encoding="utf-8")
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            tool(PARSER, "-r", str(path))


def tool(*argv: str, fails: bool = False) -> None:
    try:
        done = run(argv, TIMEOUT)
    except LaunchError as error:
        if fails:
            return
        raise SidespawnError(Reason.HOST_UNSUITABLE, error.message, "install this security module's tools") from None
    if done.code != 0 and not fails:
        raise SidespawnError(Reason.HOST_UNSUITABLE, f"{' '.join(argv)}: {last_line(done.stderr)}")
