"""Tables 1, 2 and the likelihood half of table 3: real turns scored under the User LM and its prompted base."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from eval.likelihood.conditions import Condition, usable
from eval.likelihood.figures import Contrast, ModelScores, contrasts, draws, model_scores
from eval.likelihood.goals import share_won_by_first
from eval.likelihood.likelihood import PromptedScorer, UnpromptedScorer, UserScorer
from eval.likelihood.scoring import ScoreBook, Scores, opening_nats, score_all
from usersim.rendering.renderer import Renderer
from usersim.stats.estimates import Estimate, Floats
from usersim.types import Conversation
from usersim.users.prompted import PROMPTS
from usersim.weights.default_model import USERLM_NAME, file_hash, resolve
from usersim.weights.precision import precision

if TYPE_CHECKING:
    from eval.likelihood.command import HumanSplits

Track = Callable[[str, int], Callable[[], None]]
ENDS: tuple[Condition, ...] = ("no_goal", "own_goal")
"""Conditions whose end threshold is chosen on dev."""
PROMPTED: tuple[Condition, ...] = ("no_goal", "own_goal", "own_goal_persona")
"""Conditions of the prompted base. The others are controls of the User LM."""


@dataclass
class ScoredModels:
    """Scores of the User LM and its baselines, filled model by model.

    Attributes:
        counts_BN: Bootstrap counts over conversations.
        weights: Hash of the weights by model.
        scores: Scores by model and condition.
        retrieval: Accuracy of goal retrieval by likelihood, by model.
        prompt: Key of the baseline's prompt.
    """

    name: str
    model: Path
    baseline: Path | None
    renderer: Renderer
    counts_BN: Floats
    weights: dict[str, str] = field(default_factory=dict)
    models: list[ModelScores] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    retrieval: dict[str, Estimate] = field(default_factory=dict)
    prompt: str = "plain"

    def contrasts(self) -> list[Contrast]:
        return contrasts(self.scores, self.counts_BN)


def score_models(args: argparse.Namespace, people: HumanSplits, track: Track) -> ScoredModels:
    """Scores the User LM, then the baseline with the prompt that is best on dev, then the baseline without a prompt."""
    path = resolve(args.model)
    user = UserScorer.from_pretrained(path)
    counts = draws(len(people.test), args.bootstrap, args.seed)
    base = resolve(args.baseline) if args.baseline else None
    name = args.model if args.model == USERLM_NAME else path.name
    scored = ScoredModels(name, path, base, user.renderer, counts)
    cache, weights = args.out / "scores", weights_hash(path)
    cache_keys = {"weights": weights, "render": user.renderer.fingerprint, "precision": precision()}
    book = ScoreBook.at(cache, user, **cache_keys)
    _add(scored, name, book, usable(people.test), args, people, track)
    scored.weights[name] = weights
    if base is not None:
        _add_baseline(scored, base, cache_keys, args, people, track)
    return scored


def _add_baseline(
    scored: ScoredModels,
    base: Path,
    cache_keys: dict[str, str],
    args: argparse.Namespace,
    people: HumanSplits,
    track: Track,
) -> None:
    cache, weights = args.out / "scores", weights_hash(base)
    plain = PromptedScorer.from_pretrained(base, scored.renderer)
    cache_keys = {**cache_keys, "weights": weights}
    books = {
        name: ScoreBook.at(cache, plain.with_prompt(prompt), prompt=prompt, **cache_keys)
        for name, prompt in PROMPTS.items()
    }
    on_dev = {
        name: _dev_nats_per_token(book, people.dev, args.seed, track)
        for name, book in books.items()
        if people.dev
    }
    scored.prompt = min(on_dev, key=lambda name: on_dev[name]) if on_dev else "plain"
    name = f"{base.name} (prompted)"
    facts = {"prompt": scored.prompt, "prompts_on_dev": on_dev}
    conditions = [condition for condition in PROMPTED if condition in usable(people.test)]
    _add(scored, name, books[scored.prompt], conditions, args, people, track, **facts)
    unprompted = UnpromptedScorer(plain.model, plain.tokenizer, scored.renderer)
    book = ScoreBook.at(cache, unprompted, prompt="", **cache_keys)
    name_alone = f"{base.name} (unprompted)"
    step = track(name_alone, len(people.test))
    scored.scores[name_alone] = score_all(book, people.test, ["no_goal"], args.seed, step)
    scored.models.append(model_scores(name_alone, scored.scores[name_alone], scored.counts_BN))
    scored.weights[base.name] = weights


def _add(
    scored: ScoredModels,
    name: str,
    book: ScoreBook,
    conditions: Sequence[Condition],
    args: argparse.Namespace,
    people: HumanSplits,
    track: Track,
    **facts: object,
) -> None:
    step = track(name, len(people.test) * len(conditions))
    scored.scores[name] = score_all(book, people.test, conditions, args.seed, step)
    dev = None
    if people.dev:
        ends = [
            condition for condition in ENDS if condition in conditions and condition in usable(people.dev)
        ]
        dev = score_all(book, people.dev, ends, args.seed, track(f"{name}, dev", len(people.dev) * len(ends)))
    scored.models.append(model_scores(name, scored.scores[name], scored.counts_BN, dev, **facts))
    if "own_goal" in conditions:
        step = track(f"{name}, goal of 10", len(people.test))
        scored.retrieval[name] = share_won_by_first(opening_nats(book, people.test, args.seed, step))


def _dev_nats_per_token(book: ScoreBook, dev: Sequence[Conversation], seed: int, track: Track) -> float:
    """Nats per token over all turns, under the own goal if the conversations have goals."""
    condition: Condition = "own_goal" if "own_goal" in usable(dev) else "no_goal"
    scores = score_all(book, dev, [condition], seed, track("prompts on dev", len(dev)))[condition]
    turns = [turn for score in scores for turn in score.turns]
    return sum(turn.nats for turn in turns) / sum(turn.tokens for turn in turns)


def weights_hash(folder: Path) -> str:
    """Returns one SHA-256 hash over all weight files of a folder, in the order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()
