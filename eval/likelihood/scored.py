"""Tables 1 and 2 and the likelihood half of table 3: what the model and its prompted base give real turns."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from eval.likelihood.conditions import Condition, usable
from eval.likelihood.figures import Contrast, ModelScores, contrasts, draws, model_scores
from eval.likelihood.goals import picked
from eval.likelihood.likelihood import PromptedScorer, UnpromptedScorer, UserScorer
from eval.likelihood.scoring import ScoreBook, Scores, opening_nats, score_all
from usersim.rendering.renderer import Renderer
from usersim.stats.estimates import Estimate, Floats
from usersim.types import Conversation
from usersim.users.prompted import PROMPTS
from usersim.weights.default_model import USERLM_NAME, file_hash, resolve
from usersim.weights.precision import precision

if TYPE_CHECKING:
    from eval.likelihood.command import People

Track = Callable[[str, int], Callable[[], None]]
ENDS: tuple[Condition, ...] = ("no_goal", "own_goal")
"""The conditions whose end threshold is chosen on dev."""
PROMPTED: tuple[Condition, ...] = ("no_goal", "own_goal", "own_goal_persona")
"""What the prompted base is told; the controls are about the User LM."""


@dataclass
class Scored:
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


def score_models(args: argparse.Namespace, people: People, track: Track) -> Scored:
    """The User LM, then the base prompted (by the prompt that is best on dev) and unprompted."""
    path = resolve(args.model)
    user = UserScorer.from_pretrained(path)
    counts = draws(len(people.test), args.bootstrap, args.seed)
    base = resolve(args.baseline) if args.baseline else None
    name = args.model if args.model == USERLM_NAME else path.name
    scored = Scored(name, path, base, user.renderer, counts)
    cache, weights = args.out / "scores", weights_hash(path)
    identity = {"weights": weights, "render": user.renderer.fingerprint, "precision": precision()}
    book = ScoreBook.at(cache, user, **identity)
    _add(scored, name, book, usable(people.test), args, people, track)
    scored.weights[name] = weights
    if base is not None:
        _add_baseline(scored, base, identity, args, people, track)
    return scored


def _add_baseline(
    scored: Scored,
    base: Path,
    identity: dict[str, str],
    args: argparse.Namespace,
    people: People,
    track: Track,
) -> None:
    cache, weights = args.out / "scores", weights_hash(base)
    plain = PromptedScorer.from_pretrained(base, scored.renderer)
    identity = {**identity, "weights": weights}
    books = {
        name: ScoreBook.at(cache, plain.told(prompt), prompt=prompt, **identity)
        for name, prompt in PROMPTS.items()
    }
    on_dev = {name: _on_dev(book, people.dev, args.seed, track) for name, book in books.items() if people.dev}
    scored.prompt = min(on_dev, key=lambda name: on_dev[name]) if on_dev else "plain"
    name = f"{base.name} (prompted)"
    facts = {"prompt": scored.prompt, "prompts_on_dev": on_dev}
    conditions = [condition for condition in PROMPTED if condition in usable(people.test)]
    _add(scored, name, books[scored.prompt], conditions, args, people, track, **facts)
    unprompted = UnpromptedScorer(plain.model, plain.tokenizer, scored.renderer)
    book = ScoreBook.at(cache, unprompted, prompt="", **identity)
    name_alone = f"{base.name} (unprompted)"
    step = track(name_alone, len(people.test))
    scored.scores[name_alone] = score_all(book, people.test, ["no_goal"], args.seed, step)
    scored.models.append(model_scores(name_alone, scored.scores[name_alone], scored.counts_BN))
    scored.weights[base.name] = weights


def _add(
    scored: Scored,
    name: str,
    book: ScoreBook,
    conditions: Sequence[Condition],
    args: argparse.Namespace,
    people: People,
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
        scored.retrieval[name] = picked(opening_nats(book, people.test, args.seed, step))


def _on_dev(book: ScoreBook, dev: Sequence[Conversation], seed: int, track: Track) -> float:
    """Nats a token of all turns, under the own goal where there are goals."""
    condition: Condition = "own_goal" if "own_goal" in usable(dev) else "no_goal"
    found = score_all(book, dev, [condition], seed, track("prompts on dev", len(dev)))[condition]
    turns = [turn for score in found for turn in score.turns]
    return sum(turn.nats for turn in turns) / sum(turn.tokens for turn in turns)


def weights_hash(folder: Path) -> str:
    """One hash over all weight files, in the order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()
