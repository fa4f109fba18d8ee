"""Verified preference data: completions are sampled, run against tests, and paired by what was measured."""
