"""Which engines must answer when a service is disabled: its own, and those of the others that are installed."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from sidespawn.cli import disable
from sidespawn.errors import LaunchError, Reason
from sidespawn.system.places import Places
from tests.unit import small

PLACES = Places("small")


class Silent:
    """An engine that is not installed, or does not answer."""

    def list(self, service: str) -> NoReturn:
        raise LaunchError(Reason.ENGINE_FAILED, f"no engine for {service}")


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a host with podman where no engine answers."""
    monkeypatch.setattr(disable, "PODMAN", str(tmp_path / "podman"))
    monkeypatch.setattr(disable, "get_engine", lambda *_: Silent())
    (tmp_path / "podman").touch()
    return tmp_path


@pytest.mark.parametrize("engine", ["podman", "docker", "systemd", "kubernetes"])
def test_a_services_own_engine_must_answer(engine: str) -> None:
    policy = small.load(('engine = "podman"', f'engine = "{engine}"'))
    with pytest.raises(LaunchError):
        disable.side_containers(PLACES, policy)


def test_without_a_policy_podman_must_answer() -> None:
    """Only the policy names the service's engine."""
    with pytest.raises(LaunchError):
        disable.side_containers(PLACES, None)


def test_without_a_policy_a_podman_that_is_not_installed_is_not_asked(host: Path) -> None:
    """Disabling must always work: this may be a Kubernetes node, or a host that has only docker."""
    (host / "podman").unlink()
    disable.end_starts(PLACES, None)
    assert disable.end_side_containers(PLACES, None) == []
