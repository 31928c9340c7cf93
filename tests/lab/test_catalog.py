"""`journalctl --catalog` explains the records of a real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_catalog import CATALOG, TEXT
from tests.lab.networks import Service, command

PLACE = Path("/usr/local/lib/systemd/catalog")  # where docs/operating.md puts it for an installation by pip


@pytest.fixture
def installed() -> Iterator[None]:
    PLACE.mkdir(parents=True, exist_ok=True)
    (PLACE / CATALOG.name).write_text(TEXT)
    command("journalctl", "--update-catalog")
    yield
    (PLACE / CATALOG.name).unlink()
    command("journalctl", "--update-catalog")


@pytest.mark.usefixtures("installed")
def test_a_record_is_explained_with_its_own_values(service: Service) -> None:
    network = service.network()
    network.start()
    network.start("--dhcp-script=/tmp/x")
    command("journalctl", "--sync", check=False)
    shown = command("journalctl", "--catalog", "--no-pager", f"SIDESPAWN_SERVICE={service.name}").stdout
    assert f"Subject: A side container of {service.name} runs" in shown
    assert f"Subject: {service.name} rejected a request (option-not-allowed)" in shown
    assert f"sidespawn check {service.name} && sidespawn enable {service.name}" in shown
    assert "@SIDESPAWN" not in shown
