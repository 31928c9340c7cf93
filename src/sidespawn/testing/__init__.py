"""Ground of this project's tests and demo, and what others may use to test against it."""
