"""The GPU kit: what proves and measures everything on a card, in one command and two calls of seven minutes."""
