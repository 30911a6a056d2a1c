"""Multiturn-aware rewards by forward simulation, and the training of assistants with them.

from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
scored = await multiturn_rewards(contexts, user, assistant, RolloutConfig(w=2, n=3))
"""

import usersim  # noqa: F401 - installs the import hook for renamed modules
