"""Real machines for tests: Debian's own kernel, systemd and security module, booted in QEMU.

Used by `./dev` and CI only, never installed. A lab shares the kernel of the development machine; a machine has its own,
with AppArmor or SELinux enforcing, and can be rebooted or lose its power. Everything in it comes from the development
machine's Debian sources and Python's package index, once. While it runs, it has no network.
"""
