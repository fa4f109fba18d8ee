"""int8: which linear layers may have it, and how their weights are made."""
