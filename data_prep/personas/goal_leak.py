"""Goal leakage of personas, and masking of the words that cause it.

The test retrieves the conversation's goal among ten (its own and nine drawn from the others) from the persona alone,
by cosine of sentence embeddings. Chance is 0.10.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress, TaskID

from data_prep.personas.masking import candidates, without
from usersim.cli import console
from usersim.errors import DataError
from usersim.storage.records import write_json
from usersim.text import embeddings as embedding
from usersim.text.embeddings import Vectors
from usersim.types import Record
from usersim.weights.default_model import file_hash, home

OTHERS = 9
RESAMPLES = 2000
MARGIN = 0.01
"""Distance of the expected rate below the target, so that other draws of the nine stay below it too."""
PORTIONS = 20
"""Each round masks one word in the twentieth of personas that leak most; masking all at once removes more words."""
RULES = 2
"""Version of the masking rules in the cache key; raise it when masking changes."""

Embed = Callable[[Sequence[str]], Vectors]
Floats = npt.NDArray[np.float64]


class LeakRate(Record):
    """A mean with its 95 % interval (percentile bootstrap over conversations)."""

    rate: float
    low: float
    high: float
    n: int


class MaskedPersonas(Record):
    personas: dict[str, str]
    """Personas by id with leaking words masked; "" where no word is left."""
    before: LeakRate
    after: LeakRate
    words_masked: int
    dropped: int
    """Personas left without a word."""


def retrieval(
    personas: Sequence[str], goals: Sequence[str], *, seed: int, embed: Embed | None = None
) -> LeakRate:
    """Returns the rate at which the i-th goal is retrieved from the i-th persona.

    Args:
        personas: texts; an empty one counts as a guess.
        goals: goal summaries in the same order.
        seed: for the other goals and the bootstrap.
        embed: sentence embedding (default: packaged).
    """
    _require_two(len(personas))
    encode = embed or embedding.embed
    return mean_with_interval(hit_scores(encode(personas), encode(goals), personas, seed=seed), seed=seed)


def lexical_retrieval(personas: Sequence[str], goals: Sequence[str], *, seed: int) -> LeakRate:
    """Returns the retrieval rate by shared words (TF-IDF of six-letter stems): a check without embeddings."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    _require_two(len(personas))
    stems = TfidfVectorizer(analyzer=lambda text: [word[:6] for word in candidates(text)], sublinear_tf=True)
    matrix = stems.fit_transform([*personas, *goals])
    draws = distractors(len(personas), seed)
    own = np.asarray(matrix[: len(personas)].multiply(matrix[len(personas) :]).sum(axis=1)).ravel()
    others = np.stack(
        [
            np.asarray(
                matrix[: len(personas)].multiply(matrix[len(personas) + draws[:, j]]).sum(axis=1)
            ).ravel()
            for j in range(draws.shape[1])
        ],
        axis=1,
    )
    return mean_with_interval(_top_scores(own, others), seed=seed)


def _require_two(personas: int) -> None:
    if personas < 2:
        raise DataError(f"{personas} personas: a goal cannot be told from others; give two or more")


def distractors(n: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns nine other rows for each row, without repetition, shape (n, 9); fewer columns if n < 10."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n - 1, size=min(OTHERS, n - 1), replace=False) for _ in range(n)]
    choices = np.asarray(rows, dtype=np.int64)
    return choices + (choices >= np.arange(n)[:, None])


def hit_scores(persona_ND: Vectors, goal_ND: Vectors, personas: Sequence[str], *, seed: int) -> Floats:
    draws = distractors(len(personas), seed)
    own = np.einsum("nd,nd->n", persona_ND, goal_ND)
    others = np.einsum("nd,nkd->nk", persona_ND, goal_ND[draws])
    hits = _top_scores(own, others)
    hits[[not persona.strip() for persona in personas]] = 1 / (1 + draws.shape[1])
    return hits


def _top_scores(own: npt.NDArray[Any], others: npt.NDArray[Any]) -> Floats:
    """Returns 1 where the own goal alone scores highest, 1/k where it ties with k - 1 others, else 0."""
    best = own >= others.max(axis=1)
    return np.asarray(best / (1 + (others == own[:, None]).sum(axis=1)), dtype=np.float64)


def mean_with_interval(hits: Floats, *, seed: int) -> LeakRate:
    rng = np.random.default_rng(seed)
    means = [hits[rng.integers(len(hits), size=len(hits))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return LeakRate(rate=float(hits.mean()), low=float(low), high=float(high), n=len(hits))


def expected_hits(persona_MD: Vectors, own_M: npt.NDArray[np.int64], goal_ND: Vectors) -> Floats:
    """Returns the probability of retrieval over all draws of the nine, so that masking cannot overfit one draw."""
    others = len(goal_ND) - 1
    probabilities = np.empty(len(persona_MD))
    for start in range(0, len(persona_MD), 512):
        part = slice(start, start + 512)
        similarity = persona_MD[part] @ goal_ND.T
        own = similarity[np.arange(len(similarity)), own_M[part]][:, None]
        better = (similarity > own).sum(axis=1)
        draws = np.arange(min(OTHERS, others))
        probabilities[part] = np.prod(
            np.maximum(others - better[:, None] - draws, 0) / (others - draws), axis=1
        )
    return probabilities


def mask_personas(
    personas: Mapping[str, tuple[str, str]],
    *,
    target: float = 0.25,
    seed: int = 0,
    embed: Embed | None = None,
) -> MaskedPersonas:
    """Masks words of personas until the goal is retrieved from them at no more than `target`.

    Each round removes, from the personas that leak most, the word nearest to their own goal relative to other goals.
    Results are cached by content unless `embed` is given.

    Args:
        personas: (persona, goal) by id.
        target: retrieval rate to stay below.
        seed: seed of the reported rates.
        embed: sentence embedding (default: the packaged one).
    """
    file = None if embed else _cache_file(personas, target, seed)
    if file and file.is_file():
        return MaskedPersonas.model_validate_json(file.read_text(encoding="utf-8"))
    masked = _mask_to_target(personas, target, seed, embed or embedding.embed)
    if file:
        write_json(file, masked.model_dump(mode="json"))
    return masked


def _cache_file(personas: Mapping[str, tuple[str, str]], target: float, seed: int) -> Path:
    weights = file_hash(embedding.wheel_folder() / "model.safetensors")
    content = json.dumps([RULES, weights, target, seed, sorted(personas.items())], ensure_ascii=False)
    return home() / "persona-masks" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _mask_to_target(
    personas: Mapping[str, tuple[str, str]], target: float, seed: int, embed: Embed
) -> MaskedPersonas:
    ids = sorted(id_ for id_, (persona, _) in personas.items() if persona.strip())
    _require_two(len(ids))
    texts = [personas[id_][0] for id_ in ids]
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("personas that give the goal away", total=None)
        goals = embed([personas[id_][1] for id_ in ids])
        vectors = embed(texts)
        before = mean_with_interval(hit_scores(vectors, goals, texts, seed=seed), seed=seed)
        words_masked = _mask_in_rounds(texts, vectors, goals, target, embed, progress, bar)
        after = mean_with_interval(hit_scores(vectors, goals, texts, seed=seed), seed=seed)
    masked = {id_: persona for id_, (persona, _) in personas.items()} | dict(zip(ids, texts, strict=True))
    return MaskedPersonas(
        personas=masked,
        before=before,
        after=after,
        words_masked=words_masked,
        dropped=sum(not text for text in texts),
    )


def _mask_in_rounds(
    texts: list[str],
    vectors: Vectors,
    goals: Vectors,
    target: float,
    embed: Embed,
    progress: Progress,
    bar: TaskID,
) -> int:
    """Masks `texts` and `vectors` in place; returns the number of words masked."""
    chance = 1 / (1 + min(OTHERS, len(goals) - 1))
    rows = np.arange(len(texts))
    odds = expected_hits(vectors, rows, goals)
    leaks = WordLeaks(texts, goals, embed)
    portion, words_masked = max(1, len(texts) // PORTIONS), 0
    while odds.mean() > target - MARGIN:
        progress.update(
            bar, description=f"personas give the goal away at {odds.mean():.2f}, to be {target:.2f}"
        )
        leaking = [
            int(row)
            for row in np.argsort(-odds, kind="stable")[:portion]
            if odds[row] > chance and texts[row]
        ]
        if not leaking:
            break
        for row in leaking:
            texts[row] = leaks.without_worst(row, texts[row])
        words_masked += len(leaking)
        vectors[leaking] = embed([texts[row] for row in leaking])
        odds[leaking] = expected_hits(vectors[leaking], np.asarray(leaking), goals)
        odds[[row for row in leaking if not texts[row]]] = chance
    return words_masked


class WordLeaks:
    """Leakage of each word: its similarity to the own goal minus its mean similarity to all goals."""

    def __init__(self, texts: Sequence[str], goals: Vectors, embed: Embed) -> None:
        words = sorted({word for text in texts for word in candidates(text)})
        self.index = {word: row for row, word in enumerate(words)}
        self.words = embed(words)
        self.goals = goals
        self.mean_similarity = self.words @ goals.mean(axis=0)

    def without_worst(self, row: int, text: str) -> str:
        """Returns `text` without its most revealing word; "" if it has no word left."""
        rows = [self.index[word] for word in candidates(text) if word in self.index]
        if not rows:
            return ""
        excess = self.words[rows] @ self.goals[row] - self.mean_similarity[rows]
        worst = candidates(text)[int(np.argmax(excess))]
        return without(text, {worst})
