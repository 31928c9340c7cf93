"""`sidespawn check` says whether a policy is valid, where the mistake is, and what the policy allows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidespawn import host_report, presets
from sidespawn.cli import check as command
from sidespawn.cli.main import cli
from sidespawn.host_report.findings import Finding, Topic, ok, problem, warning
from tests.contract.command import printed_json, sidespawn_command

PRESET = "neutron-dhcp-dnsmasq"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "my-service.toml"
    path.write_text(f'extends = "{PRESET}"\n\n[parameters]\nuid = 1234\n')
    return path


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_passes(name: str) -> None:
    done = sidespawn_command("check", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"valid {name}: ")


def test_a_valid_policy_shows_what_it_allows(policy: Path) -> None:
    done = sidespawn_command("check", policy)
    assert done.returncode == 0
    for fragment in ("qdhcp-{network}", "1234:42435", "NET_ADMIN", "HUP TERM KILL", "PROCESS_TAG"):
        assert fragment in done.stdout


def test_json_of_a_valid_policy(policy: Path) -> None:
    done = sidespawn_command("check", "--json", policy)
    [found] = printed_json(done)
    assert found.keys() == {"subject", "valid", "description", "allows", "options", "tests", "warnings"}
    assert (found["subject"], found["valid"]) == (str(policy), True)
    assert found["options"]["domain"] == ["<hostname>"]
    assert found["allows"]["user"] == "1234:42435"


def test_monitor_mode_is_warned_of(policy: Path) -> None:
    policy.write_text(f'mode = "monitor"\n{policy.read_text()}')
    assert "warning mode is monitor" in sidespawn_command("check", policy).stdout
    [found] = printed_json(sidespawn_command("check", "--json", policy))
    assert any("mode is monitor" in each for each in found["warnings"])


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[options]\nconf-scrip = true\n", 3, "options.conf-scrip is not an option of dnsmasq 2.90"),
        ("[side_container]\ncapabilities = ['SYS_ADMIN']\n", 3, "cannot have SYS_ADMIN"),
        ("[side_container]\nprivileged = true\n", 3, "side_container.privileged is not allowed here"),
        ("[options]\ninterface = '{nowhere}'\n", 3, "uses {nowhere}, which [names] does not declare"),
        ("[options]\nconf-file = { value = '/dev/null', configuration = 'x' }\n", 3, "there is no [configuration.x]"),
    ],
)
def test_an_invalid_policy_is_reported_with_file_and_line(policy: Path, text: str, line: int, said: str) -> None:
    policy.write_text(f'extends = "{PRESET}"\n{text}')
    done = sidespawn_command("check", policy)
    assert done.returncode == 78
    assert f"{policy}:{line}: " in done.stdout
    assert said in done.stdout


def test_json_of_an_invalid_policy(policy: Path) -> None:
    policy.write_text(f'extends = "{PRESET}"\nunknown = 1\n')
    done = sidespawn_command("check", "--json", policy)
    assert done.returncode == 78
    [found] = printed_json(done)
    assert found.keys() == {"subject", "valid", "error", "hint"}
    assert found["valid"] is False
    assert found["error"].startswith(f"{policy}:2: unknown ")
    assert found["hint"].startswith("allowed keys: ")


def test_one_invalid_policy_among_others_is_not_overlooked(policy: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("version = ")
    done = sidespawn_command("check", "--json", policy, broken, PRESET)
    assert done.returncode == 78
    assert [each["valid"] for each in printed_json(done)] == [True, False, True]


@pytest.mark.parametrize("subject", ["nothing", "/nothing.toml", "../x", "[red]", "[/red]"])
def test_what_is_not_there(subject: str) -> None:
    done = sidespawn_command("check", subject)
    assert done.returncode == 78
    assert f"{subject}: no such service, preset or policy file" in done.stdout
    assert "Traceback" not in done.stderr


def test_it_needs_no_root(policy: Path) -> None:
    assert sidespawn_command("check", PRESET, as_nobody=True).returncode == 0


# ---------------------------------------------------------------- the host


FINE, POOR = (
    ok(Topic.KERNEL, "Linux 6.1"),
    warning(Topic.JOURNAL, "it is [not] there", "logs are lost", "mkdir /x", "a"),
)
BAD = problem(Topic.SYSTEMD, "PID 1 is init", "nothing starts", "boot systemd")


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch, policy: Path) -> list[Finding]:
    """Set up a host with one service and the fixture's policy. Its findings are what the test adds to this list."""
    findings: list[Finding] = []
    monkeypatch.setattr(host_report, "report", lambda services: tuple(findings))
    monkeypatch.setattr(command, "services_with_policy", lambda: [str(policy)])
    return findings


def check(*arguments: str) -> int:
    return int(cli.main(["check", *arguments], standalone_mode=False))


@pytest.mark.parametrize(
    ("findings", "text", "code"),
    [
        ((FINE,), "", 0),
        ((FINE, POOR), "", 0),
        ((BAD, POOR, FINE), "", 69),
        ((FINE,), "unknown = 1\n", 78),
        ((BAD,), "unknown = 1\n", 69),
        ((POOR,), '[[test]]\nargv = ["dnsmasq", "--dhcp-script=/x"]\nverdict = "allowed"\n', 1),
        ((BAD,), '[[test]]\nargv = ["dnsmasq", "--dhcp-script=/x"]\nverdict = "allowed"\n', 69),
    ],
)
def test_the_exit_code_is_of_the_worst(
    on_host: list[Finding], policy: Path, findings: tuple[Finding, ...], text: str, code: int
) -> None:
    on_host += findings
    policy.write_text(f'extends = "{PRESET}"\n{text}')
    assert check() == code


def test_a_finding_is_shown_with_what_to_do(
    on_host: list[Finding], policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_host += [BAD, POOR, FINE]
    check()
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].endswith(": 1 problem, 1 warning")
    assert lines[1:8] == [
        "problem  systemd  PID 1 is init",
        "                  nothing starts",
        "                  -> boot systemd",
        "warning  journal  it is [not] there",
        "                  logs are lost",
        "                  -> mkdir /x",
        "ok       kernel   Linux 6.1",
    ]
    assert lines[8].startswith(f"valid {policy}: ")


def test_json_of_the_host(on_host: list[Finding], policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_host += [POOR, FINE]
    check("--json")
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"host", "services"}
    assert found["host"].keys() == {"state", "findings"}
    assert found["host"]["state"] == "warning"
    assert found["host"]["findings"][0] == {
        "id": "journal",
        "state": "warning",
        "found": "it is [not] there",
        "message": "logs are lost",
        "hint": "mkdir /x",
        "subject": "a",
        "command": "",
    }
    assert [each["subject"] for each in found["services"]] == [str(policy)]


def test_a_host_without_services_is_looked_at_as_well(
    on_host: list[Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "services_with_policy", list)
    on_host += [FINE]
    assert check() == 0
    out = capsys.readouterr().out
    assert "Linux 6.1" in out
    assert "no service has a policy on this host" in out
    assert check("--json") == 0
    assert json.loads(capsys.readouterr().out)["services"] == []


def test_findings_about_the_host_are_reported_once(
    on_host: list[Finding], monkeypatch: pytest.MonkeyPatch, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_report, "concerning", lambda service: (BAD, POOR))
    on_host += [POOR]
    check()
    assert capsys.readouterr().out.count("logs are lost") == 1
    check(str(policy))
    out = capsys.readouterr().out
    assert out.startswith("valid ")
    assert "warning it is [not] there: logs are lost; mkdir /x" in out
    assert "problem PID 1 is init: nothing starts; boot systemd" in out


@pytest.mark.parametrize("as_nobody", [False, True], ids=["root", "nobody"])
def test_this_host_whatever_it_is(as_nobody: bool) -> None:
    """On any machine, with or without systemd, engines and security modules, it prints findings and no traceback."""
    done = sidespawn_command("check", "--json", as_nobody=as_nobody)
    found = printed_json(done)
    findings = found["host"]["findings"]
    assert (done.returncode, done.stderr) == (69 if found["host"]["state"] == "problem" else 0, "")
    assert {"kernel", "systemd", "python", "code"} <= {each["id"] for each in findings}
    assert not [each for each in findings if each["id"] == "not-looked-at"]
    for each in findings:
        assert each["found"]
        assert bool(each["message"]) == bool(each["hint"]) == (each["state"] != "ok"), each
    assert ("root" in {each["id"] for each in findings}) is as_nobody


def test_namespaces_of_several_kinds_are_written_out() -> None:
    (found,) = printed_json(sidespawn_command("check", "neutron-l3-keepalived", "--json"))
    assert found["allows"]["namespace"] == "qrouter-{router} or snat-{router}"
