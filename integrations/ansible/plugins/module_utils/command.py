# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""The command `sidespawn` of the managed host: its JSON, or a failure of the module in its words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

TOO_OLD = "sidespawn on this host is too old for this collection, upgrade it first"
OTHER = "sidespawn on this host and this collection do not fit together, use those of one release"
SPECIFICATION = {"command": {"type": "path", "default": "sidespawn"}}


def program_of(module: AnsibleModule) -> str | None:
    """Return the command's path, or None if it is not installed."""
    found: str | None = module.get_bin_path(module.params["command"])
    return found


def ask(
    module: AnsibleModule,
    *arguments: str,
    codes: tuple[int, ...] = (0,),
    has: tuple[str, ...] = (),
    data: str | None = None,
    too_old: Callable[..., None] | None = None,
) -> Any:
    """Return what it prints, which must have these keys: versions before this collection's lack some.

    `data` is its standard input. `too_old` ends the module in place of fail_json if the version lacks something.
    """
    refuse = too_old or module.fail_json
    program = program_of(module)
    if program is None:
        module.fail_json(msg=f"sidespawn is not installed on this host: there is no {module.params['command']}")
    # Text gets a line end at its end otherwise.
    code, out, err = module.run_command([program, *arguments, "--json"], data=data, binary_data=True)
    told = parsed(out)
    if code not in codes and (unknown := re.search("(?i)no such option: *(--[a-z-]+)", err)):
        refuse(msg=f"{TOO_OLD}: `sidespawn {arguments[0]}` has no {unknown[1]}", rc=code)
    if code not in codes and re.search("(?i)no such command", err):
        refuse(msg=f"{TOO_OLD}: it has no `sidespawn {arguments[0]}`", rc=code)
    if told is None:
        module.fail_json(msg=err.strip() or f"sidespawn {arguments[0]} printed no JSON", rc=code)
    if code not in codes:
        error = told.get("error", {}) if isinstance(told, dict) else {}
        message = ": ".join(filter(None, (error.get("message"), error.get("hint")))) or err.strip()
        module.fail_json(msg=message, reason=error.get("reason", ""), rc=code)
    if has and not isinstance(told, dict):
        module.fail_json(msg=f"{OTHER}: `sidespawn {arguments[0]} --json` prints no object")
    if lacking := [key for key in has if key not in told]:
        refuse(msg=f"{TOO_OLD}: `sidespawn {arguments[0]} --json` does not say {', '.join(lacking)}")
    return told


def ask_rows(module: AnsibleModule, *arguments: str, has: tuple[str, ...], codes: tuple[int, ...] = (0,)) -> list[Any]:
    """Return the list that it prints, whose rows must have these keys."""
    told = ask(module, *arguments, codes=codes)
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        module.fail_json(msg=f"{OTHER}: `sidespawn {arguments[0]} --json` prints no list")
    lacking = [key for key in has if any(key not in each for each in told)]
    if lacking:
        module.fail_json(msg=f"{TOO_OLD}: `sidespawn {arguments[0]} --json` does not say {', '.join(lacking)}")
    rows: list[Any] = told
    return rows


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
