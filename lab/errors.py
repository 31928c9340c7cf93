"""The errors of a lab."""

from __future__ import annotations

from lab.places import PlaceError


class LabError(PlaceError):
    """A lab cannot be had; the message is for the person who asked for it."""
