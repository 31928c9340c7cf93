"""The table in docs/neutron.md: what each Neutron release calls with each documented option, judged by the presets.

SIDESPAWN_WRITE_TABLE=1 writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from sidespawn import presets
from sidespawn.core.decide import beneath, decide
from sidespawn.errors import Denied
from tests.data.releases import MATRIX_CALLS, MatrixCall
from tests.tables import Row, Table
from tests.unit.shipped import policy_of
from tests.unit.small import start_request

RELEASES = sorted({release for call in MATRIX_CALLS for release in call.releases})
TABLE = Table(Path(__file__).parents[2] / "docs" / "neutron.md", ("helper", "option", *RELEASES, "what it takes"))
KOLLA = '[parameters]\nstate = "/var/lib/neutron/kolla"\n'
# Lines that a service's own policy needs for a call, by helper and option.
SETTINGS = {(call.helper, call.option): KOLLA for call in MATRIX_CALLS if call.option == "state_path"}
del SETTINGS["neutron-dhcp-dnsmasq", "state_path"]  # where the preset allows two levels below the state
SETTINGS["neutron-ovs-metadata-haproxy", "host_proxy_listen_port"] = "[parameters]\nport = 8080\n"
# Deliberate refusals, by option.
REFUSED = {"ha_vrrp_health_check_interval": "keepalived would run a script that the agent writes"}


def verdict(call: MatrixCall, settings: str) -> str:
    """Return `allowed`, or the refusal in words."""
    policy = policy_of(f'extends = "{call.helper}"\n{settings}')
    files = {beneath(policy, path): text.encode() for path, text in call.files.items()}
    try:
        decide(policy, start_request(call.argv, call.netns, dict(sorted(call.env.items()))), files.get)
    except Denied as denied:
        return f"refused: {denied.message}"
    return "allowed"


def rows() -> Iterator[Row]:
    """Return the rows. Options of one helper with the same verdicts share a row."""
    judged: dict[tuple[str, str], dict[str, str]] = {}
    for call in MATRIX_CALLS:
        settings = SETTINGS.get((call.helper, call.option), "")
        cells = judged.setdefault((call.helper, call.option), dict.fromkeys(RELEASES, "-"))
        cells |= dict.fromkeys(call.releases, verdict(call, settings).partition(":")[0])
    alike = sorted(
        ((helper, *cells.values(), note(helper, option)), option) for (helper, option), cells in judged.items()
    )
    for (helper, *cells, takes), options in groupby(alike, lambda each: each[0]):
        names = "; ".join(re.sub(r"\w+_\w+", r"`\g<0>`", option) for _, option in options)
        yield (f"`{helper}`", names, *cells, takes)


def note(helper: str, option: str) -> str:
    lines = SETTINGS.get((helper, option), "").removeprefix("[parameters]\n").strip()
    return f"`{lines}`" if lines else REFUSED.get(option, "")


@pytest.mark.parametrize("call", MATRIX_CALLS, ids=lambda call: f"{call.helper}, {call.option} of {call.releases[0]}")
def test_a_call_is_allowed_or_refused_for_a_reason_that_the_table_gives(call: MatrixCall) -> None:
    settings = SETTINGS.get((call.helper, call.option), "")
    assert (verdict(call, settings) == "allowed") is (call.option not in REFUSED), verdict(call, settings)
    if settings:
        assert verdict(call, "") != "allowed", "the table asks for more than is needed"


def test_the_table_says_what_is_judged() -> None:
    written = list(rows())
    if os.environ.get("SIDESPAWN_WRITE_TABLE"):
        TABLE.write(written)
    assert TABLE.rows() == written


def test_every_preset_and_five_releases_are_there() -> None:
    assert len(RELEASES) >= 5
    assert {call.helper for call in MATRIX_CALLS} == set(presets.names())
    for release in RELEASES:
        helpers = {call.helper for call in MATRIX_CALLS if release in call.releases}
        assert {"neutron-dhcp-dnsmasq", "neutron-l3-keepalived-state-change", "neutron-l3-radvd"} <= helpers
