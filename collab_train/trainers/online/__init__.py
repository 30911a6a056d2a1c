"""Online training on rewards of newly sampled replies."""
