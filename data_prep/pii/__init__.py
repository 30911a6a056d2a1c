"""Personal data: candidates, recognisers and rules."""
