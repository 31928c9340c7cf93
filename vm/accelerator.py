"""Finds out whether KVM works here, and how much slower machines are without it.

Opening /dev/kvm proves little: nested in another machine, KVM may hang at the first instruction. So a virtual processor
counts for a moment, which takes KVM a fraction of a second.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache, say

_PROBE_SECONDS = 10
# A boot sector: mov ecx, 1 << 25; dec ecx; jnz; then 16 to port 0xf4, which ends qemu with twice that and 1.
_SECTOR = bytes.fromhex("66b900000002 6649 75fc b010 e6f4 f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
_EXIT_CODE = 33

# What emulation makes slow and no test looks at. With erms, memory is cleared and copied byte by byte; with smap, the
# kernel uses two sets of translations; with la57, each has five levels.
_PROCESSOR = "max,-erms,-la57,-mpx,-pks,-pku,-smap"
_KERNEL = "init_on_alloc=0 mitigations=off randomize_kstack_offset=off transparent_hugepage=never"


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """How qemu runs the machine's processors. Time limits are for KVM; `factor` is what they are multiplied by."""

    name: str
    factor: int

    @property
    def options(self) -> tuple[str, ...]:
        if self.name == "kvm":
            return ("-accel", "kvm", "-cpu", "host")
        return ("-accel", "tcg,thread=multi", "-cpu", _PROCESSOR)

    @property
    def kernel_options(self) -> str:
        return "" if self.name == "kvm" else _KERNEL


_KVM = Accelerator(name="kvm", factor=1)
# Measured: 4 to 5 times slower on a quiet machine.
_TCG = Accelerator(name="tcg", factor=10)


def choose(cache: Cache) -> Accelerator:
    """KVM if it works. Tried once for each boot of the development machine."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.top / "kvm.json"
    with cache.locked("kvm"):
        known = json.loads(answer.read_text()) if answer.exists() else {}
        if known.get("boot") != boot:
            known = {"boot": boot, "works": _kvm_works(cache.top / "kvm-probe.img")}
            answer.write_text(json.dumps(known))
            if not known["works"]:
                say("KVM does not work here: the machine's processors are emulated, which is slow")
    return _KVM if known["works"] else _TCG


def _kvm_works(sector: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    sector.write_bytes(_SECTOR)
    command = (
        *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "16", "-nodefaults", "-display", "none"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        *("-drive", f"file={sector},format=raw,if=ide,snapshot=on"),
    )
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        sector.unlink()
    return done.returncode == _EXIT_CODE
