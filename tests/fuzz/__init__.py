"""Fuzzing of every reader of untrusted text. `python -m tests.fuzz`, also `./dev fuzz`, is for long runs."""
