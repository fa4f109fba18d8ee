"""int8 and fp8: which linear layers may have them, and how their weights are made."""
