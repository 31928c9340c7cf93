"""A booted machine, for tests and for the command line.

    with boot(Recipe(release=Release.TRIXIE, module=Module.APPARMOR)) as machine:
        machine.run(("sidespawn", "check"))
        machine.power_cut()

Time limits are for a machine with KVM; with emulated processors they are multiplied.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from vm import checkout, qemu
from vm.accelerator import Accelerator
from vm.checkout import HOME
from vm.errors import CommandFailed, TimedOut, VmError
from vm.qemu import Hardware, Process
from vm.shell import Output, Shell

_BOOT_SECONDS = 60
_COPY_SECONDS = 120
_GRACE_SECONDS = 20
_TIMED_OUT = (124, 137)  # of timeout(1)
_DISCONNECTED = 255  # of ssh(1)


@dataclass
class Machine:
    """`process` is None while it has no power."""

    hardware: Hardware
    accelerator: Accelerator
    shell: Shell
    record: Callable[[Process], None]
    outlives_us: bool = False
    process: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scaled(self, seconds: float) -> float:
        return seconds * self.accelerator.factor

    # ---------------------------------------------------------------- commands and files

    def run(
        self, argv: tuple[str, ...] | str, timeout: float = 60, *, check: bool = True, stdin: bytes | None = None
    ) -> Output:
        """Runs an argument list, or a bash script, in the checkout. With `check` it must exit with 0.

        Raises TimedOut when it takes longer than `timeout` seconds, times the accelerator's factor; it is killed then.
        """
        seconds = self.scaled(timeout)
        words = ("/bin/bash", "-c", argv) if isinstance(argv, str) else argv
        limited = ("/usr/bin/env", f"--chdir={HOME}", "timeout", "--kill-after=5", f"{seconds:.0f}", *words)
        began = time.monotonic()
        try:
            done = self.shell.run(limited, seconds + self.scaled(_GRACE_SECONDS), stdin)
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"the machine does not answer\nconsole:\n{self.console()}") from error
        if done.returncode in _TIMED_OUT and time.monotonic() - began >= seconds:
            raise TimedOut(f"{_shown(argv)} took more than {seconds:.0f} s\n{done.stdout}{done.stderr}")
        if done.returncode == _DISCONNECTED and self.process is not None and not self.process.alive():
            raise VmError(f"the machine has ended\nconsole:\n{self.console()}")
        if check and done.returncode != 0:
            raise CommandFailed(f"{_shown(argv)} exited with {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
        return done

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file, or a directory with everything in it."""
        self.shell.copy(str(source.absolute()), f"vm:{target}", self.scaled(_COPY_SECONDS))

    def copy_out(self, source: str, target: Path) -> None:
        self.shell.copy(f"vm:{source}", str(target.absolute()), self.scaled(_COPY_SECONDS))

    def renew_checkout(self) -> None:
        """Brings the checkout as it is now, in place of an earlier one."""
        self.shell_run(checkout.RENEW, stdin=checkout.archive())

    def shell_run(self, script: str, stdin: bytes | None = None) -> str:
        """Run a script like `run`, but in ssh's directory, without needing the checkout."""
        done = self.shell.run(script, self.scaled(_COPY_SECONDS), stdin)
        if done.returncode != 0:
            raise CommandFailed(f"{script} exited with {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
        return done.stdout

    # ---------------------------------------------------------------- power

    def boot(self, seconds: float = _BOOT_SECONDS) -> None:
        """Turns it on and waits until systemd has started everything.

        With emulated processors (QEMU 7.2) a kernel now and then hangs while it patches its own code: it is turned off
        and on once.
        """
        try:
            self.turn_on(seconds)
        except VmError:
            self.kill()
            self.turn_on(seconds)
        if self.hardware.state:
            # The saved memory is where the machine came from only once, and its clock stood still.
            self.hardware = replace(self.hardware, state="")
            self.shell_run(f"date --set=@{time.time():.3f}")

    def turn_on(self, seconds: float) -> None:
        self.process = qemu.start(self.hardware, self.accelerator, self.record, outlives_us=self.outlives_us)
        self.wait_until_up(seconds)

    def wait_until_up(self, seconds: float = _BOOT_SECONDS, *, other_than: str = "") -> None:
        """Wait until commands can be run and systemd is done, in a boot with another id than this."""
        deadline = time.monotonic() + self.scaled(seconds)
        state = "no answer by ssh"
        while time.monotonic() < deadline:
            if self.process is None or not self.process.alive():
                raise VmError(f"the machine ended while it booted\nconsole:\n{self.console()}")
            if not self.shell.answers():
                continue
            try:
                done = self.shell.run(
                    "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait; exit 0",
                    max(1.0, deadline - time.monotonic()),
                )
            except subprocess.TimeoutExpired:
                break
            boot_id, _, rest = done.stdout.partition("\n")
            state = rest.strip() or done.stderr.strip() or state
            if boot_id and boot_id != other_than and state in {"running", "degraded"}:
                return
            time.sleep(0.2)
        raise VmError(f"the machine did not boot in {self.scaled(seconds):.0f} s ({state})\nconsole:\n{self.console()}")

    def boot_id(self) -> str:
        return self.shell_run("cat /proc/sys/kernel/random/boot_id").strip()

    def reboot(self) -> None:
        """Reboot with `systemctl reboot`; return when it is up again."""
        before = self.boot_id()
        self.shell.run("systemctl reboot", self.scaled(_GRACE_SECONDS))
        self.shell.hang_up()
        self.wait_until_up(other_than=before)

    def kill(self) -> None:
        """Takes the power away: no program in the machine is told."""
        if self.process is not None:
            self.process.kill()
            self.process = None
        self.shell.hang_up()

    def power_cut(self) -> None:
        """Takes the power away and gives it back; returns when it is up again."""
        self.kill()
        self.boot()

    def shut_down(self) -> None:
        """Lets it write everything to its disk and end."""
        self.shell.run("systemctl poweroff", self.scaled(_GRACE_SECONDS))
        deadline = time.monotonic() + self.scaled(_BOOT_SECONDS)
        while self.process is not None and self.process.alive():
            if time.monotonic() > deadline:
                raise VmError(f"the machine does not shut down\nconsole:\n{self.console()}")
            time.sleep(0.2)
        self.kill()

    def close(self) -> None:
        """Ends it. What it wrote stays on its disk."""
        self.kill()

    def console(self) -> str:
        """Return the last lines that it printed."""
        return qemu.last_words(self.hardware.console)


def _shown(argv: tuple[str, ...] | str) -> str:
    return argv if isinstance(argv, str) else " ".join(argv)
