"""Training on stored pairs and conversations."""
