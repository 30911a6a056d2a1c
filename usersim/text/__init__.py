"""Measures of what people and assistants write: style, spelling, dialogue acts, facets, embeddings."""
