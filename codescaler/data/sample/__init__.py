"""Completions of language models."""
