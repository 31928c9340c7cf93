"""Recipes for containers of agents: what `sidespawn agent-options` prints, and the files that it names."""
