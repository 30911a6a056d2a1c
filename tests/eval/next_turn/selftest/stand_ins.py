"""Cheap metrics in the place of the real ones: enough to see that the self-test catches what they see."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from eval.next_turn.metrics.values import (
    ClusterSums,
    MetricSpec,
    TurnMetric,
    Values,
    at_positions,
    difference,
    estimate,
    p_against,
    p_paired,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.instruments import DiscriminatorFamily, Instruments, LeavingNumber
from eval.next_turn.selftest.planted_leaving import leaves_by_turn_number
from eval.next_turn.selftest.planted_material import Material
from eval.next_turn.turns import SimulatedTurns
from usersim.stats.estimates import rng_for

WORD = re.compile(r"\w+")


def words(text):
    return WORD.findall(text.lower())


class Simple(TurnMetric):
    """One metric from a function of prefix and text; None is undefined."""

    def __init__(self, key, of, *, is_share=False, scorer=None):
        self._specs = [
            MetricSpec(
                key=key, group=GROUPS[key.split(".")[0]], label=key, unit="", is_share=is_share, scorer=scorer
            )
        ]
        self._of = of

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return self._specs

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        return {self.specs[0].key: Values.of([self._of(p, t) for p, t in zip(prefixes, texts, strict=True)])}


GROUPS = {name: name for name in ("coherence", "fluency", "facts", "acts", "copying")}


def later(of):
    return lambda prefix, text: float(of(prefix, text)) if prefix.position > 1 else None


def metrics(material: Material) -> list[Simple]:
    prefixes = [p for p in material.prefixes if p.text]
    rng = rng_for(0, "stand-in")
    pairs, letters = Counter(), Counter()
    for chat in material.chats.values():
        pairs.update(
            {(a, b) for turn in chat.turns for said in [words(turn)] for a, b in itertools.pairwise(said)}
        )
        letters.update({turn[i : i + 4] for turn in chat.turns for i in range(len(turn) - 3)})
    answers = [p.answer for p in prefixes if p.answer]
    goals = [p.goal.summary for p in prefixes if p.goal] or [""]
    swapped = {p.id: answers[rng.integers(len(answers))] for p in prefixes} if answers else {}
    other_goal = {p.id: goals[rng.integers(len(goals))] for p in prefixes}
    other_turn = {p.id: prefixes[rng.integers(len(prefixes))].text for p in prefixes}

    def share(text, *others):
        said, known = set(words(text)), {w for other in others for w in words(other)}
        return len(said & known) / len(said) if said else 0.0

    def rough(prefix, text):
        said = words(text)
        return (
            sum(pairs[pair] < 2 for pair in itertools.pairwise(said)) / len(said) if len(said) > 1 else None
        )

    def rough_letters(prefix, text):
        return sum(letters[text[i : i + 4]] < 2 for i in range(len(text) - 3)) / len(text)

    def goal(prefix, text):
        return share(text, prefix.goal.summary) - share(text, other_goal[prefix.id]) if prefix.goal else None

    def supported(prefix, text):
        numbers = re.findall(r"\d+", text)
        known = " ".join([*(t.text for t in prefix.history), prefix.goal.summary if prefix.goal else ""])
        return np.mean([n in known for n in numbers]) if numbers and prefix.position > 1 else None

    def copied(prefix, text):
        against = other_turn[prefix.id] if text == prefix.text else prefix.text
        one, two = words(text), " ".join(words(against or ""))
        return float(any(" ".join(one[i : i + 8]) in two for i in range(len(one) - 7)))

    return [
        Simple("fluency.ngram", rough, scorer="ngram"),
        Simple("fluency.lm", rough_letters, scorer="lm"),
        Simple(
            "coherence.answer.embedding",
            later(lambda p, t: share(t, p.answer) - share(t, swapped[p.id])),
            scorer="embedding",
        ),
        Simple("coherence.goal.embedding", goal, scorer="embedding"),
        Simple("facts.supported", supported, is_share=True),
        Simple(
            "acts.thanks", later(lambda p, t: bool(re.search(r"thank|cheers|thx", t.lower()))), is_share=True
        ),
        Simple(
            "acts.objects", later(lambda p, t: bool(re.match(r"no\b|.*\bwrong\b", t.lower()))), is_share=True
        ),
        Simple("copying.reference", copied, is_share=True),
    ]


class Length:
    family, ridge = "a", 1.0

    def features(self, prefixes, texts):
        return np.array([[len(words(text))] for text in texts], dtype=float)


class Longer:
    """Takes the longer turn for the simulator's."""

    def __init__(self, simulated, people, clusters, *, ridge, seed):
        gap = simulated[:, 0] - people[:, 0]
        self._choices, self._clusters = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5)), clusters

    def values(self, family, prefixes):
        return {
            f"told_apart.{family}.{at}": Values.of(list(self._choices)).at(at_positions(prefixes, at))
            for at in ("1", "all")
        }

    def p(self, mask_P, rng, permutations):
        return p_against(
            ClusterSums.of(Values.of(list(self._choices)).at(mask_P), self._clusters), 0.5, rng, permutations
        )


class NoDifference:
    def __init__(self, rows, clusters, *, ridge, seed):
        pass

    def p(self, is_first_N, *, seed, permutations):
        return 1.0


def discriminator() -> DiscriminatorFamily:
    specs = [
        MetricSpec(
            key=f"told_apart.a.{at}",
            group="indistinguishability",
            label=at,
            unit="",
            is_share=True,
            positions=at,
        )
        for at in ("1", "all")
    ]
    return DiscriminatorFamily(Length(), specs, Longer, NoDifference)


class Leaving:
    """Rate, and Brier gain over a hazard by turn number of other folds."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self.specs = [
            MetricSpec(key="leaving.rate", group="leaving", label="rate", unit="", is_share=True),
            MetricSpec(key="leaving.gain.turn", group="leaving", label="gain", unit=""),
        ]

    def measure(
        self, prefixes: Sequence[Prefix], turns: SimulatedTurns, seed: int
    ) -> Mapping[str, LeavingNumber]:
        kept = [p for p in prefixes if p.position > 1]
        clusters = [p.cluster for p in kept]
        left = np.array([float(p.has_left) for p in kept])
        told = np.array([turns.turns[p.id].end_probability for p in kept])
        material = Material(tuple(prefixes))
        clock = leaves_by_turn_number(prefixes, material, seed + 1).turns
        base = (np.array([clock[p.id].end_probability for p in kept]) - left) ** 2
        rate, people = (ClusterSums.of(Values.of(list(v)), clusters) for v in (told, left))
        gain = ClusterSums.of(Values(base - (told - left) ** 2, base), clusters)
        rng = rng_for(seed, "leaving")
        gap = difference(rate, people)
        return {
            "leaving.rate": LeavingNumber(
                estimate(rate).model_copy(
                    update={"low": gap.low + people.ratio, "high": gap.high + people.ratio}
                ),
                p_paired(rate, people, rng),
                people.ratio,
            ),
            "leaving.gain.turn": LeavingNumber(estimate(gain), p_against(gain, 0.0, rng), sums=gain),
        }


def instruments(material: Material) -> Instruments:
    return Instruments(metrics(material), [discriminator()], Leaving(material))
