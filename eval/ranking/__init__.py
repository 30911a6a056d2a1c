"""Outcome validity: agreement of assistant rankings under simulated users with rankings by people."""
