"""Sets up the benchmarks: a service for each engine, and networks for all of them; everything is removed at the end."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.older import Nsenter, Tripleo
from benchmarks.processes import MESSAGES
from benchmarks.ways import ENGINES, PIN, Bare, Earlier, Older, Row, Sidespawn, Way
from tests.lab.before import unpack
from tests.lab.networks import SIDESPAWN, Network, Service, command

Networks = Callable[[int], Sequence[Network]]


@contextmanager
def stage(
    rows: Sequence[Row], linger: int, *, older: bool, beside: Sequence[str] = ()
) -> Iterator[tuple[list[Way], Networks]]:
    """Yield the ways to compare, and the maker of their networks. `beside` are earlier commits."""
    name = f"bench-{uuid.uuid4().hex[:6]}"
    state = Path("/var/lib") / f"sidespawn-{name}"  # where only root can write, as a host's is
    ways: list[Way] = []
    with ExitStack() as stack:
        state.mkdir()
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        PIN.mkdir(exist_ok=True)
        stack.callback(shutil.rmtree, PIN, ignore_errors=True)
        stack.callback(MESSAGES.unlink, missing_ok=True)
        networks: list[Network] = []
        stack.callback(remove_networks, networks)
        for number, each in enumerate(beside):
            label, _, commit = each.rpartition("=")
            unpacked = unpack(Path(stack.enter_context(TemporaryDirectory(prefix="sidespawn-bench-"))), commit)
            service = Service(name=f"{name}-before-{number}", state=state)
            earlier = Earlier(ENGINES[0], service, linger, unpacked, label or commit)
            stack.callback(earlier.remove_units)
            stack.callback(command, *SIDESPAWN, "disable", "--purge", service.name, check=False)
            earlier.enable()
            ways.append(earlier)
        for row in rows:
            stack.enter_context(row.context())
            service = Service(name=f"{name}-{row.name}", state=state)
            ours = Sidespawn(row, service, linger)
            stack.callback(command, *SIDESPAWN, "disable", "--purge", service.name, check=False)
            ours.enable()
            ways += [ours, Bare(row, service)]
        for pattern in (Tripleo(), Nsenter()) if older else ():
            stack.callback(pattern.remove)
            pattern.make()
            ways.append(Older(pattern))
        home = Service(name=name, state=state)  # never enabled: the networks are of all ways

        def first(size: int) -> Sequence[Network]:
            """Return that many networks, created on first use: each is a mount, which slows later mounts down."""
            networks.extend(home.network() for _ in range(size - len(networks)))
            return networks[:size]

        yield ways, first


def remove_networks(networks: Sequence[Network]) -> None:
    for network in networks:
        command("ip", "netns", "del", network.netns, check=False)
