"""A run of the service outlives what goes wrong around its requests."""

from __future__ import annotations

import socket
from pathlib import Path

from sidespawn.errors import PolicyError
from sidespawn.host.journal import Journal
from sidespawn.host.places import Places
from sidespawn.host.sync import Sync


def print_rubbish() -> None:
    raise ValueError("no JSON")


def test_tidying_up_that_fails_is_told_and_does_not_end_a_run(tmp_path: Path) -> None:
    """Such as an engine that prints rubbish: the run goes on, and so does the lane that tidied up."""
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        places = Places("small", run=tmp_path, policies=tmp_path)
        sync = Sync(places, Journal("small", path), PolicyError("no policy"), None)
        sync.attempt(print_rubbish)
        record = journal.recv(65536)
    assert b"tidying up has to wait" in record
    assert b"SIDESPAWN_REASON\n\x08\0\0\0\0\0\0\0internal\n" in record
