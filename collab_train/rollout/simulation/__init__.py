"""Simulated futures of candidate replies."""
