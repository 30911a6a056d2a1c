"""Personas and styles of people."""
