"""Metrics of published papers."""
