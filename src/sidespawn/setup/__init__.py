"""All that `sidespawn enable` sets up on a host, and what an agent's container is given."""
