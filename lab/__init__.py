"""Boots a disposable machine with a real systemd on a machine that has none as PID 1.

Used by `./dev` and CI only, never installed. A lab is a set of namespaces whose root is an overlay
over the machine's: every program installed on the machine is there too, and what is written in the
lab is gone with it.
"""
