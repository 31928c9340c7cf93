"""The most memory that a run takes when its agent fills all its claims, compared with what its unit allows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.catalogue import attack

MEMORY_MAX = 256 + 64  # MiB, for a policy with parallel = 1; see setup/hardening.py
SCRIPT = """
import json, os, sys, threading
from pathlib import Path
from sidespawn.errors import PolicyError
from sidespawn.host import spool
from sidespawn.host.journal import Journal
from sidespawn.host.limits import Bucket
from sidespawn.host.service import Refusing
from sidespawn.system.places import Places
from sidespawn.host.sync import Sync

kind, home = sys.argv[1], Path(sys.argv[2])
places = Places("small", run=home, policies=home)
for path in (places.spool, places.operator, places.claims, places.answers, places.replies):
    path.mkdir(parents=True)
never = threading.Event()

class Held(Sync):
    def carry_out(self, request, lane, *, by_operator):
        never.wait()

def line():
    fields = {"v": 1, "id": os.urandom(16).hex(), "op": "start", "deadline": 2**40, "env": {}}
    more = {
        "one argument": {"argv": ["x"], "netns": os.urandom(16).hex()},
        "many arguments": {"argv": [f"{each:x}" for each in range(1024)], "netns": os.urandom(16).hex()},
        "long arguments": {"argv": ["\\U0001f600" * 4000], "netns": os.urandom(16).hex()},
    }[kind]
    return json.dumps({**fields, **more}, separators=(",", ":"), ensure_ascii=False).encode() + b"\\n"

run = Held(places, Journal("small", str(home / "none")), Refusing(PolicyError("x"), places), {}, ())
run.bucket = Bucket(places.bucket, 10**9, 10**9)
claims = lines = 0
while run.may_take() and claims < 20:
    content = bytearray()
    while len(content) < spool.CLAIM_BYTES - 70000 or len(content) + len(one) <= spool.CLAIM_BYTES:
        content += (one := line())
    (places.spool / "processes").write_bytes(content[: spool.CLAIM_BYTES])
    for claim in run.claim():
        run.serve(claim)
        claims, lines = claims + 1, lines + len(claim.untrusted_lines)
# Not getrusage's, which begins with what the process had that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(claims, lines, int(peak.split()[1]) // 1024, flush=True)
os._exit(0)
"""
KINDS = ("one argument", "many arguments", "long arguments")


@attack(149)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_holds_all_claims_full_stays_below_half_of_its_memory(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = (sys.executable, "-c", SCRIPT, kind, str(tmp_path))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    claims, lines, peak = map(int, done.stdout.split())
    with capsys.disabled():
        print(f"\n{kind}: {claims} claims with {lines} lines, {peak} MiB", end=" ")
    assert claims >= 1
    assert peak < MEMORY_MAX / 2
