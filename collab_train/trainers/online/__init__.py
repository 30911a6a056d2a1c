"""Training on rewards of fresh replies."""
