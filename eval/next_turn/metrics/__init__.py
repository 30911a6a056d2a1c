"""Metrics of next turns."""
