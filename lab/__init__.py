"""Boots a disposable machine with a real systemd on a machine that has none as PID 1.

Used by `./dev` and CI only and never installed. A lab is a set of namespaces: its root is an overlay over the
machine's own, so every program installed here is there too, and whatever is written in it is gone with it.
"""
