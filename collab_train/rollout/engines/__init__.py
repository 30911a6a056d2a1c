"""Models that play the two sides, and calls to them."""
