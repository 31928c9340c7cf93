"""`sidespawn scan` as a user runs it: exit codes, and JSON whose keys programs rely on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import sidespawn
from sidespawn import host_scan
from sidespawn.cli.main import cli
from sidespawn.errors import SidespawnError
from sidespawn.host_scan import Report
from sidespawn.host_scan.findings import Deployment, Finding, Kind
from tests.contract.command import printed_json, sidespawn_command

FINDING = Finding(kind=Kind.PRIVILEGED, where="podman:[red]x", found="it is privileged", deployment=Deployment.EDPM)


def report(*, findings: tuple[Finding, ...] = (), not_looked_at: tuple[str, ...] = ()) -> Report:
    return Report(findings=findings, notes=("note",), not_looked_at=not_looked_at, containers=3)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (report(), 0),
        (report(findings=(FINDING,)), 1),
        (report(findings=(FINDING,), not_looked_at=("docker",)), 1),
        (report(not_looked_at=("docker",)), 2),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["text", "json"])
def test_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Report, code: int, arguments: list[str]
) -> None:
    monkeypatch.setattr(host_scan, "scan", lambda: found)
    assert cli.main(["scan", *arguments], standalone_mode=False) == code
    out = capsys.readouterr().out
    if arguments:
        told = json.loads(out)
        assert told.keys() == {"findings", "notes", "not_looked_at", "containers"}
        assert all(
            each.keys() == {"kind", "where", "found", "deployment", "meaning", "hint"} for each in told["findings"]
        )
    else:
        assert [each.where in out for each in found.findings] == [True] * len(found.findings)  # no markup
        assert [each in out for each in found.not_looked_at] == [True] * len(found.not_looked_at)


def test_without_pyyaml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("sidespawn.host_scan")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sidespawn, "host_scan")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(SidespawnError, match="cannot scan") as refused:
        cli.main(["scan"], standalone_mode=False)
    assert "python3-yaml" in refused.value.hint


def test_only_this_verb_reads_yaml() -> None:
    code = "import sys; from sidespawn.cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.split()
    assert "sidespawn.cli.scan" in loaded
    assert "yaml" not in loaded


def test_without_root_it_says_that_it_could_not_look() -> None:
    done = sidespawn_command("scan", "--json", as_nobody=True)
    told = printed_json(done)
    assert told["not_looked_at"]
    assert done.returncode == (1 if told["findings"] else 2)
    assert "Traceback" not in done.stderr
