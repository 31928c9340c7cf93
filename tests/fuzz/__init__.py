"""Fuzzing of every reader of untrusted text. `python -m tests.fuzz`, which is `./dev fuzz`, runs it for long."""
