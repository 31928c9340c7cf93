"""`sidespawn check`: says whether a policy is valid, where it is not, and what it allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidespawn import presets
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
        ("[side_container]\nprivileged = true\n", 3, "side_container.privileged is not a key that can stand here"),
        ("[options]\ninterface = '{nowhere}'\n", 3, "uses {nowhere}, which [names] does not declare"),
        ("[options]\nconf-file = { value = '/dev/null', configuration = 'x' }\n", 3, "there is no [configuration.x]"),
    ],
)
def test_an_invalid_policy_is_told_with_file_and_line(policy: Path, text: str, line: int, said: str) -> None:
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
    assert found["hint"].startswith("keys that can: ")


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
