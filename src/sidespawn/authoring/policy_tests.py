"""The test cases in a policy: calls with the verdict that its author expects.

    [[test]]
    argv = ["dnsmasq", "--no-hosts", "--dhcp-script=/tmp/x"]
    netns = "qdhcp-0065347c-3513-59a1-aef3-65d693fe6e19"
    env = { PROCESS_TAG = "dnsmasq-0065347c-3513-59a1-aef3-65d693fe6e19" }
    files = { "/var/lib/neutron/extra.conf" = "log-async=20\\n" }
    verdict = "option-not-allowed"

`verdict` is "allowed", "local" (answered in the agent) or a reason code.  Only argv and verdict are required.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from sidespawn.agent.wrapper import is_answered_here
from sidespawn.core.decide import beneath, decide
from sidespawn.core.policy import Policy
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, PolicyError, Reason
from sidespawn.frozen import replace
from sidespawn.loading.document import meant

ALLOWED, LOCAL = "allowed", "local"
KEYS: dict[str, type] = {"argv": list, "netns": str, "env": dict, "files": dict, "verdict": str}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a test case: the expected and the actual verdict; `message` says why a call was refused."""

    number: int
    argv: tuple[str, ...]
    expected: str
    found: str
    message: str

    @property
    def passed(self) -> bool:
        return self.expected == self.found


def run_tests(policy: Policy, source: str, text: str) -> list[Outcome]:
    """Judge each test case in the policy's text. Raises PolicyError for a malformed one."""
    cases = tomllib.loads(text).get("test", [])
    return [run_test(policy, source, number, case) for number, case in enumerate(cases, 1)]


def run_test(policy: Policy, source: str, number: int, case: dict[str, Any]) -> Outcome:
    check_case(source, number, case)
    files = {at: content for path, content in case.get("files", {}).items() if (at := place(policy, path))}

    def read_file(beneath: str) -> bytes | None:
        return files[beneath].encode() if beneath in files else None

    request = StartRequest(
        id="0" * 32,
        deadline=0,
        untrusted_argv=tuple(case["argv"]),
        untrusted_netns=case.get("netns"),
        untrusted_environment=tuple(sorted(case.get("env", {}).items())),
    )
    found, message = ALLOWED, ""
    try:
        if is_answered_here(policy.agent.local, request.untrusted_argv[1:]):
            found = LOCAL
        else:
            decide(replace(policy, is_monitor=False), request, read_file)  # by the rules, whatever the mode
    except Denied as denied:
        found, message = denied.reason.value, denied.message
    argv = request.untrusted_argv
    return Outcome(number=number, argv=argv, expected=case["verdict"], found=found, message=message)


def place(policy: Policy, path: str) -> str | None:
    try:
        return beneath(policy, path)
    except Denied:
        return None


def check_case(source: str, number: int, case: dict[str, object]) -> None:
    where = f"{source}: test {number}"
    hint = f"its keys: {', '.join(KEYS)}"
    for key, value in case.items():
        if key not in KEYS or not isinstance(value, KEYS[key]):
            near = "" if key in KEYS else meant(key, KEYS)
            raise PolicyError(f"{where}: {key} is not a key of a test, or has the wrong type{near}", hint)
        texts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not all(isinstance(each, str) for each in texts):
            raise PolicyError(f"{where}: {key} must hold strings", hint)
    if not case.get("argv") or "verdict" not in case:
        raise PolicyError(f"{where}: argv and verdict are required", hint)
    if case["verdict"] not in {ALLOWED, LOCAL, *Reason}:
        near = meant(str(case["verdict"]), (ALLOWED, LOCAL, *Reason))
        message = f"{where}: unknown verdict {case['verdict']!r}{near}"
        raise PolicyError(message, f"must be {ALLOWED}, {LOCAL} or a reason code")
