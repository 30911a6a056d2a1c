"""Metrics as modules of Hugging Face `evaluate`."""
