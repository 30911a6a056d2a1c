"""How far simulated users are from real ones: every figure with an interval, an n and the human floor."""

import usersim  # noqa: F401 - installs the import hook for renamed modules
