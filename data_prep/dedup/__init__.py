"""Duplicates and near-duplicates."""
