"""Runs commands in a machine and copies files to and from it with ssh(1). One connection stays open for all of them."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vm.errors import VmError
from vm.keys import ALIAS, Keys

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
_BANNER_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output of a command in a machine, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Shell:
    port: int
    keys: Keys
    control: Path  # socket of the connection that stays open

    @property
    def options(self) -> tuple[str, ...]:
        settings = (
            *(f"HostKeyAlias={ALIAS}", f"UserKnownHostsFile={self.keys.known_hosts}", "StrictHostKeyChecking=yes"),
            *(f"IdentityFile={self.keys.user}", "IdentitiesOnly=yes", "BatchMode=yes", "LogLevel=ERROR"),
            *(f"ControlPath={self.control}", "ControlMaster=auto", "ControlPersist=yes"),
            *("ServerAliveInterval=30", "ServerAliveCountMax=10", "ConnectTimeout=60"),
        )
        # No configuration of the machine's user: it might send us elsewhere.
        return ("-F", "none", *(word for setting in settings for word in ("-o", setting)))

    def command(self, argv: tuple[str, ...] | str, *, terminal: bool = False) -> tuple[str, ...]:
        """Return the ssh command that runs it: an argument list unchanged, a text with bash."""
        remote = shlex.join(argv if not isinstance(argv, str) else ("/bin/bash", "-c", argv))
        flag = "-t" if terminal else "-T"
        return ("ssh", *self.options, flag, "-p", str(self.port), "root@127.0.0.1", "--", remote)

    def run(self, argv: tuple[str, ...] | str, seconds: float, stdin: bytes | None = None) -> Output:
        """Runs it to its end. Raises subprocess.TimeoutExpired."""
        done = subprocess.run(
            self.command(argv),
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=seconds,
            env=_ENVIRONMENT,
            check=False,
        )
        return Output(
            returncode=done.returncode,
            stdout=done.stdout.decode(errors="replace"),
            stderr=done.stderr.decode(errors="replace"),
        )

    def copy(self, source: str, target: str, seconds: float) -> None:
        """scp(1), with directories; the machine's side begins with `vm:`."""
        sides = [
            side.replace("vm:", "root@127.0.0.1:", 1) if side.startswith("vm:") else side for side in (source, target)
        ]
        command = ("scp", "-q", "-r", "-p", *self.options, "-P", str(self.port), "--", *sides)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, env=_ENVIRONMENT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise VmError(f"copying {source} to {target} took more than {seconds:.0f} s") from error
        if done.returncode != 0:
            raise VmError(f"cannot copy {source} to {target}: {done.stderr.strip()}")

    def answers(self) -> bool:
        """Return whether a server greets at the port within a second. Asking costs the machine little."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_BANNER_SECONDS) as connection:
                if connection.recv(4) == b"SSH-":
                    return True
        except OSError:
            pass
        time.sleep(0.2)
        return False

    def hang_up(self) -> None:
        """Ends the connection that stays open."""
        if self.control.exists():
            command = ("ssh", *self.options, "-O", "exit", "-p", str(self.port), "root@127.0.0.1")
            subprocess.run(command, capture_output=True, timeout=60, env=_ENVIRONMENT, check=False)
        self.control.unlink(missing_ok=True)
