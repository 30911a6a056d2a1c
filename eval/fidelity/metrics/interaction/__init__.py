"""Metrics of how users respond to the assistant."""
