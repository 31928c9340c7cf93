"""Real machines for tests: Debian's own kernel, systemd and security module, booted in QEMU.

Used by `./dev` and CI only, never installed. Where a lab shares the kernel of the development machine, a machine has
one itself, with AppArmor or SELinux enforcing, and it can be rebooted or lose its power. Everything in it comes from
the machine's Debian sources and Python's package index, once; booted, it reaches no network.
"""
