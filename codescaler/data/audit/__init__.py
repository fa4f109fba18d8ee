"""What a suite of tests is worth: what it rejects, what it lets pass, what it never reaches, and where it is wrong."""
