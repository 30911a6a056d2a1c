"""Sandbox that runs code under tests."""
