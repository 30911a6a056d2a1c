"""The two passes of data preparation."""
