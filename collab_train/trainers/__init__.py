"""Trainers of assistants."""
