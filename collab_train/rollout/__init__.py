"""Multiturn-aware rewards by forward simulation."""
