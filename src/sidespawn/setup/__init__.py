"""Sets up a host for `sidespawn enable`, and describes an agent's container."""
