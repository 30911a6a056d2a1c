"""Results, token costs and progress of rollouts."""
