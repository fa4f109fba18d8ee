"""Records, files that resume, JSON and tables."""
