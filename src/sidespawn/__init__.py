"""Privileged helper processes for containers, started on the host by policy, without a socket."""

__version__ = "0.1.0"
