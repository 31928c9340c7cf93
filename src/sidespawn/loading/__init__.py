"""A policy made of TOML: read when a file of it has changed, never on a request."""
