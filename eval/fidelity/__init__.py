"""Fidelity of simulated conversations, beside a human baseline."""
