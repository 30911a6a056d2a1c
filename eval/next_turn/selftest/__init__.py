"""Self-test of the next-turn metrics on planted users."""
