"""Multiturn-aware rewards by forward simulation, and the training of assistants with them.

from collab_train.rollout import RolloutConfig, multiturn_rewards
scored = await multiturn_rewards(contexts, user, assistant, RolloutConfig(w=2, n=3))
"""
