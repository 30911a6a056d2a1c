"""Clients of the User LM endpoint."""
