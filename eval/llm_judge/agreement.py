"""Agreement of a judge with people, and rates corrected for the judge's errors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.llm_judge.questions import LABELS
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, cluster_resamples, interval, rng_for
from usersim.storage.records import read_jsonl
from usersim.types import Record

REPEATS = 1000
LEAST_YOUDEN = 0.1
"""Sensitivity + specificity - 1 below which a judge is too uninformative for a correction."""
MAX_UNDEFINED = 0.05
"""Share of resamples without a value above which there is no interval."""


class Label(Record):
    item: str
    label: str
    rater: str = ""


class LabelAgreement(Record):
    """Agreement of two labellers on the same items."""

    task: str
    between: str
    n: int
    observed: float
    """Share of items with the same label."""
    kappa: Estimate | None
    """Cohen 1960; of ordered scores, with quadratic weights (Cohen 1968). None where there is only one label, so
    that chance agreement is 1."""
    confusion: dict[str, dict[str, int]]
    """Items by the first labeller's label, then by the second's."""


def read_labels(path: Path) -> list[Label]:
    """Reads JSON Lines of {item, label, rater?}. Numbers are read as text; rows without a label are skipped."""
    labels = []
    for number, value in read_jsonl(path):
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: needs {{item, label, rater?}}")
        fields = {key: str(value.get(key) or "") for key in ("item", "label", "rater")}
        if not fields["label"]:
            continue
        task = fields["item"].partition(":")[0]
        if task not in LABELS:
            raise DataError(f"{path}:{number}: item {fields['item']!r} is none of --export")
        if fields["label"] not in LABELS[task]:
            raise DataError(
                f"{path}:{number}: label {fields['label']!r} is none of {', '.join(LABELS[task])}"
            )
        labels.append(Label.model_validate(fields))
    if not labels:
        raise DataError(f"{path}: no labels in it; fill in `label` of the lines written by --export")
    return labels


def consensus(labels: Sequence[Label]) -> dict[str, str]:
    """Returns the most frequent label of each item; items with a tie are left out."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        votes[label.item][label.label] += 1
    majority = {}
    for item, counts in votes.items():
        (top_label, top_votes), *runners_up = counts.most_common(2)
        if not runners_up or runners_up[0][1] < top_votes:
            majority[item] = top_label
    return majority


def between_raters(labels: Sequence[Label]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the labels of the two raters who share most items."""
    by_rater: dict[str, dict[str, str]] = defaultdict(dict)
    for label in labels:
        by_rater[label.rater][label.item] = label.label
    rater_pairs = [(a, b) for a in by_rater for b in by_rater if a < b]
    if not rater_pairs:
        return {}, {}
    first, second = max(rater_pairs, key=lambda c: len(by_rater[c[0]].keys() & by_rater[c[1]].keys()))
    return by_rater[first], by_rater[second]


def agreement(
    task: str,
    between: str,
    first: Mapping[str, str],
    second: Mapping[str, str],
    clusters: Mapping[str, str],
    *,
    seed: int,
) -> LabelAgreement | None:
    """Returns the agreement on the items that both labelled; None where there is none. κ's interval resamples
    clusters of items."""
    items = sorted(first.keys() & second.keys())
    if not items:
        return None
    names = sorted({first[i] for i in items} | {second[i] for i in items})
    cells = np.array([names.index(first[i]) * len(names) + names.index(second[i]) for i in items])
    counts_BN = cluster_resamples(
        [clusters.get(i, i) for i in items], REPEATS, rng_for(seed, f"{task} {between}")
    )
    one_hot = np.eye(len(names) ** 2)[cells]
    weights = _weights(names)
    kappa = _kappa(one_hot.sum(0)[None], weights)[0]
    table = one_hot.sum(0).reshape(len(names), len(names))
    return LabelAgreement(
        task=task,
        between=between,
        n=len(items),
        observed=float(np.trace(table) / len(items)),
        kappa=_estimate(float(kappa), _kappa(counts_BN @ one_hot, weights), len(items)),
        confusion={
            a: {b: int(table[i, j]) for j, b in enumerate(names) if table[i, j]} for i, a in enumerate(names)
        },
    )


def _weights(names: Sequence[str]) -> Floats:
    """Returns the disagreement of two labels: 0 or 1; for numbers, the squared distance."""
    if all(name.isdigit() for name in names) and len(names) > 1:
        values = np.array([float(name) for name in names])
        gaps: Floats = (values[:, None] - values[None, :]) ** 2 / np.ptp(values) ** 2
        return gaps
    other: Floats = 1.0 - np.eye(len(names))
    return other


def _kappa(tables: Floats, weights: Floats) -> Floats:
    """Returns (B,) from (B, K²) counts: 1 - weighted observed disagreement / that expected from the margins; NaN
    where undefined."""
    size = len(weights)
    share = tables.reshape(-1, size, size) / tables.sum(1)[:, None, None]
    observed = (share * weights).sum((1, 2))
    chance = np.einsum("bi,bj,ij->b", share.sum(2), share.sum(1), weights)
    kappa: Floats = 1 - np.divide(observed, chance, out=np.full_like(observed, np.nan), where=chance > 0)
    return kappa


def _estimate(value: float, replicates: Floats, n: int) -> Estimate | None:
    finite_values = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or len(finite_values) < (1 - MAX_UNDEFINED) * len(replicates):
        return None
    low, high = interval(finite_values)
    return Estimate(value=value, low=low, high=high, n=n)


def corrected_rate(
    flags: Floats,
    counts_BN: Floats,
    people: Floats,
    judge: Floats,
    people_counts_BM: Floats,
) -> Estimate | None:
    """Returns a share as people would have labelled it: (q + sp - 1) / (se + sp - 1), within 0 and 1 (Rogan & Gladen
    1978).

    `flags` (N,) holds the judge's 0 or 1 on the measured items. `people` and `judge` (M,) hold both labels on the
    labelled sample, which give sensitivity and specificity. The interval resamples both samples by their
    clusters. None where the judge hardly separates the two labels, or the sample lacks one of them.
    """
    value = _rogan_gladen(flags, np.ones((1, len(flags))), people, judge, np.ones((1, len(people))))[0]
    replicates = _rogan_gladen(flags, counts_BN, people, judge, people_counts_BM)
    return _estimate(float(value), replicates, len(flags))


def _rogan_gladen(
    flags: Floats, counts_BN: Floats, people: Floats, judge: Floats, people_counts_BM: Floats
) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        apparent = (counts_BN @ flags) / counts_BN.sum(1)
        sensitivity = (people_counts_BM @ (people * judge)) / (people_counts_BM @ people)
        specificity = (people_counts_BM @ ((1 - people) * (1 - judge))) / (people_counts_BM @ (1 - people))
        youden = sensitivity + specificity - 1
        rates = np.clip((apparent + specificity - 1) / youden, 0, 1)
    informative_rates: Floats = np.where(youden >= LEAST_YOUDEN, rates, np.nan)
    return informative_rates
