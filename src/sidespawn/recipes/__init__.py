"""Recipes for agents' containers: the output of `sidespawn agent-options`, and the files that it names."""
