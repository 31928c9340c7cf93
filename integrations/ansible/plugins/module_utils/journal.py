# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The records of services in the journal, and gaps in it."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Every user of the host can write records with sidespawn's fields, but not with root's _UID.
BY_ROOT = "_UID=0"
BOOT = "/proc/sys/kernel/random/boot_id"
PERSISTENT = "/var/log/journal"


def journal(module: AnsibleModule, *arguments: str) -> list[dict[str, Any]]:
    """Return the records, oldest first."""
    program = module.get_bin_path("journalctl", required=True)
    code, out, err = module.run_command([program, "--quiet", "--all", "--output=json", *arguments])
    if code != 0 and (err.strip() or out.strip()):  # without any journal, some versions only exit with 1
        module.fail_json(msg=f"journalctl: {err.strip()}")
    return [json.loads(line) for line in out.splitlines()]


def events(module: AnsibleModule, services: list[str], since: int, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the services' records of these kinds since then, a time in seconds."""
    if not services:
        return []
    matches = [f"SIDESPAWN_SERVICE={each}" for each in services] + [f"SIDESPAWN_EVENT={each}" for each in kinds]
    return journal(module, f"--since=@{since}", BY_ROOT, *matches)


def gap(module: AnsibleModule, since: int, boot: str, now: float) -> str:
    """Return why the journal may lack records since then; empty if it has them all.

    `boot` is the id of the boot in which that time was, if it is known. Journald removes the oldest records first, so
    a record from before that time shows that the later ones of that boot are there as well.
    """
    if since > now + 1:
        return "the recorded time is in the future: the clock was set back since"
    # Without --reverse, --lines counts from the newest record of all in systemd 252, and --until then leaves none.
    of_boot = [f"_BOOT_ID={plain(boot)}"] if boot else []
    older = journal(module, "--reverse", "--lines=1", f"--until=@{since}", BY_ROOT, *of_boot)
    if not older:
        return "the journal does not reach back to the recorded time: it was rotated, or lost in a reboot"
    current = read(BOOT)
    if not boot or plain(boot) == plain(current):
        return ""
    # What earlier boots wrote without a persistent journal is gone without a trace.
    if not os.path.isdir(PERSISTENT) or not journal(
        module, f"--directory={PERSISTENT}", "--reverse", "--lines=1", BY_ROOT, f"_BOOT_ID={plain(current)}"
    ):
        return "the host was rebooted since, and its journal is volatile"
    return ""


def plain(boot: str) -> str:
    return boot.strip().replace("-", "")


def read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
