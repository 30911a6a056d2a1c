"""Decoding of an in-process model in batches."""
