"""Reward for coverage of the hidden goal."""

from __future__ import annotations

from collab_train.contexts import Context
from collab_train.rewards.registry import Episode, extrinsic
from usersim.errors import DataError
from usersim.text.facets import coverage


def _no_facets(context: Context) -> str | None:
    goal = context.profile.goal
    return None if goal and goal.facets else "a goal with facets (profile.goal.facets)"


@extrinsic("facet_coverage", lacks=_no_facets)
def facet_coverage(episode: Episode) -> float:
    """Share of the goal's facets, not yet served in the history, that the assistant serves in the window."""
    goal = episode.context.profile.goal
    if goal is None:
        raise DataError(f"context {episode.context.id}: no goal")
    return coverage(episode.window, episode.context.turns, goal.facets, episode.context.phrases)
