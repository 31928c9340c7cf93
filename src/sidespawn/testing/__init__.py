"""The basis of this project's tests and demo, which others may also use for tests."""
