"""Rewards: R(conversation | goal) = extrinsic + intrinsic, over the window of a candidate reply.

The window is the candidate and all turns after it. An extrinsic reward is registered by name:

    @extrinsic("short")
    def short(episode: Episode) -> float: ...

    @extrinsic("kind", needs="judge")
    async def kind(episode: Episode, tools: Tools) -> float: ...

docs/tasks.md lists the rewards.
"""

from collab_train.rewards import clarify, code, engagement, facets, judges, maths, texts
from collab_train.rewards.registry import (
    EXTRINSIC,
    Episode,
    Extrinsic,
    RewardError,
    Tools,
    blocking,
    check,
    extrinsic,
)
from collab_train.rewards.scoring import (
    RewardConfig,
    Scored,
    count_tokens,
    intrinsic,
    open_tools,
    reward,
    score,
)

__all__ = [
    "EXTRINSIC",
    "Episode",
    "Extrinsic",
    "RewardConfig",
    "RewardError",
    "Scored",
    "Tools",
    "blocking",
    "check",
    "clarify",
    "code",
    "count_tokens",
    "engagement",
    "extrinsic",
    "facets",
    "intrinsic",
    "judges",
    "maths",
    "open_tools",
    "reward",
    "score",
    "texts",
]
