"""Metrics of when users leave."""
