"""Privileged helper processes for containers, started on the host by policy, without a socket."""

# The one place of the version: packages, manual pages and the release take it from here.
__version__ = "0.1.0"
