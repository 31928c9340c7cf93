# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The command `sidespawn` of the managed host: its JSON, or a failure of the module in its words."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

SPECIFICATION = {"command": {"type": "path", "default": "sidespawn"}}


def ask(module: AnsibleModule, *arguments: str, codes: tuple[int, ...] = (0,), has: tuple[str, ...] = ()) -> Any:
    """Return what it prints, which must have these keys: versions before this collection's lack some."""
    program = module.get_bin_path(module.params["command"], required=True)
    code, out, err = module.run_command([program, *arguments, "--json"])
    told = parsed(out)
    if told is None:
        module.fail_json(msg=err.strip() or f"sidespawn {arguments[0]} printed no JSON", rc=code)
    if code not in codes:
        error = told.get("error", {}) if isinstance(told, dict) else {}
        message = ": ".join(filter(None, (error.get("message"), error.get("hint")))) or err.strip()
        module.fail_json(msg=message, reason=error.get("reason", ""), rc=code)
    if lacking := [key for key in has if key not in told]:
        module.fail_json(
            msg=f"sidespawn on this host is too old for this collection, upgrade it first: "
            f"`sidespawn {arguments[0]} --json` does not say {', '.join(lacking)}"
        )
    return told


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
