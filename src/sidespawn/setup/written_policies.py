"""Marks the policies that `sidespawn enable` writes, so that a change by hand is noticed."""

from __future__ import annotations

import hashlib

MARK = "# Written by `sidespawn enable`; `sidespawn disable` removes it unless it was changed. "


def marked(body: str) -> str:
    return f"{MARK}{digest(body)}\n{body}"


def is_ours(text: str) -> bool:
    """Return whether a policy is still as `enable` wrote it."""
    first, _, body = text.partition("\n")
    return first == MARK + digest(body)


def digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
