"""Decides about requests. Pure: no files, no clock, no environment, no processes; standard library only."""
