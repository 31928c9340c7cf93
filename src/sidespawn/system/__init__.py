"""Kernel, files, processes and namespaces, in forms that are safe for root to use."""
