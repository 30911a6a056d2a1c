"""Self-test: the faults that each metric family detects, planted in one's own conversations."""
