"""What tests on machines rely on: files, exit codes, time limits, a restart and a power cut are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm.checkout import HOME
from vm.errors import CommandFailed, TimedOut
from vm.machine import Machine

pytestmark = pytest.mark.part("machine")


def test_commands_tell_their_output_and_exit_code(machine: Machine) -> None:
    done = machine.run(("sh", "-c", 'echo "$1"; echo wrong >&2; exit 137', "sh", "it's $HOME"), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (137, "it's $HOME\n", "wrong\n")
    assert machine.run("pwd").stdout == f"{HOME}\n"
    with pytest.raises(CommandFailed, match="exited with 3"):
        machine.run("exit 3")


def test_a_command_that_takes_too_long_is_ended(machine: Machine) -> None:
    with pytest.raises(TimedOut):
        machine.run(("sleep", "7654"), timeout=0.5)
    assert machine.run("ps --no-headers -C sleep -o args | grep --fixed-strings 7654", check=False).stdout == ""


def test_files_come_and_go(machine: Machine, tmp_path: Path) -> None:
    sent, back = tmp_path / "sent", tmp_path / "back"
    (sent / "below").mkdir(parents=True)
    (sent / "below/file").write_bytes(bytes(range(256)))
    machine.copy_in(sent, "/root/sent")
    machine.copy_out("/root/sent/below/file", back)
    assert back.read_bytes() == bytes(range(256))
    machine.run(("rm", "-r", "/root/sent"))


def test_a_restart_keeps_files_and_a_power_cut_loses_what_was_not_written_out(fresh_machine: Machine) -> None:
    first = fresh_machine.boot_id()
    # Without a flush, a file stays in memory until the kernel gets to it: for half a minute, and here for an hour.
    slow = "echo 360000 >/proc/sys/vm/dirty_writeback_centisecs; echo 360000 >/proc/sys/vm/dirty_expire_centisecs"
    fresh_machine.run("echo kept >/root/before")
    fresh_machine.reboot()
    second = fresh_machine.boot_id()
    assert fresh_machine.run("cat /root/before").stdout == "kept\n"
    fresh_machine.run(f"{slow}; echo flushed >/root/flushed; sync /root /root/flushed; echo not flushed >/root/lost")
    fresh_machine.power_cut()
    assert len({first, second, fresh_machine.boot_id()}) == 3
    assert fresh_machine.run("cat /root/before /root/flushed; cat /root/lost 2>/dev/null || true").stdout == (
        "kept\nflushed\n"
    )
