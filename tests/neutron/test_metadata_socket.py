"""The real metadata agent's socket: its permissions decide which user haproxy must run as."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from tests.lab.networks import wait_until
from tests.neutron.releases import NEWEST, OLD, VENVS

CONFIGURATION = """\
[DEFAULT]
state_path = {state}
transport_url = fake://
metadata_proxy_socket = {socket}
metadata_proxy_socket_mode = all
metadata_workers = 0
[agent]
report_interval = 0
"""


@pytest.mark.parametrize(("release", "mode"), [(NEWEST, 0o755), (OLD, 0o666)])
def test_its_mode_is_the_configured_one_in_old_releases_only(tmp_path: Path, release: str, mode: int) -> None:
    socket, log = tmp_path / "metadata/socket", tmp_path / "log"
    configuration = tmp_path / "neutron.conf"
    configuration.write_text(CONFIGURATION.format(state=tmp_path, socket=socket))
    venv = VENVS[release]
    agent = (f"{venv}/bin/python3", "-W", "ignore", f"{venv}/bin/neutron-metadata-agent", "--config-file")
    with log.open("wb") as output, subprocess.Popen((*agent, str(configuration)), stdout=output, stderr=output) as run:
        try:
            wait_until(lambda: socket.exists() or run.poll() is not None, patience=60)
            assert run.poll() is None, log.read_text()
            wait_until(lambda: stat.S_IMODE(socket.stat().st_mode) == mode, patience=10)
        finally:
            run.terminate()
            try:
                run.wait(10)
            except subprocess.TimeoutExpired:
                run.kill()
