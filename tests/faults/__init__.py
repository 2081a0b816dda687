"""Faults through the real processes: what is killed, stopped, refused or lost, and the equation after it."""
