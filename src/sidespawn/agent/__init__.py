"""What runs in the agent's container."""
