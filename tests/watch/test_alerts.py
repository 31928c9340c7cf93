"""Each alert fires and clears when promtool simulates it, and is documented."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.watch.conftest import CHECKOUT

HOME = CHECKOUT / "integrations/prometheus"
RULES, CASES = HOME / "sidespawn.rules.yml", HOME / "sidespawn.rules.test.yml"
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)


def promtool(programs: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    argv = [str(programs / "promtool"), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_every_alert_fires_and_clears(programs: Path) -> None:
    for arguments in (("check", "rules", RULES), ("test", "rules", CASES)):
        done = promtool(programs, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_the_case_of_an_alert_can_fail(alert: str, programs: Path, tmp_path: Path) -> None:
    """Use an alert that always fires, and one that never does."""
    shutil.copy(CASES, tmp_path)
    head, name, rest = RULES.read_text().partition(f"- alert: {alert}\n")
    following, _, more = rest.partition("\n\n")
    for expression in ("vector(1)", "vector(1) > 1"):
        changed = re.sub(r"expr: (\|\n(?: {10,}.*\n)+|.*\n)", f"expr: {expression}\n", following, count=1)
        (tmp_path / RULES.name).write_text(f"{head}{name}{changed}\n\n{more}")
        assert promtool(programs, "check", "rules", tmp_path / RULES.name).returncode == 0
        assert promtool(programs, "test", "rules", tmp_path / CASES.name).returncode == 1


def test_the_page_lists_the_alerts() -> None:
    page = (CHECKOUT / "docs/metrics.md").read_text().partition("## Alerts")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w+) \|$", page, re.MULTILINE)
    severities = re.findall(r"^ +severity: (\w+)$", RULES.read_text(), re.MULTILINE)
    assert rows == list(zip(ALERTS, severities, strict=True))
