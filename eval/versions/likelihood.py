"""Perplexity ratio of people's turns under two versions of a User LM, on the same tokens, paired by conversation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eval.next_turn.metrics.values import ClusterSums, Values, difference
from eval.next_turn.prefixes import Prefix
from eval.versions.teacher_forced import PrefixScore
from usersim.errors import DataError
from usersim.stats.estimates import Estimate


def perplexity_ratio(
    prefixes: Sequence[Prefix], scores: Sequence[PrefixScore], before: Sequence[PrefixScore]
) -> Estimate:
    """Perplexity of people's turns under the new version divided by that under the previous; below 1 is better.

    Args:
        prefixes: Prefixes at which people wrote a turn or left. No tokens are scored where they left.
        scores: Scores of the new version at these prefixes.
        before: Scores of the previous version at these prefixes.

    Returns:
        exp of the paired difference in nats per token, with a cluster-robust 95 % interval; n counts people.

    Raises:
        DataError: The versions scored different tokens, because their tokenizers differ.
    """
    if [score.tokens for score in scores] != [score.tokens for score in before]:
        raise DataError("the two versions have different tokenizers; their perplexities cannot be compared")
    clusters = [prefix.cluster for prefix in prefixes]
    sums = [
        ClusterSums.of(
            Values(np.array([s.nats for s in side]), np.array([float(s.tokens) for s in side])), clusters
        )
        for side in (scores, before)
    ]
    log_ratio = difference(*sums)
    value, low, high = (math.exp(v) for v in (log_ratio.value, log_ratio.low, log_ratio.high))
    return Estimate(value=value, low=low, high=high, n=log_ratio.n)


def perplexity(prefixes: Sequence[Prefix], scores: Sequence[PrefixScore]) -> float:
    """Perplexity per scored token. People with many turns are down-weighted (see `ClusterSums`)."""
    values = Values(np.array([s.nats for s in scores]), np.array([float(s.tokens) for s in scores]))
    return math.exp(ClusterSums.of(values, [prefix.cluster for prefix in prefixes]).ratio)
