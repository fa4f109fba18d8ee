"""Measurements of speed and parity. Not installed: run from the root of the repository."""
