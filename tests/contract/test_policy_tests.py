"""Test cases inside a policy: `check` judges each one, and reports which differ from their author's expectation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.command import printed_json, sidespawn_command

NETWORK = "0065347c-3513-59a1-aef3-65d693fe6e19"
ROUTER = f'netns = "qrouter-{NETWORK}"\n'
CALL = f"""
[[test]]
argv = [
    "radvd",
    "-C", "/var/lib/neutron/ra/{NETWORK}.radvd.conf",
    "-p", "/var/lib/neutron/external/pids/{NETWORK}.pid.radvd",
]
netns = "qrouter-{NETWORK}"
env = {{ PROCESS_TAG = "radvd-{NETWORK}" }}
files = {{ "/var/lib/neutron/ra/{NETWORK}.radvd.conf" = "CONTENT" }}
verdict = "VERDICT"
"""


def check(tmp_path: Path, tests: str, *options: str) -> tuple[int, str]:
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "neutron-l3-radvd"\n{tests}')
    done = sidespawn_command("check", *options, path)
    return done.returncode, done.stdout


def call(content: str, verdict: str) -> str:
    return CALL.replace("CONTENT", content).replace("VERDICT", verdict)


def test_cases_that_come_out_as_expected(tmp_path: Path) -> None:
    tests = call("interface qr-1 { AdvSendAdvert on; };", "allowed")
    tests += call("include /etc/shadow;", "configuration-not-allowed")
    tests += '\n[[test]]\nargv = ["radvd", "--version"]\nverdict = "local"\n'
    code, shown = check(tmp_path, tests)
    assert code == 0
    assert "tests: 3 passed, 0 failed" in shown


def test_a_case_that_does_not_is_named_with_what_came_instead(tmp_path: Path) -> None:
    tests = call("interface qr-1 { AdvSendAdvert on; };", "allowed") + call("include /etc/shadow;", "allowed")
    code, shown = check(tmp_path, tests)
    assert code == 1
    assert "tests: 1 passed, 1 failed" in shown
    assert "test 2 expected allowed, found configuration-not-allowed: line 1 of" in shown


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "neutron-l3-radvd"\n[[test]]\nargv = ["radvd"]\n{ROUTER}verdict = "allowed"\n')
    done = sidespawn_command("check", "--json", path)
    (found,) = printed_json(done)
    assert done.returncode == 1
    (test,) = found["tests"]
    assert (test["number"], test["expected"], test["found"]) == (1, "allowed", "option-missing")
    assert test["passed"] is False


@pytest.mark.parametrize(
    ("case", "said"),
    {
        "unknown key": ('argv = ["radvd"]\nverdict = "allowed"\nx = 1\n', "test 1: x is not a key"),
        "no verdict": ('argv = ["radvd"]\n', "argv and verdict are required"),
        "no argv": ('verdict = "allowed"\n', "argv and verdict are required"),
        "unknown verdict": ('argv = ["radvd"]\nverdict = "no"\n', "unknown verdict 'no'"),
        "argv of numbers": ('argv = [1]\nverdict = "allowed"\n', "argv must hold strings"),
        "argv no list": ('argv = "radvd"\nverdict = "allowed"\n', "argv is not a key of a test, or has the wrong type"),
    }.values(),
)
def test_an_invalid_test_case_makes_the_policy_invalid(tmp_path: Path, case: str, said: str) -> None:
    code, shown = check(tmp_path, f"[[test]]\n{case}")
    assert code == 78
    assert said in shown


def test_cases_are_judged_by_the_rules_whatever_the_mode(tmp_path: Path) -> None:
    code, shown = check(tmp_path, 'mode = "monitor"\n' + call("", "option-not-allowed").replace('"-p"', '"-t"'))
    assert (code, "tests: 1 passed, 0 failed" in shown) == (0, True)
