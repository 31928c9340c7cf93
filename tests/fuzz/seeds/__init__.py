"""Seeds: for each target a folder of files that it gets unchanged. A `finding-*` once broke a promise."""
