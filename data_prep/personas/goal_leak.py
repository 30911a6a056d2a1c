"""How much of the goal a persona gives away, and personas with the words that do it masked.

The test: from the persona alone, find the conversation's goal among ten (its own and nine drawn from the others) by
the cosine of sentence embeddings. Chance is 0.10.
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
"""The expected rate is brought this far below the target, so that other draws of the nine stay below it too."""
PORTIONS = 20
"""A round masks a word in the twentieth that gives most away: fewer words go than if all were masked at once."""
RULES = 2
"""Part of the cache key: raise it when masking changes."""

Embed = Callable[[Sequence[str]], Vectors]
Floats = npt.NDArray[np.float64]


class Rate(Record):
    """A mean with its 95 % interval (percentile bootstrap over conversations)."""

    rate: float
    low: float
    high: float
    n: int


class Masked(Record):
    personas: dict[str, str]
    """Every persona given, leaking words masked; "" where nothing was left."""
    before: Rate
    after: Rate
    words_masked: int
    dropped: int
    """Personas that had words and have none now."""


def retrieval(
    personas: Sequence[str], goals: Sequence[str], *, seed: int, embed: Embed | None = None
) -> Rate:
    """Rate at which the i-th goal is found from the i-th persona. An empty persona is a guess: one in ten."""
    _check(len(personas))
    of = embed or embedding.embed
    return rate(found(of(personas), of(goals), personas, seed=seed), seed=seed)


def lexical_retrieval(personas: Sequence[str], goals: Sequence[str], *, seed: int) -> Rate:
    """The same by shared words (TF-IDF of stems cut at six letters): a check that knows nothing of embeddings."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    _check(len(personas))
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
    return rate(_shared(own, others), seed=seed)


def _check(personas: int) -> None:
    if personas < 2:
        raise DataError(f"{personas} personas: a goal cannot be told from others; give two or more")


def distractors(n: int, seed: int) -> npt.NDArray[np.int64]:
    """(n, 9): for each row nine others without repetition (fewer where there are fewer)."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n - 1, size=min(OTHERS, n - 1), replace=False) for _ in range(n)]
    drawn = np.asarray(rows, dtype=np.int64)
    return drawn + (drawn >= np.arange(n)[:, None])


def found(persona_ND: Vectors, goal_ND: Vectors, personas: Sequence[str], *, seed: int) -> Floats:
    draws = distractors(len(personas), seed)
    own = np.einsum("nd,nd->n", persona_ND, goal_ND)
    others = np.einsum("nd,nkd->nk", persona_ND, goal_ND[draws])
    hits = _shared(own, others)
    hits[[not persona.strip() for persona in personas]] = 1 / (1 + draws.shape[1])
    return hits


def _shared(own: npt.NDArray[Any], others: npt.NDArray[Any]) -> Floats:
    """1 where the own goal is alone at the top, 1/k where it shares the top with k - 1 others."""
    best = own >= others.max(axis=1)
    return np.asarray(best / (1 + (others == own[:, None]).sum(axis=1)), dtype=np.float64)


def rate(hits: Floats, *, seed: int) -> Rate:
    rng = np.random.default_rng(seed)
    means = [hits[rng.integers(len(hits), size=len(hits))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Rate(rate=float(hits.mean()), low=float(low), high=float(high), n=len(hits))


def expected(persona_MD: Vectors, own_M: npt.NDArray[np.int64], goal_ND: Vectors) -> Floats:
    """P(found) of each persona over all draws of the nine: no seed, so masking cannot suit one draw."""
    others = len(goal_ND) - 1
    out = np.empty(len(persona_MD))
    for start in range(0, len(persona_MD), 512):
        part = slice(start, start + 512)
        similarity = persona_MD[part] @ goal_ND.T
        own = similarity[np.arange(len(similarity)), own_M[part]][:, None]
        nearer = (similarity > own).sum(axis=1)
        picked = np.arange(min(OTHERS, others))
        out[part] = np.prod(np.maximum(others - nearer[:, None] - picked, 0) / (others - picked), axis=1)
    return out


def mask_personas(
    personas: Mapping[str, tuple[str, str]],
    *,
    target: float = 0.25,
    seed: int = 0,
    embed: Embed | None = None,
) -> Masked:
    """Personas (by id: persona, goal) that give the goal away at no more than `target`.

    In rounds, those that give most away lose the word nearest to their own goal relative to the goals of others, until
    the expected rate is reached. Cached by content, unless `embed` is given.
    """
    file = None if embed else _cache_file(personas, target, seed)
    if file and file.is_file():
        return Masked.model_validate_json(file.read_text(encoding="utf-8"))
    masked = _mask(personas, target, seed, embed or embedding.embed)
    if file:
        write_json(file, masked.model_dump(mode="json"))
    return masked


def _cache_file(personas: Mapping[str, tuple[str, str]], target: float, seed: int) -> Path:
    weights = file_hash(embedding.wheel_folder() / "model.safetensors")
    content = json.dumps([RULES, weights, target, seed, sorted(personas.items())], ensure_ascii=False)
    return home() / "persona-masks" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _mask(personas: Mapping[str, tuple[str, str]], target: float, seed: int, embed: Embed) -> Masked:
    ids = sorted(id_ for id_, (persona, _) in personas.items() if persona.strip())
    _check(len(ids))
    texts = [personas[id_][0] for id_ in ids]
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("personas that give the goal away", total=None)
        goals = embed([personas[id_][1] for id_ in ids])
        vectors = embed(texts)
        before = rate(found(vectors, goals, texts, seed=seed), seed=seed)
        gone = _rounds(texts, vectors, goals, target, embed, progress, bar)
        after = rate(found(vectors, goals, texts, seed=seed), seed=seed)
    kept = {id_: persona for id_, (persona, _) in personas.items()} | dict(zip(ids, texts, strict=True))
    return Masked(
        personas=kept,
        before=before,
        after=after,
        words_masked=gone,
        dropped=sum(not text for text in texts),
    )


def _rounds(
    texts: list[str],
    vectors: Vectors,
    goals: Vectors,
    target: float,
    embed: Embed,
    progress: Progress,
    bar: TaskID,
) -> int:
    """Masks in `texts` and `vectors`, in place; returns how many words went."""
    chance = 1 / (1 + min(OTHERS, len(goals) - 1))
    rows = np.arange(len(texts))
    odds = expected(vectors, rows, goals)
    leaks = WordLeaks(texts, goals, embed)
    portion, gone = max(1, len(texts) // PORTIONS), 0
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
        gone += len(leaking)
        vectors[leaking] = embed([texts[row] for row in leaking])
        odds[leaking] = expected(vectors[leaking], np.asarray(leaking), goals)
        odds[[row for row in leaking if not texts[row]]] = chance
    return gone


class WordLeaks:
    """How much nearer each word of a persona is to its own goal than to the goals of others, word by word."""

    def __init__(self, texts: Sequence[str], goals: Vectors, embed: Embed) -> None:
        words = sorted({word for text in texts for word in candidates(text)})
        self.index = {word: row for row, word in enumerate(words)}
        self.words = embed(words)
        self.goals = goals
        self.usual = self.words @ goals.mean(axis=0)

    def without_worst(self, row: int, text: str) -> str:
        """`text` without its most telling word; "" when there is no word to take."""
        found = [self.index[word] for word in candidates(text) if word in self.index]
        if not found:
            return ""
        excess = self.words[found] @ self.goals[row] - self.usual[found]
        worst = candidates(text)[int(np.argmax(excess))]
        return without(text, {worst})
