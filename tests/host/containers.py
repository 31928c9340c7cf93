"""Programs of these tests that run inside containers, which have none of the tests' files."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.lab.networks import command

IMPORT = """\
import sys, types
for name, text in {sources!r}:
    package = name
    while package:
        sys.modules.setdefault(package, types.ModuleType(package))
        package = package.rpartition(".")[0]
    exec(compile(text, name, "exec"), sys.modules[name].__dict__)
sys.modules[name].main()
"""


def run_inside(
    container: str,
    *modules: ModuleType,
    arguments: tuple[str, ...],
    user: str = "0",
    output: tuple[str, Path] | None = None,
) -> Any:
    """Run `main` of the last module in the container, with the others importable, and return its output from JSON.

    `output` is a file's path in the container and on the host, for programs that may not write to podman's pipes.
    """
    sources = [(module.__name__, Path(str(module.__file__)).read_text()) for module in modules]
    program = ("/usr/bin/python3", "-I", "-S", "-c", IMPORT.format(sources=sources), *arguments)
    if output is not None:
        program = ("/bin/sh", "-c", 'exec "$@" >"$0"', output[0], *program)
    done = command("podman", "exec", f"--user={user}", container, *program, timeout=600)
    return json.loads(done.stdout if output is None else output[1].read_text())
