"""Converters of finished conversations of other tools, so that their simulators can be compared."""
