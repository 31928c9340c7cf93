# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Changing files in a deployer's tree: shown as a diff, each written in one step, and all or none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def finish(module: AnsibleModule, tree: str, before: dict[str, str], after: dict[str, str]) -> None:
    """Write what differs, unless in check mode, and end the module. The texts are by name, below the tree."""
    changed = [name for name in before if before[name] != after[name]]
    if not module.check_mode:
        for name in changed:
            write(module, os.path.join(tree, name), after[name])
    module.exit_json(
        changed=bool(changed),
        files=changed,
        diff=[
            {"before": before[name], "after": after[name], "before_header": name, "after_header": name}
            for name in changed
        ],
    )


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Write atomically: a run of the deployer may read the file at the same time. Owner, mode and line ends stay."""
    draft = os.path.join(module.tmpdir, os.path.basename(path))
    with open(draft, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    module.atomic_move(draft, path)
