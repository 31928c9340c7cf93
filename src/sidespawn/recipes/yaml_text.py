"""Writes plain data as YAML for people to paste into a file of theirs: mappings, lists of mappings, lists of words."""

from __future__ import annotations

import json
import re
from typing import Any

# What YAML 1.1 and 1.2 read as text without quotes. A JSON string is a quoted YAML string.
PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[a-z/][a-z0-9/_.-]*", re.IGNORECASE)


def lines(value: dict[str, Any] | list[dict[str, Any]]) -> list[str]:
    if isinstance(value, dict):
        return [line for key, each in value.items() for line in entry(key, each)]
    found = []
    for each in value:
        first, *rest = lines(each)
        found += [f"- {first}", *(f"  {line}" for line in rest)]
    return found


def entry(key: str, value: Any) -> list[str]:
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        return [f"{key}:", *(f"  {line}" for line in lines(value))]
    if isinstance(value, list):
        return [f"{key}: [{', '.join(map(scalar, value))}]"]
    return [f"{key}: {scalar(value)}"]


def scalar(value: str | int) -> str:
    return value if isinstance(value, str) and PLAIN.fullmatch(value) else json.dumps(value)
