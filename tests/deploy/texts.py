"""What the collection's modules do to texts and data, without Ansible."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tests.deploy.conftest import COLLECTION

PACKAGE = "ansible_collections.sidespawn.host.plugins.module_utils"


@contextmanager
def module_utils(*names: str) -> Iterator[ModuleType]:
    """The last of these; those before it are what it imports, by the collection's name."""
    full = [f"{PACKAGE}.{name}" for name in names]
    before = {name: sys.modules[name] for name in full if name in sys.modules}
    try:
        for short, name in zip(names, full, strict=True):
            path = COLLECTION / f"plugins/module_utils/{short}.py"
            specification = importlib.util.spec_from_file_location(name, path)
            assert specification is not None and specification.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(sys.modules[name])
        yield sys.modules[full[-1]]
    finally:
        for name in full:
            sys.modules.pop(name, None)
        sys.modules.update(before)
