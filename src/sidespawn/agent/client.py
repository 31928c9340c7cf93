"""A client for Python programs in an agent container, which requests helper programs without a wrapper.

    client = Client("neutron-dhcp-dnsmasq")
    helper = client.start(["dnsmasq", "--no-hosts", ...], netns="qdhcp-...", environment={"PROCESS_TAG": "..."})
    client.signal(helper.pid, "HUP")
    client.is_running(helper.pid)
    client.stop(helper.pid)

It speaks to the service's spool directly (docs/wire.md), so it needs no wrapper, no kill script and no `ip netns exec`;
and since the host keeps the list of running programs, the agent does not need the host's pids: here, a pid is only a
handle.

Runs in the agent; its only privilege is to write to the spool. Every call waits at most `timeout` seconds for its
answer.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

from sidespawn.agent import wrapper

PROBE = "0"  # as in kill(2): is it there?
LONGEST_LINE = 512 * 1024  # of a request; the host refuses one that is longer than the policy allows


class Helper(NamedTuple):
    """A running side container: the program's pid on the host, and the container's name."""

    pid: int
    container: str


class ClientError(Exception):
    """`reason` is one of the stable codes of docs/reasons.md."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("%s (%s)" % (message, reason))
        self.reason = reason
        self.message = message


class Rejected(ClientError):
    """The host's policy does not allow it; do not retry."""


class Failed(ClientError):
    """The request was allowed, but failed."""


class NoSuchProcess(Failed):
    """The service has no side container with that pid."""


class NoAnswer(ClientError):
    """The host did not answer in time, and will not start anything for this request."""


class Unavailable(ClientError):
    """The service's directories are missing, or not writable."""


_ERRORS = {"rejected": Rejected, "failed": Failed, "expired": NoAnswer}


class Client:
    """Requests to one service. Safe for threads and processes: each request is a separate line."""

    def __init__(self, service: str, timeout: int = 120, run: str = "/run/sidespawn") -> None:
        home = "%s/%s" % (run, service)
        self._settings = {
            "service": service,
            "spool": home + "/spool",
            "replies": home + "/replies",
            "timeout": timeout,
            "line": LONGEST_LINE,
        }  # type: Dict[str, Any]

    def start(
        self, argv: List[str], netns: Optional[str] = None, environment: Optional[Dict[str, str]] = None
    ) -> Helper:
        """Start the program, and return when it is ready. If it already runs with the same plan, it is not restarted.

        `argv` begins with the program's name, `netns` is a name in /run/netns. Raises a ClientError.
        """
        reply = self._ask({"op": "start", "argv": argv, "netns": netns, "env": environment or {}})
        if not isinstance(reply.get("pid"), int) or not isinstance(reply.get("container"), str):
            raise Failed("internal", "the reply does not say which process runs")
        return Helper(reply["pid"], reply["container"])

    def signal(self, pid: int, name: str) -> None:
        """Send a signal, such as HUP. After TERM and KILL the process, its container and its name are gone."""
        self._ask({"op": "signal", "signal": name, "pid": pid})

    def stop(self, pid: int) -> None:
        """End it with TERM, then with KILL after the policy's grace period. Not an error if it is already gone."""
        try:
            self.signal(pid, "TERM")
        except NoSuchProcess:
            pass

    def find(self, pid: int) -> Optional[Helper]:
        """Return the service's side container whose main or reported child process has this pid, if it is alive."""
        try:
            reply = self._ask({"op": "signal", "signal": PROBE, "pid": pid})
        except NoSuchProcess:
            return None
        return Helper(int(reply["pid"]), str(reply["container"]))

    def is_running(self, pid: int) -> bool:
        """Return whether the service has a side container with that pid, and its program is alive."""
        return self.find(pid) is not None

    def _ask(self, body: Dict[str, Any]) -> Dict[str, Any]:
        try:
            reply = wrapper.ask(self._settings, body)
        except wrapper.Unavailable as error:
            raise Unavailable("unavailable", str(error)) from None
        return outcome(reply)


def outcome(reply: Dict[str, Any]) -> Dict[str, Any]:
    """Return the reply if the request was carried out; raise the matching ClientError if not."""
    if reply["status"] in ("running", "done"):
        return reply
    kind = NoSuchProcess if reply["reason"] == "no-such-process" else _ERRORS.get(reply["status"], Failed)
    raise kind(reply["reason"], reply["message"])
