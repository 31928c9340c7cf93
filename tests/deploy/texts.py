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
    for name in names:
        path = COLLECTION / f"plugins/module_utils/{name}.py"
        specification = importlib.util.spec_from_file_location(f"{PACKAGE}.{name}", path)
        assert specification is not None and specification.loader is not None
        sys.modules[f"{PACKAGE}.{name}"] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(sys.modules[f"{PACKAGE}.{name}"])
    try:
        yield sys.modules[f"{PACKAGE}.{names[-1]}"]
    finally:
        for name in names:
            del sys.modules[f"{PACKAGE}.{name}"]
