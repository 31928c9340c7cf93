"""The errors of a machine."""

from __future__ import annotations

from lab.places import PlaceError


class VmError(PlaceError):
    """A machine cannot be had; the message is for the person who asked for it."""


class CommandFailed(VmError):
    """A command in a machine ended with another exit code than 0."""


class TimedOut(VmError):
    """A command in a machine did not end in time."""
