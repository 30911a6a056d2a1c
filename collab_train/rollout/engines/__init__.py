"""Models of user and assistant, and calls to them."""
