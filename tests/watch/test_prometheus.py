"""Real requests: counted by the service, written by the timer's unit, exported by node_exporter, scraped."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidespawn.agent import wrapper
from tests.lab.networks import SIDESPAWN, Service, command, unit_state, wait_until
from tests.watch.conftest import CHECKOUT
from tests.watch.test_alerts import RULES

DROP_IN = Path("/run/systemd/system/sidespawn-metrics.service.d/test.conf")
DASHBOARD = CHECKOUT / "integrations/grafana/sidespawn.json"
REJECTED, FAILED = 77, 70
# What Grafana fills in.
VARIABLES = {"$instance": ".*", "$service": ".*", "$__rate_interval": "5m", "$__range": "5m"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(*argv: object) -> Iterator[None]:
    with subprocess.Popen([*map(str, argv)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@dataclass(frozen=True)
class Monitoring:
    address: str
    textfiles: Path

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("/api/v1/query", query=expression)["result"])

    def by(self, expression: str, *labels: str) -> dict[tuple[str, ...], float]:
        found = self.query(expression)
        return {tuple(each["metric"].get(label, "") for label in labels): float(each["value"][1]) for each in found}

    def is_up(self) -> bool:
        try:
            return bool(self.query("node_textfile_scrape_error == 0"))
        except (OSError, urllib.error.URLError):
            return False

    def write(self) -> None:
        """Write it like the timer, and wait until two scrapes have read it."""
        command("systemctl", "start", "sidespawn-metrics.service")
        written = (self.textfiles / "sidespawn.prom").stat().st_mtime
        wait_until(lambda: self.by("node_textfile_mtime_seconds").get((), 0) >= math.floor(written), patience=30)
        time.sleep(2.5)


@pytest.fixture
def monitoring(programs: Path, tmp_path: Path, service: Service) -> Iterator[Monitoring]:
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    DROP_IN.parent.mkdir(parents=True)
    DROP_IN.write_text(f"[Service]\nEnvironment=DIRECTORY={textfiles}\n")
    command("systemctl", "daemon-reload")
    exporter, server = free_port(), free_port()
    jobs = [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}]
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration = {"global": every, "rule_files": [str(RULES)], "scrape_configs": jobs}
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML as well
    with ExitStack() as stack:
        stack.enter_context(
            running(
                programs / "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
                f"--collector.textfile.directory={textfiles}", f"--web.listen-address=127.0.0.1:{exporter}",
            )
        )  # fmt: skip
        stack.enter_context(
            running(
                programs / "prometheus", f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{server}",
            )
        )  # fmt: skip
        found = Monitoring(f"http://127.0.0.1:{server}", textfiles)
        wait_until(found.is_up, patience=60)
        yield found
    DROP_IN.unlink()
    DROP_IN.parent.rmdir()
    command("systemctl", "daemon-reload")


def expired(service: Service) -> None:
    """Return a request whose wrapper has given up, as a wrapper writes it."""
    request_id = uuid.uuid4().hex
    request = {"v": 1, "id": request_id, "op": "signal", "deadline": wrapper.boottime_ms() - 1, "signal": "HUP"}
    line = json.dumps({**request, "pid": 4711}).encode() + b"\n"
    spool, doorbell = str(service.places.spool), str(service.places.doorbell)
    wait_until(lambda: wrapper.try_to_hand_over(spool, doorbell, line, request_id))  # the host may hold the lock
    wait_until((service.places.answers / f"{request_id}.json").exists)


def fifty_requests(service: Service) -> dict[tuple[str, str], int]:
    """Return how many requests were made, by verdict and reason."""
    networks = [service.network() for _ in range(5)]
    for network in networks:
        assert [network.start().returncode for _ in range(2)] == [0, 0]  # the second finds it running
        assert [network.kill(name).returncode for name in ("0", "0", "HUP")] == [0, 0, 0]
        command("systemctl", "stop", service.unit)  # the counts survive every way to end a run
        for option in ("--dhcp-script=/tmp/x", "--dhcp-script=/tmp/x", "--dhcp-script=/tmp/x", "--no-such-option"):
            assert network.start(*network.options(), option).returncode == REJECTED
        command("systemctl", "kill", "--signal=KILL", service.unit, check=False)
        command("journalctl", "--rotate")
    for _ in range(3):
        assert networks[0].kill("HUP", 4194303).returncode != 0
    for _ in range(2):
        expired(service)
    return {
        ("running", "ok"): 10,
        ("done", "ok"): 15,
        ("rejected", "option-not-allowed"): 15,
        ("rejected", "option-unknown"): 5,
        ("failed", "no-such-process"): 3,
        ("expired", "expired"): 2,
    }


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [each.replace(name, value) for each in found]
    return found


def test_prometheus_has_the_numbers_of_what_happened(monitoring: Monitoring, service: Service) -> None:
    monitoring.write()
    own = f'{{service="{service.name}"}}'
    assert set(monitoring.by(f"sidespawn_requests_total{own}", "verdict").values()) == {0}
    asked = fifty_requests(service)
    assert sum(asked.values()) == 50
    monitoring.write()
    assert monitoring.by(f"sidespawn_requests_by_reason_total{own}", "verdict", "reason") == asked
    verdicts = {(verdict,): 0 for verdict in ("running", "done", "rejected", "failed", "expired")}
    for (verdict, _), count in asked.items():
        verdicts[verdict,] += count
    assert monitoring.by(f"sidespawn_requests_total{own}", "verdict") == verdicts
    assert monitoring.by(f"sidespawn_start_seconds_count{own}") == {(): 5}
    assert monitoring.by(f"sidespawn_side_containers{own}", "state") == {
        ("running",): 5, ("adopted",): 0, ("orphan",): 0, ("exited",): 0,
    }  # fmt: skip
    assert monitoring.by(f'sidespawn_limit_used{{service="{service.name}", limit="instances"}}') == {(): 5}
    assert monitoring.by(f"sidespawn_service_active{own}") == monitoring.by(f"sidespawn_policy_valid{own}") == {(): 1}

    # The same requests in the alerts and on the dashboard.
    def firing() -> dict[str, Any]:
        alerts = monitoring.get("/api/v1/alerts")["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    wait_until(lambda: {"SidespawnRequestsRejected", "SidespawnRequestsExpire"} <= firing().keys(), patience=30)
    # Other reasons for warnings on a busy machine.
    assert not [name for name, each in firing().items() if each["labels"]["severity"] == "critical"]
    assert firing()["SidespawnRequestsRejected"]["annotations"]["command"] == f"sidespawn logs {service.name} --refused"
    for expression in expressions():
        values = [float(each["value"][1]) for each in monitoring.query(expression)]
        assert values, f"no data: {expression}"
        assert not any(map(math.isnan, values)), f"no number: {expression}"
    # The choices that the dashboard's variables offer.
    assert service.name in monitoring.get("/api/v1/label/service/values")
    # A service whose socket has stopped, and one that ended by itself.
    command("systemctl", "stop", f"sidespawn@{service.name}.socket")
    monitoring.write()
    assert monitoring.by(f"sidespawn_service_active{own}") == {(): 0}


def test_the_timer_runs_it_and_goes_with_the_last_service(service: Service, tmp_path: Path) -> None:
    command("systemctl", "start", "sidespawn-metrics.timer")
    assert unit_state("sidespawn-metrics.timer") == "active"
    shown = command("systemctl", "show", "--property=Unit,NextElapseUSecRealtime", "sidespawn-metrics.timer").stdout
    assert "Unit=sidespawn-metrics.service" in shown
    service.disable()
    assert unit_state("sidespawn-metrics.timer") == "inactive"
    assert not Path("/etc/systemd/system/sidespawn-metrics.timer").exists()


def test_the_units_log_reports_a_missing_directory(service: Service) -> None:
    done = command(*SIDESPAWN, "metrics", "--textfile", "/nonexistent", check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("sidespawn: /nonexistent: no such file or directory (host-unsuitable)\n")
