"""What this project's tests and demo stand on, and what others may use to test against it."""
