"""Seeds of each target: a folder of files that are fed to it as they are. `finding-*` once broke a promise."""
