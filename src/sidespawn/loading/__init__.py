"""Loads a policy from TOML, when one of its files has changed, never on a request."""
