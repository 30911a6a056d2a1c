"""Samples of conversations: features, matching of the two sides, preparation."""
