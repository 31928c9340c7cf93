"""How readiness of a side container's program is detected in files that others can make arbitrarily long."""

from __future__ import annotations

import os
import socket
import tracemalloc
from contextlib import ExitStack

from sidespawn.host.readiness import is_listening
from tests.attacks.catalogue import attack


@attack(218)
def test_a_long_table_of_sockets_is_not_held_in_memory() -> None:
    with ExitStack() as stack:
        for _ in range(800):
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("127.0.0.1", 0))
        tracemalloc.start()
        try:
            assert not is_listening(os.getpid(), "udp:1")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 64 * 1024


def test_a_bound_socket_is_found_by_its_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert is_listening(os.getpid(), f"udp:{port}")
        assert not is_listening(os.getpid(), f"tcp:{port}")
