"""What makes pages, tables and environments."""
