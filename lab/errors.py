"""What a lab can fail with."""

from __future__ import annotations


class LabError(Exception):
    """A lab cannot be had; the message is for the person who asked for it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)
