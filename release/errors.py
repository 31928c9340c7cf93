"""Errors that say why nothing was built."""

from __future__ import annotations


class BuildError(Exception):
    """The message is for the person who asked."""
