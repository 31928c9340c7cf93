"""What is decided. Pure: no files, no clock, no environment, no processes; standard library only."""
