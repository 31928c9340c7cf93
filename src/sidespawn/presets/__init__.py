"""The policies and the programs' option tables that ship with the package, one TOML file each."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from sidespawn.errors import PolicyError

DIRECTORY = Path(__file__).parent


def read_preset(name: str) -> str:
    """Return the text of a preset. Raises PolicyError if no file has that name."""
    return read(DIRECTORY / f"{name}.toml", "preset", name)


def read_program(name: str) -> str:
    """Return the text of a program's option table. Raises PolicyError if no file has that name."""
    return read(DIRECTORY / "programs" / f"{name}.toml", "program", name)


def names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.toml")))


def read(path: Path, kind: str, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        known = sorted(each.stem for each in path.parent.glob("*.toml"))
        meant = "".join(f"did you mean {each}? " for each in get_close_matches(name, known, 1))
        hint = f"{meant}available: {', '.join(known)}; add your own to /etc/sidespawn/{kind}s"
        raise PolicyError(f"there is no {kind} named {name}", hint) from None
