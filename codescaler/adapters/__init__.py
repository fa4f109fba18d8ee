"""Ways into other people's trainers; each module names the framework it serves and imports nothing of it."""
