"""The recorded calls in neutron_argv.jsonl; README.md describes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Call:
    variant: str
    kind: str
    program: str
    argv: tuple[str, ...]
    netns: str | None
    env: dict[str, str]
    pid_file: str | None
    files: dict[str, str]

    @property
    def beneath(self) -> dict[str, bytes]:
        """Return the files by path relative to the agent's state, as the host reads them."""
        return {path.removeprefix("/var/lib/neutron/"): text.encode() for path, text in self.files.items()}

    def __str__(self) -> str:
        return self.variant.removeprefix(f"{self.program}: ")


def read() -> tuple[Call, ...]:
    lines = (Path(__file__).parent / "neutron_argv.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Call(**(fields | {"argv": tuple(fields["argv"])})) for fields in map(json.loads, lines))


CALLS = read()
DAEMONS = tuple(call for call in CALLS if call.kind == "daemon" and call.program == "dnsmasq")
HAPROXY = tuple(call for call in CALLS if call.kind == "daemon" and call.program == "haproxy")
RADVD = tuple(call for call in CALLS if call.kind == "daemon" and call.program == "radvd")
KEEPALIVED = tuple(call for call in CALLS if call.kind == "daemon" and call.program == "keepalived")
CONNTRACKD = tuple(call for call in CALLS if call.kind == "daemon" and call.program == "conntrackd")
STATE_CHANGE = tuple(
    call for call in CALLS if call.kind == "daemon" and call.program == "neutron-keepalived-state-change"
)
EVERY_DAEMON = tuple(call for call in CALLS if call.kind == "daemon")
QUESTIONS = tuple(call for call in CALLS if call.kind == "oneshot" and call.program == "conntrackd")
PROBES = tuple(call for call in CALLS if call.kind == "oneshot" and call.program != "conntrackd")
KILLS = tuple(call for call in CALLS if call.kind == "kill" and call.program == "dnsmasq-kill")
OTHER_KILLS = tuple(call for call in CALLS if call.kind == "kill" and call.program != "dnsmasq-kill")
