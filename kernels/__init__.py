"""Triton kernels, installed as `codescaler.kernels`. None yet: the `triton` backend says so."""
