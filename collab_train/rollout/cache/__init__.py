"""Journals and cache keys of futures."""
