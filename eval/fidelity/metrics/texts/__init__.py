"""Metrics of what users write."""
