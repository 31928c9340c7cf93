"""Measures how fast sidespawn is, compared with the ways to do without it: `./dev bench`.

A *way* starts one program in a network namespace: sidespawn with some engine, that engine's own command, or one of the
two older patterns.  A *part* is one question, such as a burst of 200.  Each round of a part measures all ways, in its
own order, so that other load on the machine affects all of them.  A figure is the median of the rounds' ratios.
docs/benchmarks.md explains the parts and shows figures.
"""
