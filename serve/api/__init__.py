"""Routes, schemas and dialects of the HTTP API."""
