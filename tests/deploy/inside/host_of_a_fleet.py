"""A host with an old agent, ten networks, and a client in each that renews all the time: what runs in a lab of its own.

    python -m tests.deploy.inside.host_of_a_fleet DIRECTORY

It answers the lines that it reads, each a verb, with lines of JSON, and leaves everything to the end of its lab.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidespawn.testing.images import NEUTRON_AGENT, ensure_images
from sidespawn.testing.network import Renewals
from tests.deploy.conftest import CHECKOUT
from tests.deploy.hosts import IMAGE, Host
from tests.lab.conftest import new_service
from tests.lab.networks import command

NETWORKS = int(os.environ.get("SIDESPAWN_NETWORKS", "10"))


class FleetHost:
    def __init__(self, directory: Path) -> None:
        command("systemctl", "start", "podman.socket")
        ensure_images(CHECKOUT / ".cache/images", (NEUTRON_AGENT,))
        command("podman", "tag", NEUTRON_AGENT.name, IMAGE)
        directory.mkdir()
        self.host = Host(new_service(), directory / "record", directory, NEUTRON_AGENT.name)
        for _ in range(NETWORKS):
            self.host.plug(self.host.add_network())
        self.host.start()
        self.renewals = []
        for each in self.host.lans:
            lease = each.clients[0].ask()
            assert lease is not None
            self.renewals.append(Renewals(each.clients[0], lease, pause=0.25, patience=0.5))
        self.since = time.monotonic()

    def variables(self) -> dict[str, Any]:
        """Of both roles."""
        return self.host.role("migrate")[1] | self.host.role("rollback")[1]

    def end(self) -> dict[str, Any]:
        """What a migration has made of it, in words that do not differ from host to host."""
        state = self.state()
        made, former = state.pop("agent"), self.host.inspect(f"{self.host.agent}-before-sidespawn")
        text = json.dumps(
            state
            | {
                "created by": made["Config"]["CreateCommand"],
                "status": self.host.inspect()["State"]["Status"],
                "mounts": sorted(each["Destination"] for each in made["Mounts"]),
                "former": [former["State"]["Status"], former["Config"]["CreateCommand"]],
            }
        )
        for number, each in enumerate(sorted(self.host.networks, key=lambda each: each.netns)):
            text = text.replace(each.netns, f"network {number}")
        found: dict[str, Any] = json.loads(text.replace(self.host.service.name, "the service"))
        return found

    def state(self) -> dict[str, Any]:
        return {
            "agent": self.host.settings(),
            "containers": sorted(command("podman", "ps", "--all", "--format={{.Names}}").stdout.split()),
            "own helpers": len(self.host.own_helpers()),
            "former helpers": len(self.host.old_helpers()),
            "policy": self.host.service.places.policy.exists(),
            "record": self.host.record.exists(),
        }

    def spoil(self) -> None:
        """Let the agent give an option that the policy refuses."""
        network = self.host.networks[1]
        (network.home / "options").write_text(json.dumps([*network.options(), "--no-ping"]))

    def mend(self) -> None:
        network = self.host.networks[1]
        (network.home / "options").write_text(json.dumps(network.options()))

    def waits(self) -> list[dict[str, Any]]:
        """Of each client since the last time: answers, requests that got none, and the longest time between answers."""
        now, since, found = time.monotonic(), self.since, []
        self.since = now
        for each in self.renewals:
            done = [one for one in each.done if one.asked >= since]
            answered = [one.asked for one in done if one.address is not None]
            longest = max(b - a for a, b in zip([since, *answered], [*answered, now], strict=True))
            addresses = sorted({one.address for one in done if one.address is not None})
            found.append(
                {
                    "answered": len(answered),
                    "lost": len(done) - len(answered),
                    "longest": longest,
                    "addresses": addresses,
                }
            )
        return found


def main() -> None:
    host = FleetHost(Path(sys.argv[1]))
    verbs: tuple[Callable[[], Any], ...] = (host.variables, host.state, host.end, host.waits, host.spoil, host.mend)
    answers = {each.__name__: each for each in verbs}
    print(json.dumps(None), flush=True)
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


if __name__ == "__main__":
    main()
