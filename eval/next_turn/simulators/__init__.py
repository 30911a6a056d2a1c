"""Simulators whose next turns are evaluated."""
