#!/usr/bin/python3
"""Lays out what Debian's package and the rpm have in common below a directory: code, command, units, completion.

    install.py --family deb|rpm --package DIRECTORY --destination DIRECTORY [--python PROGRAM] [--bundled DIRECTORY]

The code goes to /usr/share/sidespawn and not where Python looks for modules: what runs as root is started with
`-I -S` and finds the standard library and this directory, so nothing that other packages install can be imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path("/usr/share/sidespawn")
PACKAGE = HOME / "sidespawn"
BUNDLED = HOME / "bundled"  # what the command line needs and the distribution does not have
COMMAND = "/usr/bin/sidespawn"
UNITS = "usr/lib/systemd/system"
CATALOGS = "usr/lib/systemd/catalog"
SYSCTL = "usr/lib/sysctl.d"
PROFILES = "etc/apparmor.d"
LAUNCHER = """\
#!{python} -I
import sys

sys.path[:0] = {path}

from sidespawn.cli.main import main

main()
"""
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/sidespawn",
    "zsh": "usr/share/zsh/{zsh}/_sidespawn",
    "fish": "usr/share/fish/vendor_completions.d/sidespawn.fish",
}
ZSH = {"deb": "vendor-completions", "rpm": "site-functions"}


def install(family: str, package: Path, destination: Path, python: str, bundled: Path | None) -> None:
    code = destination / PACKAGE.relative_to("/")
    shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__"))
    for runtime in code.glob("engines/*-runtime"):
        runtime.chmod(0o755)
        runtime.write_text(replaced(runtime.read_text(), "/usr/bin/python3", python))
    if bundled is not None:
        shutil.copytree(bundled, destination / BUNDLED.relative_to("/"))
    path = [str(HOME), *([str(BUNDLED)] if bundled is not None else [])]
    write(destination / "usr/bin/sidespawn", LAUNCHER.format(python=python, path=path), mode=0o755)
    for unit in (code / "units").glob("sidespawn*.*"):
        content = unit.read_text().replace("@PYTHON@", python).replace("@PACKAGE@", str(PACKAGE))
        content = content.replace("@COMMAND@", COMMAND)
        write(destination / UNITS / unit.name, content)
    write(destination / CATALOGS / "sidespawn.catalog", (code / "catalog/sidespawn.catalog").read_text())
    for limits in (code / "sysctl").iterdir():
        write(destination / SYSCTL / limits.name, limits.read_text())
    for shell, place in COMPLETIONS.items():
        write(destination / place.format(zsh=ZSH[family]), completion(shell, package, bundled))
    if family == "deb":  # where rpms are at home, there is SELinux, and no place for AppArmor's profiles
        own_profiles(code, destination)


def own_profiles(code: Path, destination: Path) -> None:
    """Install profiles for the distribution's tools to load; `sidespawn enable` finds links and leaves them alone."""
    for profile in (code / "apparmor").iterdir():
        owned = destination / PROFILES / profile.name
        write(owned, profile.read_text())
        profile.unlink()
        profile.symlink_to(Path("/") / PROFILES / profile.name)


def completion(shell: str, package: Path, bundled: Path | None) -> str:
    """click's script for the shell. It asks the command itself for what depends on the host."""
    path = [str(package.parent), *([str(bundled)] if bundled is not None else [])]
    code = f"import sys; sys.path[:0] = {path!r}; from sidespawn.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-B", "-I", "-c", code],
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "_SIDESPAWN_COMPLETE": f"{shell}_source"},
        stdout=subprocess.PIPE, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def replaced(text: str, old: str, new: str) -> str:
    if old not in text:
        raise ValueError(f"{old} is not in the text where it should be replaced")
    return text.replace(old, new)


def write(path: Path, content: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def main() -> None:
    parser = argparse.ArgumentParser(prog="install.py", description="Lays out the files of a distribution's package.")
    parser.add_argument("--family", choices=ZSH, required=True)
    parser.add_argument("--package", type=Path, required=True, help="the directory `sidespawn`, as a wheel has it")
    parser.add_argument("--destination", type=Path, required=True, help="where / is to be")
    parser.add_argument("--python", default="/usr/bin/python3", help="the interpreter of the host")
    parser.add_argument("--bundled", type=Path, help="a directory with the modules that the package brings along")
    arguments = parser.parse_args()
    os.umask(0o022)
    install(arguments.family, arguments.package, arguments.destination, arguments.python, arguments.bundled)


if __name__ == "__main__":
    main()
