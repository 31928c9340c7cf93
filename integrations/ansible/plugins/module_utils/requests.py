# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Evidence that an agent works with sidespawn: its requests since its start, by the records of its services."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

# Of requests that were carried out. `answered` is also written of signals to processes that are gone, with a reason.
COMPLETED = ("started", "answered", "signalled", "stopped")


class Requests:
    """The completed requests since the agent's start.

    `records` are of the journal, of the kinds in COMPLETED, oldest first. `namespaces` has the namespace of each
    instance: records of signals do not name it. `started` and all other times are in seconds since 1970.
    """

    def __init__(self, records: Iterable[dict[str, Any]], namespaces: dict[str, str], started: float) -> None:
        self.places: set[tuple[str, str]] = set()  # service and namespace
        self.latest = started  # when something was asked for that had not been asked for since the start
        seen = set()
        for each in records:
            moment, instance = int(each["__REALTIME_TIMESTAMP"]) / 1e6, str(each.get("SIDESPAWN_INSTANCE", ""))
            if moment < started or not each.get("SIDESPAWN_REQUEST") or each.get("SIDESPAWN_REASON"):
                continue
            service = str(each["SIDESPAWN_SERVICE"])
            if (service, instance) not in seen:
                seen.add((service, instance))
                self.latest = max(self.latest, moment)
            self.places.add((service, str(each.get("SIDESPAWN_NETNS") or namespaces.get(instance, ""))))

    def lacking(self, wanted: Iterable[tuple[str, str]], serves: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """Return the programs and namespaces, of those, that no service was asked for."""
        by_program: dict[str, set[str]] = {}
        for each in serves:
            by_program.setdefault(str(each["program"]), set()).add(str(each["service"]))
        return [
            (program, netns)
            for program, netns in sorted(wanted)
            if not any((service, netns) in self.places for service in by_program.get(program, ()))
        ]


def unix_time(text: str) -> float:
    """Return the seconds since 1970 of a time as podman writes it, such as 2026-12-01T04:33:06.123456789+01:00."""
    found = re.fullmatch(r"([0-9-]+)[T ]([0-9:]+)(\.[0-9]+)? ?(Z|[+-][0-9]{2}:?[0-9]{2})(?: .*)?", text)
    if found is None:
        raise ValueError(f"not a time: {text!r}")
    zone = "+0000" if found[4] == "Z" else found[4].replace(":", "")
    whole = datetime.strptime(f"{found[1]} {found[2]} {zone}", "%Y-%m-%d %H:%M:%S %z")
    return whole.timestamp() + float(found[3] or 0)
