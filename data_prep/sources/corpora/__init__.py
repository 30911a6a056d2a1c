"""Public corpora, one module each."""
