"""What runs inside the box: standard library only, since nothing else of the caller's is there."""
