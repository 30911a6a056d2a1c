"""Report of a benchmark."""
