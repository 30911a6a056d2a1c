"""Discriminator between a person's next turn and the User LM's own, for choosing the best of n drawn turns.

A logistic model of "a person wrote this", given the goal, the last answer and the earlier user turns. It is fitted on
differences of the features of pairs at the same prefix, so that features of the prefix alone cancel. Scores are
comparable at one prefix only: a difference is the log-odds that the person wrote the one text and the model the other.
It belongs to the weights whose turns it was fitted on and is kept beside them, as `discriminator.npz`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usersim.errors import ConfigError, DataError
from usersim.storage.records import atomic_writer
from usersim.text.spelling import word_set
from usersim.text.style import count_words, ends_punctuated, is_question, starts_lower, words
from usersim.types import Goal, Turn
from usersim.weights.default_model import DISCRIMINATOR_FILE, MANIFEST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from usersim.rendering.renderer import Renderer

    Floats = NDArray[np.float64]

VERSION = 1
"""Version of the features; a file of another version is refused."""
BUCKETS = 2**14
"""Number of buckets of hashed n-grams."""
CHARACTERS = 2_000
"""Characters of a text, from its beginning, that are read."""
FORM = (
    "length",
    "length, squared",
    "length at turn 2",
    "length at turn 2, squared",
    "length at turn 3 and later",
    "length at turn 3 and later, squared",
    "starts in lower case",
    "share of capitals",
    "ends with punctuation",
    "question",
    "share of content words in the answer",
    "share of content words in the goal",
    "share of content words in the earlier user turns",
    "repeats an earlier user turn",
)
"""Features beside n-grams; length is ln(1 + words)."""
RIDGES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
"""Penalties (L2) that are tried."""
FOLDS = 5
INNER_FOLDS = 3
COMMAND = "usersim eval fit-discriminator --model MODEL --human train.jsonl"
STOP_WORDS = word_set(
    "a about after all also am an and any are as at be because been before but by can could did do does don't "
    "each for from get had has have he her his how i i'm if in into is it it's its just let like make many may me "
    "more most much my need no not now of on one only or other our out please she should so some than that the "
    "their them then there these they this those to too two up us use using very want was we were what when where "
    "which who why will with would you your"
)


class ReplyContext:
    """Context of a turn: goal, last answer and earlier user turns."""

    def __init__(self, goal: Goal | None, turns: Sequence[Turn]) -> None:
        own = [turn.text for turn in turns if turn.role == "user"]
        answers = [turn.text for turn in turns if turn.role == "assistant"]
        wishes = [goal.summary, *(facet.text for facet in goal.facets)] if goal else []
        self.position = len(own) + 1
        """Number of the user turn that comes next."""
        self._overlapped = [_content(" ".join(texts)) for texts in (answers[-1:], wishes, own)]
        self._said = {_normal(text) for text in own}

    def form(self, text: str) -> list[float]:
        """The values of `FORM`."""
        cut, content = text[:CHARACTERS], _content(text)
        length = math.log1p(count_words(cut))
        lengths = [length, length * length]
        nothing = [0.0, 0.0]
        letters = [character for character in cut if character.isalpha()]
        return [
            *lengths,
            *(lengths if self.position == 2 else nothing),
            *(lengths if self.position > 2 else nothing),
            float(starts_lower(cut) or False),
            sum(character.isupper() for character in letters) / max(1, len(letters)),
            float(ends_punctuated(text)),
            float(is_question(text)),
            *(len(content & part) / max(1, len(content)) for part in self._overlapped),
            float(_normal(text) in self._said),
        ]

    def features(self, text: str) -> dict[int, float]:
        """By place among `BUCKETS` and then `FORM`; what is zero is left out."""
        values: dict[int, float] = {}
        for kind in (_word_grams(text), _character_grams(text)):
            counts = Counter(map(_bucket, kind))
            norm = math.sqrt(sum((1 + math.log(count)) ** 2 for count in counts.values()))
            for bucket, count in counts.items():
                values[bucket] = values.get(bucket, 0.0) + (1 + math.log(count)) / norm
        return values | {BUCKETS + place: value for place, value in enumerate(self.form(text)) if value}


@dataclass(frozen=True)
class TurnDiscriminator:
    """Weights of the features, and what they were fitted for."""

    weights_D: NDArray[np.float16] = field(repr=False)
    render: str
    """Fingerprint of the renderer."""
    model: str | None
    """`weights_fingerprint`; None: fitted for a model without weight files here."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts of the fit: accuracy, settings, counts."""

    def scores(self, goal: Goal | None, turns: Sequence[Turn], texts: Sequence[str]) -> list[float]:
        """Likeness of each text to a person's next turn; higher is likelier."""
        context = ReplyContext(goal, turns)
        return [
            math.fsum(float(self.weights_D[place]) * value for place, value in context.features(text).items())
            for text in texts
        ]

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all; raises DataError where its folder does not exist."""
        import numpy as np

        if not file.parent.is_dir():
            raise DataError(f"{file.parent}: no such folder for {file.name}")
        facts = {"version": VERSION, "render": self.render, "model": self.model, "facts": self.facts}
        with atomic_writer(file, "wb") as stream:
            np.savez_compressed(stream, weights=self.weights_D, made_for=np.array(json.dumps(facts)))


def read_discriminator(file: Path) -> TurnDiscriminator:
    """Raises ConfigError where it is missing, damaged or of another version."""
    try:
        import numpy as np
    except ImportError as error:
        raise ConfigError(f"{file}: a discriminator needs numpy; run `pip install numpy`") from error

    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            made_for = json.loads(str(archive["made_for"]))
            weights_D, version = archive["weights"], made_for["version"]
            render, model, facts = made_for["render"], made_for["model"], made_for["facts"]
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no discriminator there; make one with `{COMMAND}`") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"{file}: not a discriminator, or damaged; make it anew with `{COMMAND}`"
        ) from error
    if version != VERSION:
        raise ConfigError(f"{file}: of version {version}, not {VERSION}; make it anew with `{COMMAND}`")
    if weights_D.shape != (BUCKETS + len(FORM),) or weights_D.dtype != np.float16:
        raise ConfigError(f"{file}: weights of another shape; make it anew with `{COMMAND}`")
    if not np.isfinite(weights_D).all():
        raise ConfigError(f"{file}: weights that are not numbers; make it anew with `{COMMAND}`")
    return TurnDiscriminator(weights_D, str(render), model, dict(facts))


def discriminator_of(folder: Path, renderer: Renderer, *, best_of: int = 1) -> TurnDiscriminator | None:
    """The discriminator of a model folder; None where there is none and none is needed.

    Raises:
        ConfigError: The file is damaged or was fitted for another model, or `best_of` needs one and there is none.
    """
    file = folder / DISCRIMINATOR_FILE
    if not file.is_file():
        if best_of > 1:
            raise ConfigError(without_discriminator(best_of, str(folder)))
        return None
    discriminator = read_discriminator(file)
    model = weights_fingerprint(folder)
    has_other_weights = None not in (model, discriminator.model) and model != discriminator.model
    if has_other_weights or discriminator.render != renderer.fingerprint:
        raise ConfigError(f"{file}: fitted for another model; make it anew with `{COMMAND}`, or delete it")
    return discriminator


def without_discriminator(best_of: int, model: str) -> str:
    """Returns the error message for best_of above 1 without a discriminator."""
    return f"best_of={best_of}: {model} has no {DISCRIMINATOR_FILE} to choose by; make one with `{COMMAND}`"


CHUNKS, CHUNK_BYTES = 64, 4096


def weights_fingerprint(folder: Path) -> str | None:
    """Hash over samples of all weight files, in milliseconds for any size; None where there are none.

    Of a model that was built from an adapter: of the adapter, since machines round differently when they merge.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["adapter_sha256"])[:16]
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as stream:
            for chunk in range(CHUNKS):
                stream.seek(max(0, size - CHUNK_BYTES) * chunk // (CHUNKS - 1))
                digest.update(stream.read(CHUNK_BYTES))
    return digest.hexdigest()[:16] if files else None


# -- fit -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TurnPair:
    """A person's next turn and the model's, at the same prefix."""

    goal: Goal | None
    turns: tuple[Turn, ...]
    person: str
    model: str
    cluster: str
    """The person, or the conversation: no pair is judged by a fit that saw its cluster."""


@dataclass(frozen=True)
class Fit:
    """A discriminator fitted on all pairs, and how often cross-fitted ones found the person's turn."""

    discriminator: TurnDiscriminator
    choices: tuple[float, ...]
    """Choice per pair: 1 where the person's turn scored above the model's, 1/2 at a tie, else 0."""
    ridge: float

    def by_cluster(self, pairs: Sequence[TurnPair]) -> dict[str, float]:
        """Share of a cluster's pairs in which the person's turn was found."""
        own: dict[str, list[float]] = {}
        for pair, choice in zip(pairs, self.choices, strict=True):
            own.setdefault(pair.cluster, []).append(choice)
        return {cluster: sum(choices) / len(choices) for cluster, choices in own.items()}


def fit(pairs: Sequence[TurnPair], *, render: str = "", model: str | None = None, seed: int = 0) -> Fit:
    """Pairwise logistic regression with an L2 penalty chosen by cross-validation over clusters.

    The choices are cross-fitted with the penalty chosen inside each training part.

    Args:
        pairs: Pairs to fit on.
        render: Fingerprint of the renderer of the model whose turns these are.
        model: Its `weights_fingerprint`.
        seed: Seed of the folds.

    Raises:
        DataError: Pairs of fewer than `FOLDS` clusters.
    """
    import numpy as np

    clusters = [pair.cluster for pair in pairs]
    if len(set(clusters)) < FOLDS:
        raise DataError(f"pairs of {len(set(clusters))} people; a discriminator needs {FOLDS} at least")
    difference, scale_F = _differences(pairs)
    choices = np.full(len(pairs), 0.5)
    fold_P = _folds(clusters, FOLDS, seed)
    for fold in range(FOLDS):
        train, held = np.flatnonzero(fold_P != fold), np.flatnonzero(fold_P == fold)
        own = [clusters[place] for place in train]
        ridge = _best_ridge(difference[train], own, INNER_FOLDS, seed)
        margin_P = difference[held] @ _path(difference[train], ridge)
        choices[held] = (np.sign(np.round(margin_P, 9)) + 1) / 2
    ridge = _best_ridge(difference, clusters, FOLDS, seed)
    weights_D = _path(difference, ridge)
    weights_D[BUCKETS:] /= scale_F
    fitted = TurnDiscriminator(weights_D.astype(np.float16), render, model)
    return Fit(fitted, tuple(choices.tolist()), ridge)


def _differences(pairs: Sequence[TurnPair]) -> tuple[Any, Floats]:
    """(person minus model, one row a pair, form in units of its spread; those units)."""
    import numpy as np
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    data, columns, starts = list[float](), list[int](), [0]
    for pair in pairs:
        context = ReplyContext(pair.goal, pair.turns)
        person, model = context.features(pair.person), context.features(pair.model)
        row = {place: person.get(place, 0.0) - model.get(place, 0.0) for place in person | model}
        columns += row.keys()
        data += row.values()
        starts.append(len(data))
    width = BUCKETS + len(FORM)
    difference = csr_matrix((data, columns, starts), shape=(len(pairs), width), dtype=np.float64)
    form = difference[:, BUCKETS:].toarray()
    spread_F = np.sqrt((form**2).mean(0))
    scale_F: Floats = np.where(spread_F > 1e-6, spread_F, 1.0)
    units_D = np.concatenate([np.ones(BUCKETS), 1 / scale_F])
    return difference.multiply(units_D[None, :]).tocsr(), scale_F


def _best_ridge(difference: Any, clusters: Sequence[str], folds: int, seed: int) -> float:
    """The penalty with the least held-out loss; at a tie the larger one."""
    import numpy as np

    fold_P = _folds(clusters, folds, seed + 1)
    losses = dict.fromkeys(RIDGES, 0.0)
    for fold in range(folds):
        train, held = difference[fold_P != fold], difference[fold_P == fold]
        weights_D = None
        for ridge in RIDGES:
            weights_D = _minimum(train, ridge, weights_D)
            losses[ridge] += float(np.logaddexp(0, -(held @ weights_D)).sum())
    return min(RIDGES, key=lambda ridge: round(losses[ridge], 9))


def _path(difference: Any, ridge: float) -> Floats:
    """Weights at a penalty, from those at the larger ones."""
    weights_D = None
    for larger in RIDGES:
        if larger >= ridge:
            weights_D = _minimum(difference, larger, weights_D)
    assert weights_D is not None, "the penalty is one of the path"
    return weights_D


def _minimum(difference: Any, ridge: float, start_D: Floats | None) -> Floats:
    import numpy as np
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    def cost(weights_D: Floats) -> tuple[float, Floats]:
        margin_P = difference @ weights_D
        share_P = np.exp(-np.logaddexp(0, margin_P))
        loss = np.logaddexp(0, -margin_P).sum() + ridge / 2 * (weights_D @ weights_D)
        return float(loss), ridge * weights_D - difference.T @ share_P

    start_D = np.zeros(difference.shape[1]) if start_D is None else start_D
    solution = minimize(cost, start_D, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(solution.x, dtype=np.float64)


def _folds(clusters: Sequence[str], folds: int, seed: int) -> Any:
    """A fold for every pair; those of one cluster share it."""
    import numpy as np

    names, owner = np.unique(np.asarray(clusters), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[owner]


# -- text ------------------------------------------------------------------------------------------


@lru_cache(maxsize=50_000)
def _bucket(gram: str) -> int:
    """The same on every machine and in every process."""
    return zlib.crc32(gram.encode("utf-8", "surrogatepass")) % BUCKETS


def _word_grams(text: str) -> Iterator[str]:
    tokens = [word.lower() for word in words(text[:CHARACTERS])]
    yield from (f"w {word}" for word in tokens)
    yield from (f"w {first} {second}" for first, second in pairwise(tokens))


def _character_grams(text: str) -> Iterator[str]:
    spaced = f" {_SPACES.sub(' ', text[:CHARACTERS].strip())} "
    for length in (3, 4):
        yield from (f"c {spaced[i : i + length]}" for i in range(len(spaced) - length + 1))


_SPACES = re.compile(r"[^\S\n]+")


def _content(text: str) -> frozenset[str]:
    return frozenset(map(str.lower, words(text[:CHARACTERS]))) - STOP_WORDS


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
