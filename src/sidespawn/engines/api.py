"""Calls an engine's API, as docker and podman have one: HTTP over a host socket, one connection per request."""

from __future__ import annotations

import json
from _socket import AF_UNIX, socket  # `socket` takes long to import
from contextlib import closing, suppress

from sidespawn.errors import LaunchError, Reason, quoted
from sidespawn.frozen import dataclass
from sidespawn.system.processes import SHOWN

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every run milliseconds
    from typing import Any

ANSWER_BYTES = 16 * 2**20
SAFE_IN_URL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


class Unanswered(LaunchError):
    """The connection ended before the whole answer arrived: the request may have been done, not done, or half done."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any  # parsed JSON, None if missing

    @property
    def message(self) -> str:
        said = self.body.get("message", "") if isinstance(self.body, dict) else ""
        return f"{self.status}: {quoted(str(said)[-SHOWN:], SHOWN)}"


@dataclass(frozen=True, kw_only=True)
class Api:
    engine: str  # for messages
    path: str  # of its socket
    prefix: str  # of each URL: the version
    unit: str  # the systemd unit, for hints

    def ask(self, method: str, path: str, body: str, timeout: float) -> Answer:
        """Send one request. Raises LaunchError if it is not answered, Unanswered if it may have had an effect.

        With HTTP 1.0, the answer ends with the connection and is not chunked.
        """
        content = body.encode()
        request = (
            f"{method} {self.prefix}{path} HTTP/1.0\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        answer = b""
        try:
            with closing(socket(AF_UNIX)) as connection:
                connection.settimeout(timeout)
                connection.connect(self.path)
                connection.sendall(request.encode() + content)
                while (part := connection.recv(65536)) and len(answer) < ANSWER_BYTES:
                    answer += part
            if len(answer) >= ANSWER_BYTES:
                message = f"{self.engine} answers {method} {path} with more than {ANSWER_BYTES} bytes"
                raise LaunchError(Reason.ENGINE_FAILED, message, f"see: {self.engine} ps --all --no-trunc")
            head, _, found = (text.strip() for text in answer.partition(b"\r\n\r\n"))
            return Answer(int(head.split()[1]), json.loads(found) if found else None)
        except TimeoutError:
            message = f"{self.engine} took more than {timeout:.0f} s: {method} {path}"
            hint = f"if {self.engine} ps hangs as well: systemctl restart {self.unit}"
            raise LaunchError(Reason.ENGINE_TIMEOUT, message, hint) from None
        except (ConnectionResetError, BrokenPipeError, ValueError, IndexError):
            message = f"{self.engine} ended before it answered {method} {path}"
            message = f"{self.engine}'s answer to {method} {path} cannot be read" if answer else message
            raise Unanswered(Reason.ENGINE_FAILED, message, f"see: journalctl --unit={self.unit}") from None
        except OSError as error:
            message = f"{self.engine} cannot be asked at {self.path}: {error.strerror}"
            # No one listens, for instance while systemd restarts the socket's unit.
            kind = Unanswered if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) else LaunchError
            raise kind(Reason.ENGINE_FAILED, message, f"see: systemctl status {self.unit}") from None

    def succeeded(self, what: str, answer: Answer) -> Answer:
        if not 200 <= answer.status < 300:
            raise self.error(what, answer)
        return answer

    def error(self, what: str, answer: Answer) -> LaunchError:
        return LaunchError(Reason.ENGINE_FAILED, f"{self.engine} {what} ended with {answer.message}")


def confirmed(pid: int, container: str) -> int:
    """Return the pid if that process is in the container's control group, else 0.

    What an engine says may be old: the process has ended, and another one has its pid.
    """
    with suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        if container in file.read():
            return pid
    return 0


def in_url(text: str) -> str:
    return "".join(each if each in SAFE_IN_URL else "".join(f"%{byte:02X}" for byte in each.encode()) for each in text)
