"""Discriminators between a simulator's next turns and people's, tested by two-alternative forced choice.

The score of a feature row (`eval.next_turn.metrics.discriminator_features`) is linear: ridge regression, fitted on the
clusters of the training folds and applied to the rest. Paired data are fitted on the difference of the two rows at a
prefix (simulator minus person, target 1), so that features of the prefix alone cancel. The fit is linear in the labels.
So a permutation of the labels is refitted with one matrix product; the tests here refit at every permutation and are
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]
from scipy.sparse import issparse  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]

from eval.fidelity.metrics.texts.folds import grouped_folds
from eval.next_turn.metrics.discriminator_features import Family, Representation, Rows
from eval.next_turn.metrics.values import (
    CHUNK,
    PERMUTATIONS,
    MetricSpec,
    Positions,
    Values,
    at_positions,
    cluster_weights,
)
from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.stats.estimates import Floats, Ints, rng_for

FOLDS = 5
STRATA: tuple[Positions, ...] = ("1", "2", "3+", "all")


@dataclass(frozen=True)
class ToldApart:
    """Two-alternative forced choice at P prefixes, with the matrix that refits it under swapped labels."""

    choices_P: Floats
    """1 if the simulator's turn scored above the person's, 1/2 at a tie, else 0."""
    smoother_PP: Floats
    """Held-out score of pair i under labels s (±1 per pair): s_i · (smoother @ s)_i."""
    owner_P: Ints
    """Cluster index of each prefix."""

    def values(self, family: Family, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        """Returns values by key, at turn 1, 2, 3+ and all."""
        everywhere = Values(self.choices_P, np.ones(len(self.choices_P)))
        return {f"told_apart.{family}.{at}": everywhere.at(at_positions(prefixes, at)) for at in STRATA}

    def p(
        self, mask_P: NDArray[np.bool_], rng: np.random.Generator, permutations: int = PERMUTATIONS
    ) -> float:
        """Two-sided permutation p of "simulator and person are exchangeable".

        Labels are swapped, whole clusters at a time, and the discriminator is refitted each time. Choices of one fold
        share a fit. So tests that treat them as independent (`p_against`) reject people against people at 11 to 16 %
        of splits instead of 5 %.

        Raises:
            ValueError: No prefix in the mask.
        """
        if not mask_P.any():
            raise ValueError("the mask of a forced choice has no prefix")
        defined_C = np.bincount(self.owner_P[mask_P], minlength=int(self.owner_P.max()) + 1)
        weight_P = cluster_weights(defined_C.astype(np.float64))[self.owner_P[mask_P]]
        weight_P = weight_P / weight_P.sum()
        observed = abs(float(weight_P @ self.choices_P[mask_P]) - 0.5)
        extreme, clusters = 0, int(self.owner_P.max()) + 1
        for start in range(0, permutations, CHUNK):
            size = min(CHUNK, permutations - start)
            signs_PR = (rng.integers(0, 2, size=(clusters, size)) * 2.0 - 1.0)[self.owner_P]
            scores_PR = signs_PR[mask_P] * (self.smoother_PP[mask_P] @ signs_PR)
            extreme += int((np.abs(weight_P @ _choices(scores_PR) - 0.5) >= observed - 1e-12).sum())
        return (1 + extreme) / (1 + permutations)


def told_apart_specs(family: Family) -> list[MetricSpec]:
    """Returns the specifications of a family's four shares; people have 0.5."""
    labels = {"1": "openings", "2": "second turns", "3+": "later turns", "all": "all turns"}
    return [
        MetricSpec(
            key=f"told_apart.{family}.{at}",
            group="indistinguishability",
            label=f"simulator's turn told from the person's, {labels[at]}, discriminator {family.upper()}",
            unit="share of pairs (0.5: not told apart)",
            is_share=True,
            positions=at,
        )
        for at in STRATA
    ]


def told_apart(
    simulated: Rows, people: Rows, clusters: Sequence[str], *, ridge: float, folds: int = FOLDS, seed: int = 0
) -> ToldApart:
    """Cross-fitted forced choice between a simulator's and a person's turn at the same prefixes.

    Args:
        simulated: Feature rows of the simulator's turns, one per prefix.
        people: Feature rows of the persons' turns at the same prefixes.

        clusters: Cluster of each prefix. No pair is scored by a fit that saw its cluster.
        ridge: `Representation.ridge`.

    Raises:
        DataError: Fewer than two clusters.
    """
    difference = simulated - people
    smoother = _smoother(_products(difference), _fold_of(clusters, folds, seed), ridge)
    owner: Ints = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return ToldApart(_choices(smoother.sum(1)), smoother, owner)


class Unpaired:
    """Discriminator between two sets of turns at different prefixes; built once for many assignments to the sets.

    AUC: P(a turn of the first set scores above one of the second), over pairs of the same held-out fold. `rows` and
    `clusters` are those of all turns of both sets; a set has whole clusters.
    """

    def __init__(
        self, rows: Rows, clusters: Sequence[str], *, ridge: float, folds: int = FOLDS, seed: int = 0
    ) -> None:
        self._fold_N = _fold_of(clusters, folds, seed)
        self._smoother_NN = _smoother(_products(rows) + 1.0, self._fold_N, ridge)
        names, self._owner_N = np.unique(np.asarray(clusters), return_inverse=True)
        self._clusters, self._nulls = len(names), dict[tuple[int, int, int], Floats]()

    def auc(self, is_first_N: NDArray[np.bool_]) -> float:
        return float(self._aucs(is_first_N[:, None])[0])

    def p(self, is_first_N: NDArray[np.bool_], *, seed: int = 0, permutations: int = PERMUTATIONS) -> float:
        """Two-sided permutation p of "both sets are of the same people"; clusters are reassigned and refitted.

        All assignments with equally many clusters share one null distribution, which is drawn once.
        """
        size = len(np.unique(self._owner_N[is_first_N]))
        if size + len(np.unique(self._owner_N[~is_first_N])) > self._clusters:
            raise ValueError("a cluster is on both sides; assign whole clusters")
        key = size, seed, permutations
        if key not in self._nulls:
            self._nulls[key] = self._null(size, rng_for(seed, "told apart unpaired"), permutations)
        extreme = int((self._nulls[key] >= abs(self.auc(is_first_N) - 0.5) - 1e-12).sum())
        return (1 + extreme) / (1 + permutations)

    def _null(self, size: int, rng: np.random.Generator, permutations: int) -> Floats:
        gaps = []
        for start in range(0, permutations, CHUNK):
            ranks = rng.random((self._clusters, min(CHUNK, permutations - start))).argsort(axis=0)
            gaps.append(np.abs(self._aucs((ranks < size)[self._owner_N]) - 0.5))
        return np.concatenate(gaps)

    def _aucs(self, is_first_NR: NDArray[np.bool_]) -> Floats:
        scores_NR = _rounded(self._smoother_NN @ (is_first_NR * 2.0 - 1.0))
        above, pairs = np.zeros(is_first_NR.shape[1]), np.zeros(is_first_NR.shape[1])
        for fold in np.unique(self._fold_N):
            held = self._fold_N == fold
            first = is_first_NR[held]
            count = first.sum(0)
            ranks = rankdata(scores_NR[held], axis=0)
            above += (ranks * first).sum(0) - count * (count + 1) / 2
            pairs += count * (held.sum() - count)
        areas: Floats = np.divide(above, pairs, out=np.full(len(pairs), 0.5), where=pairs > 0)
        return areas


@dataclass(frozen=True)
class Discriminator:
    """Fitted discriminator, for choosing among candidates. Only family A may choose."""

    representation: Representation
    weights_D: Floats = field(repr=False)

    @classmethod
    def fit(
        cls,
        representation: Representation,
        prefixes: Sequence[Prefix],
        simulated: Sequence[str],
        people: Sequence[str],
    ) -> Self:
        """Fits on all pairs: a simulator's and a person's text at each prefix."""
        difference = representation.features(prefixes, simulated) - representation.features(prefixes, people)
        products = _products(difference)
        products[np.diag_indices_from(products)] += representation.ridge
        dual = cho_solve(cho_factor(products), np.ones(len(products)))
        return cls(representation, np.asarray(difference.T @ dual, dtype=np.float64).ravel())

    def score(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> Floats:
        """Returns how simulator-like each text scores; only scores at the same prefix are comparable."""
        rows = self.representation.features(prefixes, texts)
        return np.asarray(rows @ self.weights_D, dtype=np.float64).ravel()

    def save(self, path: str | Path) -> None:
        with Path(path).open("wb") as stream:
            np.savez_compressed(stream, family=self.representation.family, weights=self.weights_D)

    @classmethod
    def load(cls, path: str | Path, representation: Representation) -> Self:
        """Loads a fitted discriminator. Raises DataError for a file of another family."""
        with np.load(path) as archive:
            if str(archive["family"]) != representation.family:
                raise DataError(
                    f"{path}: a discriminator of family {archive['family']}, not {representation.family}"
                )
            return cls(representation, np.asarray(archive["weights"], dtype=np.float64))


def _choices(scores: NDArray[np.floating[Any]]) -> Floats:
    """1 above zero, 1/2 at zero up to float noise, else 0."""
    return np.asarray((np.sign(_rounded(scores)) + 1.0) / 2.0, dtype=np.float64)


def _rounded(scores: NDArray[np.floating[Any]]) -> Floats:
    """Scores rounded so that equal rows tie; their sums differ by float noise."""
    return np.asarray(np.round(scores, 9), dtype=np.float64)


def _fold_of(clusters: Sequence[str], folds: int, seed: int) -> Ints:
    count = len(set(clusters))
    if count < 2:
        raise DataError(f"a discriminator needs turns of at least two people; there are {count}")
    return grouped_folds(clusters, min(folds, count), rng_for(seed, "discriminator folds"))


def _products(rows: Rows) -> Floats:
    products = rows @ rows.T
    return np.asarray(products.todense() if issparse(products) else products, dtype=np.float64)


def _smoother(products_NN: Floats, fold_N: Ints, ridge: float) -> Floats:
    """Smoother matrix (N, N): its product with the labels is the out-of-fold predictions of ridge regression."""
    smoother = np.zeros_like(products_NN)
    for fold in np.unique(fold_N):
        held, train = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        inner = products_NN[np.ix_(train, train)]
        inner[np.diag_indices_from(inner)] += ridge
        solution = cho_solve(cho_factor(inner, overwrite_a=True), products_NN[np.ix_(train, held)])
        smoother[np.ix_(held, train)] = solution.T
    return smoother
