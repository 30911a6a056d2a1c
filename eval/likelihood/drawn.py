"""Tables 3, 4, 5 and memorisation of `usersim eval model`, on turns drawn from the model at human prefixes."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.fidelity.samples.features import user_texts
from eval.likelihood import control, memory
from eval.likelihood.drawing import Ask, Batch, DrawJournal, draw, openings, replies
from eval.likelihood.figures import RoleReport
from eval.likelihood.figures import draws as bootstrap_draws
from eval.likelihood.goals import (
    DisclosureCurve,
    GoalReport,
    Retrieval,
    annotated,
    choose_threshold,
    disclosure,
    nearest_goal,
    wording,
)
from eval.likelihood.roles import Said, Voice, people, slips
from eval.likelihood.scored import ScoredModels, Track
from usersim.backends.transformers_local import LocalSampler
from usersim.backends.vllm_http import HttpSampler
from usersim.chat_models.local_chat import LocalChat
from usersim.chat_models.openai_chat import ChatSettings, HttpChat
from usersim.errors import ConfigError
from usersim.stats.estimates import Floats
from usersim.storage.records import read_conversations
from usersim.types import Conversation
from usersim.users.guards import Guards
from usersim.users.prompted import PROMPTS, PromptedUser
from usersim.users.protocols import EndPolicy, Sampling, User
from usersim.users.userlm import UserLM

if TYPE_CHECKING:
    from eval.likelihood.command import HumanSplits

LATER_TURNS = 3
MAX_TOKENS = 96
"""Maximum length of a drawn turn: far above the median of people; bounds the cost of a runaway turn."""


def draw_tables(
    args: argparse.Namespace, people: HumanSplits, scored: ScoredModels, track: Track
) -> dict[str, Any]:
    """Returns the fields of `ModelReport` that need drawn turns.

    Without drawn turns only the goal retrieval by likelihood is returned.
    """
    test = [c for c in people.speaking if c.profile.goal and control.starts_with_exchange(c)]
    if not test:
        return {"goals": _by_likelihood(scored)} if scored.retrieval else {}
    free, controlled = asyncio.run(_draw_all(args, _speakers(args, scored), test, track, scored.weights))
    tables: dict[str, Any] = {}
    if args.draws:
        tables["goals"] = _goals(args, test[: args.draws], people.all_dev, free, scored)
        tables["roles"] = _roles(args, test[: args.draws], people.all_dev, free)
    if args.control:
        chosen = test[: args.control]
        tables["control"] = control.report(
            chosen, controlled, bootstrap=min(args.bootstrap, 500), seed=args.seed
        )
    if args.train is not None:
        turns = [*free[scored.name].turns.values(), *controlled.turns.values()]
        tables["memory"] = _memory(args, [turn.text for turn in turns if turn.text], test, scored)
    return tables


async def _draw_all(
    args: argparse.Namespace,
    speakers: Mapping[str, User],
    test: Sequence[Conversation],
    track: Track,
    hashes: Mapping[str, str],
) -> tuple[dict[str, Batch], Batch]:
    """Returns (turns of each speaker without a requested style, turns of the User LM with one)."""
    free, asks = {}, control.asks(test[: args.control])
    controlled = Batch()
    for index, (name, user) in enumerate(speakers.items()):
        chosen, weights = test[: args.draws], hashes[name.removesuffix(" (prompted)")]
        requests = [*openings(chosen, [c.profile.goal for c in chosen]), *replies(chosen, LATER_TURNS)]
        free[name] = await _run(args, user, name, "free", requests, track, weights=weights)
        if index == 0:
            controlled = await _run(args, user, name, "control", asks, track, weights=weights)
    return free, controlled


# -- speakers --------------------------------------------------------------------------------------


def _speakers(args: argparse.Namespace, scored: ScoredModels) -> dict[str, User]:
    """Users by name. Only the guard against empty turns is on, so that faults are measured; the end is never drawn."""
    sampler = HttpSampler(args.engine) if args.engine else LocalSampler.from_pretrained(scored.model)
    user_lm = UserLM(
        scored.renderer,
        sampler,
        sampling=Sampling(max_tokens=MAX_TOKENS),
        end=EndPolicy(mode="never"),
        guards=Guards.off().model_copy(update={"empty": True, "attempts": 4}),
    )
    speakers: dict[str, User] = {scored.name: user_lm}
    if scored.baseline is not None:
        settings = ChatSettings(temperature=1.0, top_p=0.95, max_tokens=MAX_TOKENS)
        chat = (
            HttpChat(args.baseline_engine, settings=settings)
            if args.baseline_engine
            else LocalChat.from_pretrained(scored.baseline, settings=settings)
        )
        name = f"{scored.baseline.name} (prompted)"
        speakers[name] = PromptedUser(chat, prompt=PROMPTS[scored.prompt])
    return speakers


async def _run(
    args: argparse.Namespace,
    user: User,
    name: str,
    kind: str,
    asks: Sequence[Ask],
    track: Track,
    *,
    weights: str,
) -> Batch:
    path = args.out / "drawn" / f"{kind}-{name.replace(' ', '-')}.jsonl"
    journal = DrawJournal(path, {"name": name, "weights": weights, "seed": str(args.seed), "asks": kind})
    return await draw(user, asks, journal, seed=args.seed, done=track(f"{name}: {kind}", len(asks)))


# -- tables ----------------------------------------------------------------------------------------


def _goals(
    args: argparse.Namespace,
    test: Sequence[Conversation],
    dev: Sequence[Conversation],
    free: Mapping[str, Batch],
    scored: ScoredModels,
) -> GoalReport:
    counts = bootstrap_draws(len(test), args.bootstrap, args.seed)
    texts_by_speaker = {
        "people": _people_texts(test),
        **{name: _batch_texts(test, b) for name, b in free.items()},
    }
    goal_overlaps = {
        name: wording(first, later, test, counts) for name, (first, later) in texts_by_speaker.items()
    }
    nearest = {name: nearest_goal(first, test, args.seed) for name, (first, _) in texts_by_speaker.items()}
    curves, threshold, agreement = _disclosures(args, test, dev, counts)
    return GoalReport(
        retrieval=Retrieval(likelihood=scored.retrieval, embedding=nearest),
        wording=goal_overlaps,
        disclosure=curves,
        disclosure_threshold=threshold,
        disclosure_agreement=agreement,
    )


def _by_likelihood(scored: ScoredModels) -> GoalReport:
    return GoalReport(
        retrieval=Retrieval(likelihood=scored.retrieval, embedding={}),
        wording={},
        disclosure={},
        disclosure_threshold=None,
        disclosure_agreement=None,
    )


OpeningsAndReplies = tuple[dict[str, str], dict[str, list[str]]]


def _people_texts(test: Sequence[Conversation]) -> OpeningsAndReplies:
    texts = {c.id: user_texts(c)[: 1 + LATER_TURNS] for c in test}
    return {i: turns[0] for i, turns in texts.items()}, {i: turns[1:] for i, turns in texts.items()}


def _batch_texts(test: Sequence[Conversation], batch: Batch) -> OpeningsAndReplies:
    first, later = {}, {}
    for conversation in test:
        if (text := batch.text(f"opening {conversation.id}")) is not None:
            first[conversation.id] = text
        reply_texts = [batch.text(ask.key) for ask in replies([conversation], LATER_TURNS)]
        later[conversation.id] = [text for text in reply_texts if text is not None]
    return first, later


def _disclosures(
    args: argparse.Namespace, test: Sequence[Conversation], dev: Sequence[Conversation], counts: Floats
) -> tuple[dict[str, DisclosureCurve], float | None, float | None]:
    """Disclosure curves of people and of the --simulated files, whose users talked to an assistant."""
    marked = [c for c in dev if c.profile.goal and any(f.turn for f in c.profile.goal.facets)]
    faceted = [c for c in test if c.profile.goal and c.profile.goal.facets]
    if not marked or not faceted:
        return {}, None, None
    threshold, agreement = choose_threshold(marked)
    sides = {"people": faceted, **_simulated(args.simulated)}
    curves = {}
    for name, conversations in sides.items():
        own = bootstrap_draws(len(conversations), args.bootstrap, args.seed)
        curves[name] = disclosure(conversations, threshold, own)
    own = bootstrap_draws(len(faceted), args.bootstrap, args.seed)
    curves["people, as annotated"] = annotated(faceted, own)
    return curves, threshold, agreement


def _simulated(entries: Sequence[Path]) -> dict[str, list[Conversation]]:
    sides = {}
    for entry in entries:
        name, equals, path = str(entry).partition("=")
        if not equals:
            raise ConfigError(f"--simulated {entry}: write it as NAME=FILE")
        read = read_conversations(path)
        sides[name] = [c for c in read if c.profile.goal and c.profile.goal.facets and user_texts(c)]
        if not sides[name]:
            raise ConfigError(f"--simulated {entry}: no conversation with a goal that has facets")
    return sides


def _roles(
    args: argparse.Namespace,
    test: Sequence[Conversation],
    dev: Sequence[Conversation],
    free: Mapping[str, Batch],
) -> RoleReport | None:
    if len(dev) < 20:
        return None  # too few to train the speaker classifier
    voice = Voice(dev, args.seed)
    counts = bootstrap_draws(len(test), args.bootstrap, args.seed)
    sides = {"people": people(test, LATER_TURNS)}
    sides |= {name: _user_turns(test, batch) for name, batch in free.items()}
    return RoleReport(
        voice_sensitivity=voice.sensitivity,
        speakers={name: slips(turns, voice, counts) for name, turns in sides.items()},
    )


def _user_turns(test: Sequence[Conversation], batch: Batch) -> list[Said]:
    turns = []
    for owner, conversation in enumerate(test):
        for ask in (*openings([conversation], [None]), *replies([conversation], LATER_TURNS)):
            if (text := batch.text(ask.key)) is not None:
                turns.append(Said(owner, text, ask.turns))
    return turns


def _memory(
    args: argparse.Namespace, texts: Sequence[str], test: Sequence[Conversation], scored: ScoredModels
) -> memory.MemoryReport:
    """Memorisation report of at most 1,000 drawn turns, chosen at random."""
    order = np.random.default_rng(args.seed).permutation(len(texts))[:1000]
    real = [text for c in test for text in user_texts(c)][:1000]
    training = read_conversations(args.train)
    return memory.report([texts[i] for i in order], real, training, scored.renderer)
