"""Verified programs to preferences."""
