"""Tables 3, 4 and 5 and memorisation: turns that the model writes itself, at places taken from real conversations."""

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
    Disclosure,
    GoalReport,
    Retrieval,
    annotated,
    choose_threshold,
    disclosure,
    nearest_goal,
    wording,
)
from eval.likelihood.roles import Said, Voice, people, slips
from eval.likelihood.scored import Scored, Track
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
    from eval.likelihood.command import People

LATER_TURNS = 3
MAX_TOKENS = 96
"""Of a drawn turn: far above the median of people, and a runaway turn stays affordable."""


def draw_tables(args: argparse.Namespace, everybody: People, scored: Scored, track: Track) -> dict[str, Any]:
    """The fields of `ModelReport` beyond likelihood and ends; without drawn turns only the goal of ten."""
    test = [c for c in everybody.speaking if c.profile.goal and control.answered(c)]
    if not test:
        return {"goals": _by_likelihood(scored)} if scored.retrieval else {}
    free, asked = asyncio.run(_draw_all(args, _speakers(args, scored), test, track, scored.weights))
    tables: dict[str, Any] = {}
    if args.draws:
        tables["goals"] = _goals(args, test[: args.draws], everybody.heard, free, scored)
        tables["roles"] = _roles(args, test[: args.draws], everybody.heard, free)
    if args.control:
        chosen = test[: args.control]
        tables["control"] = control.report(chosen, asked, bootstrap=min(args.bootstrap, 500), seed=args.seed)
    if args.train is not None:
        drawn = [*free[scored.name].turns.values(), *asked.turns.values()]
        tables["memory"] = _memory(args, [turn.text for turn in drawn if turn.text], test, scored)
    return tables


async def _draw_all(
    args: argparse.Namespace,
    speakers: Mapping[str, User],
    test: Sequence[Conversation],
    track: Track,
    hashes: Mapping[str, str],
) -> tuple[dict[str, Batch], Batch]:
    """(what each speaker says freely, what the User LM says when a style is asked for)."""
    free, asks = {}, control.asks(test[: args.control])
    asked = Batch()
    for index, (name, user) in enumerate(speakers.items()):
        chosen, weights = test[: args.draws], hashes[name.removesuffix(" (prompted)")]
        places = [*openings(chosen, [c.profile.goal for c in chosen]), *replies(chosen, LATER_TURNS)]
        free[name] = await _run(args, user, name, "free", places, track, weights=weights)
        if index == 0:
            asked = await _run(args, user, name, "control", asks, track, weights=weights)
    return free, asked


# -- speakers --------------------------------------------------------------------------------------


def _speakers(args: argparse.Namespace, scored: Scored) -> dict[str, User]:
    """Without guards but for nothing said, so that what they would catch is seen; the end is read, never drawn."""
    sampler = HttpSampler(args.engine) if args.engine else LocalSampler.from_pretrained(scored.model)
    ours = UserLM(
        scored.renderer,
        sampler,
        sampling=Sampling(max_tokens=MAX_TOKENS),
        end=EndPolicy(mode="never"),
        guards=Guards.off().model_copy(update={"empty": True, "attempts": 4}),
    )
    speakers: dict[str, User] = {scored.name: ours}
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
    scored: Scored,
) -> GoalReport:
    counts = bootstrap_draws(len(test), args.bootstrap, args.seed)
    spoken = {"people": _people_said(test), **{name: _batch_said(test, b) for name, b in free.items()}}
    found = {name: wording(first, later, test, counts) for name, (first, later) in spoken.items()}
    nearest = {name: nearest_goal(first, test, args.seed) for name, (first, _) in spoken.items()}
    curves, threshold, agreement = _disclosures(args, test, dev, counts)
    return GoalReport(
        retrieval=Retrieval(likelihood=scored.retrieval, embedding=nearest),
        wording=found,
        disclosure=curves,
        disclosure_threshold=threshold,
        disclosure_agreement=agreement,
    )


def _by_likelihood(scored: Scored) -> GoalReport:
    return GoalReport(
        retrieval=Retrieval(likelihood=scored.retrieval, embedding={}),
        wording={},
        disclosure={},
        disclosure_threshold=None,
        disclosure_agreement=None,
    )


Spoken = tuple[dict[str, str], dict[str, list[str]]]


def _people_said(test: Sequence[Conversation]) -> Spoken:
    texts = {c.id: user_texts(c)[: 1 + LATER_TURNS] for c in test}
    return {i: said[0] for i, said in texts.items()}, {i: said[1:] for i, said in texts.items()}


def _batch_said(test: Sequence[Conversation], batch: Batch) -> Spoken:
    first, later = {}, {}
    for conversation in test:
        if (text := batch.text(f"opening {conversation.id}")) is not None:
            first[conversation.id] = text
        found = [batch.text(ask.key) for ask in replies([conversation], LATER_TURNS)]
        later[conversation.id] = [text for text in found if text is not None]
    return first, later


def _disclosures(
    args: argparse.Namespace, test: Sequence[Conversation], dev: Sequence[Conversation], counts: Floats
) -> tuple[dict[str, Disclosure], float | None, float | None]:
    """People and every --simulated file, whose conversations ran freely with an assistant."""
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


def _simulated(given: Sequence[Path]) -> dict[str, list[Conversation]]:
    sides = {}
    for entry in given:
        name, equals, path = str(entry).partition("=")
        if not equals:
            raise ConfigError(f"--simulated {entry}: give NAME=FILE")
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
        return None  # too few to learn the voices from
    voice = Voice(dev, args.seed)
    counts = bootstrap_draws(len(test), args.bootstrap, args.seed)
    sides = {"people": people(test, LATER_TURNS)}
    sides |= {name: _said(test, batch) for name, batch in free.items()}
    return RoleReport(
        voice_sensitivity=voice.sensitivity,
        speakers={name: slips(said, voice, counts) for name, said in sides.items()},
    )


def _said(test: Sequence[Conversation], batch: Batch) -> list[Said]:
    found = []
    for owner, conversation in enumerate(test):
        for ask in (*openings([conversation], [None]), *replies([conversation], LATER_TURNS)):
            if (text := batch.text(ask.key)) is not None:
                found.append(Said(owner, text, ask.turns))
    return found


def _memory(
    args: argparse.Namespace, drawn: Sequence[str], test: Sequence[Conversation], scored: Scored
) -> memory.MemoryReport:
    """At most 1,000 drawn turns, chosen by the seed."""
    order = np.random.default_rng(args.seed).permutation(len(drawn))[:1000]
    real = [text for c in test for text in user_texts(c)][:1000]
    training = read_conversations(args.train)
    return memory.report([drawn[i] for i in order], real, training, scored.renderer)
