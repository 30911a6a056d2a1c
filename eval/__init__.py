"""Fidelity of simulated users: every metric with an interval, an n and the human baseline."""

import usersim  # noqa: F401 - installs the import hook for renamed modules
