"""The parts that run in the agent's container."""
