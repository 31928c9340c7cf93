"""The imports of each module of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sidespawn

PACKAGE = Path(sidespawn.__file__).parent


def path_of(module: str) -> Path:
    base = PACKAGE.parent.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def is_module(name: str) -> bool:
    return path_of(name).exists()


def imports(module: str) -> Iterator[str]:
    """Yield every module that is imported anywhere in this one, also within functions."""
    for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            base = str(node.module)
            for alias in node.names:
                yield (
                    f"{base}.{alias.name}"
                    if base.startswith("sidespawn") and is_module(f"{base}.{alias.name}")
                    else base
                )
