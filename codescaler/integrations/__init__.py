"""The reward function that trainers call."""
