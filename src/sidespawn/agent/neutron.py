"""Neutron's process manager on top of sidespawn, without wrappers, kill scripts or the host's pids.

    [sidespawn]                                                         in the agent's configuration file
    services = dnsmasq:neutron-dhcp-dnsmasq, haproxy:neutron-dhcp-haproxy

    python3 -m sidespawn.agent.neutron /usr/bin/neutron-dhcp-agent --config-file ...

or, in another program, before Neutron makes its first process manager: `sidespawn.agent.neutron.install()`.

`services` maps programs to services. Neutron itself runs programs that are not listed there.

The class is derived from Neutron's, so Neutron still handles everything except processes (names of pid files, defaults,
arguments that a later Neutron adds). The differences: it starts and signals through the service's spool, and asks the
host whether a helper is active. The host writes the pid file into the agent's state directory, so a restarted agent
finds the pid there and asks the host about it. The pid is a handle and means nothing in the agent's /proc.

Runs in the agent, with Neutron 29 or later; its only privilege is to write the spool. It trusts the pid file as little
as Neutron does: an answer counts only if it is about a side container that is named after the same uuid.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from contextlib import suppress
from typing import Any

from neutron.agent.linux import conntrackd, external_process
from neutron_lib import exceptions
from neutron_lib.utils import file
from oslo_config import cfg
from oslo_log import log as logging

from sidespawn.agent import wrapper
from sidespawn.agent.client import Client, ClientError, NoAnswer, NoSuchProcess, Rejected, Unavailable

LOG = logging.getLogger(__name__)
OPTIONS = [
    cfg.DictOpt("services", default={}, help="The service that each program is asked of, as PROGRAM:SERVICE, ..."),
    cfg.IntOpt("timeout", default=120, min=1, help="Seconds until a request without an answer is given up."),
]
UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SIGNALS = {"1": "HUP", "9": "KILL", "10": "USR1", "15": "TERM"}
EXIT_CODES = {Rejected: wrapper.REJECTED, NoAnswer: wrapper.NO_ANSWER, Unavailable: wrapper.UNAVAILABLE}
# If a start or a HUP of these fails, Neutron removes the router's namespace and everything that works in it.
OF_ROUTERS = ("keepalived", "neutron-keepalived-state-change", "radvd")
# Neutron's name for the process, if it differs from the program's.
PROGRAMS = {"neutron-keepalived-state-change-monitor": "neutron-keepalived-state-change"}

cfg.CONF.register_opts(OPTIONS, "sidespawn")


class ProcessManager(external_process.ProcessManager):
    """One helper, like Neutron's class of this name. Raises Neutron's ProcessExecutionError where Neutron would.

    If the host does not answer, `active` raises a ClientError: a helper that may be running must not be considered
    dead. A helper that a router needs is then assumed to run.
    """

    @property
    def program(self) -> str:
        if self.service != external_process.DEFAULT_SERVICE_NAME:
            return str(PROGRAMS.get(self.service, self.service))
        # Two of Neutron's processes have no name and are distinguished by their pid files.
        name = os.path.basename(self.get_pid_file_name())
        return "keepalived" if name.endswith("-vrrp") else name.partition(".")[0]

    @property
    def client(self) -> Client | None:
        """Return None for a program that Neutron runs itself."""
        service = cfg.CONF.sidespawn.services.get(self.program)
        return None if service is None else Client(service, cfg.CONF.sidespawn.timeout)

    @property
    def active(self) -> bool:
        client, pid = self.client, self.pid
        if client is None:
            return bool(super().active)
        try:
            helper = client.find(pid) if pid else None
        except ClientError as error:
            if not self.goes_on_after(error):
                raise
            return True
        # A file from before a reboot may now contain the pid of another helper.
        return helper is not None and all(uuid in helper.container for uuid in UUID.findall(self.uuid))

    def enable(
        self,
        cmd_callback: Any = None,
        reload_cfg: bool = False,
        ensure_active: bool = False,
        pre_cmd_callback: Any = None,
        post_cmd_callback: Any = None,
    ) -> None:
        client = self.client
        if client is None:
            super().enable(cmd_callback, reload_cfg, ensure_active, pre_cmd_callback, post_cmd_callback)
        elif not self.active:
            self.call(pre_cmd_callback or self.default_pre_cmd_callback)
            command = (cmd_callback or self.default_cmd_callback)(self.get_pid_file_name())
            self.start(client, [str(each) for each in command])
            self.call(post_cmd_callback or self.default_post_cmd_callback)
        elif reload_cfg:
            self.reload_cfg()
        # Nothing to wait for if the program must be active: a start returns when the program is ready.

    def call(self, callback: Any) -> None:
        if callback:
            callback()

    def start(self, client: Client, command: list[str]) -> None:
        # Neutron gives asynchronous processes no environment. Without a namespace it is the agent's.
        environment = {} if self.async_process else {name: str(value) for name, value in self.cmd_addl_env.items()}
        try:
            helper = client.start([self.program, *command[1:]], self.namespace, environment)
        except ClientError as error:
            if not self.goes_on_after(error):
                raise failure(command, error) from error
            return
        if self.pid != helper.pid:  # a policy without `pid_file`
            file.replace_file(self.get_pid_file_name(), str(helper.pid))

    def goes_on_after(self, error: ClientError) -> bool:
        """Return whether to hide a failure from Neutron. Its ProcessMonitor logs missing helpers, and requests them
        again."""
        if isinstance(error, Unavailable) or self.program not in OF_ROUTERS:
            return False
        LOG.error("%s for %s failed; the running process is left unchanged: %s", self.program, self.uuid, error)
        return True

    def disable(self, sig: str = "9", get_stop_command: Any = None, delete_pid_file: bool = True) -> None:
        client = self.client
        if client is None or get_stop_command:
            super().disable(sig, get_stop_command, delete_pid_file)
        elif self.active:
            name = SIGNALS.get(str(sig), str(sig))
            try:
                client.signal(self.pid, name)
            except NoSuchProcess:
                LOG.debug("%s for %s ended before it was sent %s", self.service, self.uuid, name)
            except ClientError as error:
                if name != "HUP" or not self.goes_on_after(error):
                    raise failure(["kill", f"-{name}", str(self.pid)], error) from error
            if delete_pid_file or name == "KILL":  # the host has done this, unless it had lost its record
                with suppress(OSError):
                    os.unlink(self.get_pid_file_name())
        else:
            LOG.debug("No %s runs for %s, ignoring signal %s", self.service, self.uuid, sig)


def failure(command: list[str], error: ClientError) -> Exception:
    """Return Neutron's error for a failed program, with a wrapper's exit code."""
    code = EXIT_CODES.get(type(error), wrapper.FAILED)
    text = f"Exit code: {code}; Cmd: {command}; Stdin: ; Stdout: ; Stderr: sidespawn: {error}"
    made: Exception = exceptions.ProcessExecutionError(text, returncode=code)
    return made


def install() -> None:
    """Make Neutron's drivers in this process use the class above."""
    external_process.ProcessManager = ProcessManager
    own = conntrackd.ConntrackdManager.create_pid_file

    def create_pid_file(manager: Any) -> None:
        """Skip Neutron's search for the pid among the agent's processes: the host has already written the file."""
        if manager.get_process().client is None:
            own(manager)

    conntrackd.ConntrackdManager.create_pid_file = create_pid_file


def main() -> None:
    """python3 -m sidespawn.agent.neutron AGENT ARGUMENTS..., AGENT being the path of its Python script."""
    if len(sys.argv) < 2:
        sys.exit(f"usage: python3 -m {__name__} AGENT [ARGUMENTS...]")
    install()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    from sidespawn.agent import neutron  # noqa: PLW0406 - the module that others import, not this copy of it

    neutron.main()
