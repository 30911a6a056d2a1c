"""The datasheet page and the profiles of splits."""
