"""Measures of benchmark conversations, with intervals."""
