"""Checks of prepared conversations."""
