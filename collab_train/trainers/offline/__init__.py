"""Offline training on stored pairs and conversations."""
