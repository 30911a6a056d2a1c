"""Sandbox that runs untrusted code against tests."""
