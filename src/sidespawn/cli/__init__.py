"""The command line: one file for each verb. Only here is anything printed, and only `main` exits."""
