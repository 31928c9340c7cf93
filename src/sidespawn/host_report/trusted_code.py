"""Examines the code that runs as root on a request: the interpreter that the units name, and this package.

The interpreter is tried as the units run it, with everything that run.py does before imports: a Python may be built
without its own SHA-2 (as on RHEL), OpenSSL may be in FIPS mode, and modules may be packaged separately.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidespawn.errors import LaunchError
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from sidespawn.setup.systemd import PACKAGE, command_of
from sidespawn.system.processes import last_line, run

NEEDED = (3, 11)
TIMEOUT = 60.0
PROBE = """
import runpy, sys
version = ".".join(map(str, sys.version_info[:3]))
if sys.version_info >= (3, 11):
    runpy.run_path(sys.argv[1], run_name="probe")
    import hashlib
    hashlib.sha256(b"").hexdigest()
    import sidespawn.loading.parse, sidespawn.host.directories, sidespawn.host.sync
    import json
    openssl = sys.modules.get("_hashlib")
    fips = bool(openssl and openssl.get_fips_mode())
    print(json.dumps({"version": version, "sha256": hashlib.sha256.__module__, "fips": fips}))
else:
    print('{"version": "%s", "sha256": "", "fips": false}' % version)
"""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """`error` says why it cannot serve a request; `named_by` is the unit file, empty for what `enable` would write."""

    path: str
    named_by: str = ""
    exists: bool = True
    version: str = ""
    sha256: str = ""  # its module
    has_fips: bool = False
    error: str = ""


def look(files: Mapping[str, str]) -> tuple[Interpreter, ...]:
    """Try the interpreters that the installed unit files name; if there are no files, of those to be installed."""
    named = {python: path for path, content in files.items() for python, _ in [command_of(content)] if python}
    return tuple(look_at(python, path) for python, path in (named or {os.path.realpath(sys.executable): ""}).items())


def look_at(python: str, named_by: str = "") -> Interpreter:
    if not Path(python).exists():
        return Interpreter(path=python, named_by=named_by, exists=False)
    said = ""
    try:
        done = run((python, "-B", "-I", "-S", "-c", PROBE, str(PACKAGE / "run.py")), TIMEOUT)
        if done.code != 0:
            return Interpreter(path=python, named_by=named_by, error=last_line(done.stderr))
        said = done.stdout
        found = json.loads(said)
        version, sha256, has_fips = str(found["version"]), str(found["sha256"]), bool(found["fips"])
    except LaunchError as error:
        return Interpreter(path=python, named_by=named_by, error=error.message)
    except (ValueError, LookupError, TypeError):
        return Interpreter(path=python, named_by=named_by, error=f"it printed {last_line(said)}")
    return Interpreter(path=python, named_by=named_by, version=version, sha256=sha256, has_fips=has_fips)


def judge(interpreters: tuple[Interpreter, ...]) -> Iterator[Finding]:
    for each in interpreters:
        yield judge_interpreter(each)


def judge_interpreter(each: Interpreter) -> Finding:
    nothing = "every request fails"
    renew = "sidespawn enable SERVICE, which renews the units"
    if not each.exists:
        found = f"{each.named_by or 'a unit'} names {each.path}, which does not exist"
        return problem(Topic.PYTHON, found, nothing, f"{renew}, with a sidespawn that runs", each.path)
    if each.error:
        hint = f"install a complete Python 3.11 or later, make the virtual environment with it, then {renew}"
        return problem(Topic.PYTHON, f"{each.path} cannot run the service: {each.error}", nothing, hint, each.path)
    if tuple(int(part) for part in each.version.split(".")[:2]) < NEEDED:
        hint = f"install Python 3.11 or later, make the virtual environment with it, then {renew}"
        return problem(Topic.PYTHON, f"{each.path} is Python {each.version}", "3.11 is needed", hint, each.path)
    source = "OpenSSL" if "_hashlib" in each.sha256 else "Python"
    source += " in FIPS mode" if each.has_fips else ""
    return ok(Topic.PYTHON, f"Python {each.version} at {each.path}, SHA-256 of {source}", each.path)


def judge_writable(paths: list[Path]) -> Finding:
    if not paths:
        return ok(Topic.CODE, f"only root can change {PACKAGE}")
    found = f"{', '.join(map(str, paths))} can be changed by others than root"
    hint = "install sidespawn where only root can write, or: chown root PATH; chmod go-w PATH"
    named = " ".join(map(str, paths))
    way = f"chown root {named}; chmod go-w {named}"
    return warning(Topic.CODE, found, "root runs this code", hint, command=way)


def writable_code() -> list[Path]:
    """Return at most three files that others than root can write."""
    suspects = [PACKAGE, *PACKAGE.parents, *PACKAGE.rglob("*.py"), *PACKAGE.glob("engines/*-runtime")]
    return [path for path in suspects if is_writable_by_others(path)][:3]


def is_writable_by_others(path: Path) -> bool:
    status = path.lstat()
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return status.st_uid != 0 or bool(status.st_mode & 0o022 and not sticky)
