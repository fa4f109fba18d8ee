"""Scores programs with a reward model, without running them."""
