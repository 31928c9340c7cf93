"""Helps to write policies: values to patterns, example calls, test cases."""
