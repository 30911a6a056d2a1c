"""Reward for a clarifying question where the context is ambiguous, and for none where it is clear."""

from __future__ import annotations

from collab_train.rewards.registry import Episode, extrinsic
from usersim.text.reply_acts import questions


@extrinsic(
    "clarifies",
    lacks=lambda context: None if "ambiguous" in context.metadata else "metadata.ambiguous (yes or no)",
)
def clarifies(episode: Episode) -> float:
    """1 if the candidate asks a question where `metadata.ambiguous` is yes, or asks none where it is no; else 0.

    Offers of help ("anything else?") do not count as questions.
    """
    asks = bool(questions(episode.replies[0]))
    return float(asks == (episode.context.metadata["ambiguous"] == "yes"))
