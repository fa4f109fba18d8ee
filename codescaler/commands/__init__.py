"""The commands of `codescaler`, a module for each family; what they need is imported when one of them runs."""
