"""How far a judge agrees with people, and rates corrected for where it does not."""

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
"""Sensitivity + specificity - 1 below which a judge says too little to be corrected."""
LOST = 0.05
"""Share of resamples without an answer from which there is no interval."""


class Label(Record):
    item: str
    label: str
    rater: str = ""


class Agreement(Record):
    """Between two labellers of the same items."""

    task: str
    between: str
    n: int
    observed: float
    """Share of items with the same label."""
    kappa: Estimate | None
    """Cohen 1960; of ordered scores, with quadratic weights (Cohen 1968). None: one label only, so no chance to
    agree by more than chance."""
    confusion: dict[str, dict[str, int]]
    """first's label → second's label → items."""


def read_labels(path: Path) -> list[Label]:
    """JSON Lines of {item, label, rater?}; numbers are read as text, rows without a label are not yet labelled."""
    found = []
    for number, value in read_jsonl(path):
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: needs {{item, label, rater?}}")
        kept = {key: str(value.get(key) or "") for key in ("item", "label", "rater")}
        if not kept["label"]:
            continue
        task = kept["item"].partition(":")[0]
        if task not in LABELS:
            raise DataError(f"{path}:{number}: item {kept['item']!r} is none of --export")
        if kept["label"] not in LABELS[task]:
            raise DataError(f"{path}:{number}: label {kept['label']!r} is none of {', '.join(LABELS[task])}")
        found.append(Label.model_validate(kept))
    if not found:
        raise DataError(f"{path}: no labels in it; fill in `label` of the lines written by --export")
    return found


def consensus(labels: Sequence[Label]) -> dict[str, str]:
    """The label most raters gave; items on which they are split evenly are left out."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        votes[label.item][label.label] += 1
    made = {}
    for item, counted in votes.items():
        (best, most), *rest = counted.most_common(2)
        if not rest or rest[0][1] < most:
            made[item] = best
    return made


def between_raters(labels: Sequence[Label]) -> tuple[dict[str, str], dict[str, str]]:
    """The labels of the two raters who share most items, on any items."""
    by_rater: dict[str, dict[str, str]] = defaultdict(dict)
    for label in labels:
        by_rater[label.rater][label.item] = label.label
    couples = [(a, b) for a in by_rater for b in by_rater if a < b]
    if not couples:
        return {}, {}
    first, second = max(couples, key=lambda c: len(by_rater[c[0]].keys() & by_rater[c[1]].keys()))
    return by_rater[first], by_rater[second]


def agreement(
    task: str,
    between: str,
    first: Mapping[str, str],
    second: Mapping[str, str],
    clusters: Mapping[str, str],
    *,
    seed: int,
) -> Agreement | None:
    """On the items that both labelled; None where there is none. κ's interval resamples clusters of items."""
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
    return Agreement(
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
    """Disagreement of two labels: 0 or 1; of numbers, the squared distance."""
    if all(name.isdigit() for name in names) and len(names) > 1:
        values = np.array([float(name) for name in names])
        gaps: Floats = (values[:, None] - values[None, :]) ** 2 / np.ptp(values) ** 2
        return gaps
    other: Floats = 1.0 - np.eye(len(names))
    return other


def _kappa(tables: Floats, weights: Floats) -> Floats:
    """(B,) from (B, K²) counts: 1 - weighted disagreement seen / expected from the margins; NaN where none can be."""
    size = len(weights)
    share = tables.reshape(-1, size, size) / tables.sum(1)[:, None, None]
    seen = (share * weights).sum((1, 2))
    chance = np.einsum("bi,bj,ij->b", share.sum(2), share.sum(1), weights)
    kappa: Floats = 1 - np.divide(seen, chance, out=np.full_like(seen, np.nan), where=chance > 0)
    return kappa


def _estimate(value: float, replicates: Floats, n: int) -> Estimate | None:
    known = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or len(known) < (1 - LOST) * len(replicates):
        return None
    low, high = interval(known)
    return Estimate(value=value, low=low, high=high, n=n)


def corrected_rate(
    flags: Floats,
    counts_BN: Floats,
    people: Floats,
    judge: Floats,
    people_counts_BM: Floats,
) -> Estimate | None:
    """A share as people would have labelled it: (q + sp - 1) / (se + sp - 1), within 0 and 1 (Rogan & Gladen 1978).

    `flags` (N,): the judge's 0 or 1 on what is measured. `people`, `judge` (M,): both on the labelled sample, from
    which sensitivity and specificity are estimated. The interval resamples both samples, each by its clusters. None
    where the judge hardly tells the two apart, or the sample lacks one of them.
    """
    whole = _rogan_gladen(flags, np.ones((1, len(flags))), people, judge, np.ones((1, len(people))))[0]
    made = _rogan_gladen(flags, counts_BN, people, judge, people_counts_BM)
    return _estimate(float(whole), made, len(flags))


def _rogan_gladen(
    flags: Floats, counts_BN: Floats, people: Floats, judge: Floats, people_counts_BM: Floats
) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        apparent = (counts_BN @ flags) / counts_BN.sum(1)
        sensitivity = (people_counts_BM @ (people * judge)) / (people_counts_BM @ people)
        specificity = (people_counts_BM @ ((1 - people) * (1 - judge))) / (people_counts_BM @ (1 - people))
        youden = sensitivity + specificity - 1
        made = np.clip((apparent + specificity - 1) / youden, 0, 1)
    told: Floats = np.where(youden >= LEAST_YOUDEN, made, np.nan)
    return told
