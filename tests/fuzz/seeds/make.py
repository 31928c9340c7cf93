"""Writes the seeds that come from recorded calls: python -m tests.fuzz.seeds.make. Findings stay next to them."""

from __future__ import annotations

import json
from pathlib import Path

from sidespawn import presets
from tests.data import corpus
from tests.fuzz import targets

HERE = Path(__file__).parent
ID = "00112233445566778899aabbccddeeff"


def main() -> None:
    head = {"v": 1, "id": ID, "deadline": 9}
    for number, call in enumerate(corpus.CALLS[::9]):
        start = head | {"op": "start", "argv": call.argv, "netns": call.netns, "env": call.env}
        write("requests", f"start-{number}", json.dumps(start).encode())
    write("requests", "signal", json.dumps(head | {"op": "signal", "signal": "HUP", "pid": 4711}).encode())
    for name in presets.names():
        write("policies", name, f'extends = "{name}"\n\n[parameters]\nimage = "localhost/x:1"\n'.encode())
        write("policies", f"{name}-whole", presets.read_preset(name).encode())
    for rules, policy in targets.rule_sets():
        calls = [call for call in corpus.CALLS if call.program == policy.table.program and call.kind == "daemon"]
        contents = sorted({text for call in calls for text in call.files.values()}, key=len)
        for place, text in enumerate(contents[:: max(1, len(contents) // 3)][:3]):
            write(
                "configurations",
                f"{policy.service}-{rules.name}-{place}",
                f"{policy.service}.{rules.name}\n{text}".encode(),
            )
    for number, program in enumerate(sorted(targets.ORACLES)):
        calls = [call for call in corpus.CALLS if call.program == program]
        for place, call in enumerate(calls[:: max(1, len(calls) // 3)][:3]):
            words = "\0".join(call.argv[1:]).encode()
            write("arguments", f"{program}-{place}", bytes([number]) + words)
        made = b"\0".join(bytes([0x80 | how, option]) + b"x" for how in range(8) for option in range(0, 200, 9))
        write("arguments", f"{program}-made", bytes([number]) + made)
    for status in ("running", "done", "rejected", "failed", "expired"):
        reply = {"v": 1, "id": ID, "status": status, "reason": "ok", "message": "said", "pid": 7, "container": "c"}
        write("replies", status, json.dumps(reply).encode())


def write(target: str, name: str, content: bytes) -> None:
    directory = HERE / target
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
