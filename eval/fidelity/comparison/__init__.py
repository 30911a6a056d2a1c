"""Comparison of two simulators."""
