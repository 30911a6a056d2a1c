"""The probe: draw under the user's header, score against right and wrong answers, count genuine follow-ups."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.fidelity.report_record import versions
from eval.likelihood.drawing import Ask, Batch, DrawJournal, draw
from eval.likelihood.roles import Voice
from eval.papers.interaction_probe.contexts import Context
from eval.papers.interaction_probe.followup import (
    KINDS,
    Kind,
    by_embedding,
    by_likelihood,
    kind_of,
    ratio_nats,
)
from eval.papers.interaction_probe.followup_table import Gap, ProbeReport, ProbeRow, Shown
from eval.papers.interaction_probe.grounding import embeddings, likelihoods
from eval.papers.interaction_probe.model import BareUser, Likelihood
from usersim.chat_models.answer_cache import AnswerCache
from usersim.stats.estimates import Estimate, bootstrap_ratio, newcombe, resamples, rng_for, wilson
from usersim.text.style import words
from usersim.types import Conversation, Turn, UserProfile

Track = Callable[[str, int], Callable[[], None]]
LEAST_VOICE, MOST_VOICE = 40, 300
BOOTSTRAP = 1000
NOTES = (
    "No person is instructed either: real follow-ups are read by the same rules, and are the reference.",
    "A model that scores its own words favours them: a text is likely under what it was drawn from. Compare with "
    "people by a scorer that is not the probed model (--scorer), or by embedding.",
    "By embedding, chance is the null's share and not one half: what is about the query's subject lies nearer to its "
    "answer. Read every share against the row of the wrong answer.",
    "The rate depends on the temperature; it says whether a base model is fit to become a user, not how human it is.",
)


@dataclass(frozen=True)
class Said:
    """One condition's texts, one a context; None where nothing could be drawn."""

    speaker: str
    temperature: float | None
    shown: Shown
    texts: tuple[str | None, ...]


async def said_by_model(
    likelihood: Likelihood,
    contexts: Sequence[Context],
    temperatures: Sequence[float],
    *,
    name: str,
    identity: Mapping[str, str],
    out: Path,
    seed: int,
    track: Track,
) -> tuple[list[Said], Counter[str]]:
    """After the own answer and after a wrong one that is no candidate later, at every temperature."""
    found, failed = [], Counter[str]()
    shown: tuple[Shown, ...] = ("own answer", "wrong answer")
    for temperature in temperatures:
        user = BareUser(likelihood.model, likelihood.header, temperature)
        for condition in shown:
            label = f"T {temperature:g}, {condition}"
            asks = [
                Ask(f"{c.id} {condition}", UserProfile(), _history(c, contexts, condition)) for c in contexts
            ]
            journal = DrawJournal(
                out / "drawn" / f"{label.replace(' ', '-').replace(',', '')}.jsonl",
                {**identity, "seed": str(seed), "temperature": f"{temperature:g}", "shown": condition},
            )
            batch = await draw(user, asks, journal, seed=seed, concurrency=4, done=track(label, len(asks)))
            failed += batch.failed
            found.append(Said(name, temperature, condition, tuple(_text(batch, ask.key) for ask in asks)))
    return found, failed


def said_by_people(contexts: Sequence[Context]) -> list[Said]:
    """Their real follow-ups, and as their null those of somebody else."""
    own = tuple(c.followup for c in contexts)
    return [
        Said("people", None, "own answer", own),
        Said("people", None, "wrong answer", tuple(own[c.others[-1]] for c in contexts)),
    ]


def _history(context: Context, contexts: Sequence[Context], shown: Shown) -> tuple[Turn, ...]:
    answer = context.answer if shown == "own answer" else contexts[context.others[-1]].answer
    return (Turn(role="user", text=context.query), Turn(role="assistant", text=answer))


def _text(batch: Batch, key: str) -> str | None:
    turn = batch.turns.get(key)
    return None if turn is None else turn.text


def spoken_texts(
    said: Sequence[Said], contexts: Sequence[Context], likelihood: Likelihood
) -> list[list[str]]:
    """Per context the distinct texts that hold a word and a token."""
    return [
        list(
            dict.fromkeys(
                text for s in said if (text := s.texts[i]) and words(text) and likelihood.header.words(text)
            )
        )
        for i in range(len(contexts))
    ]


def row_of(
    said: Said,
    contexts: Sequence[Context],
    nats: Sequence[Mapping[str, Sequence[float]]],
    near: Sequence[Mapping[str, tuple[float, Sequence[float]]]],
    voice: Voice | None,
    seed: int,
) -> ProbeRow:
    """Texts that could not be drawn are left out; those that say nothing count as such."""
    kinds: list[Kind] = []
    likely, close, both, ratios, sizes = [], [], [], [], []
    for i, (context, text) in enumerate(zip(contexts, said.texts, strict=True)):
        if text is None:
            continue
        if text not in nats[i]:
            kinds.append("nothing said")
            continue
        right, *wrong = nats[i][text]
        cosine, (taken, *others) = near[i][text]
        likely.append(by_likelihood(right, wrong))
        close.append(by_embedding(taken, others))
        both.append(likely[-1] and close[-1])
        ratios.append(ratio_nats(right, wrong))
        sizes.append(len(words(text)))
        heard = voice is not None and bool(voice.scores([text])[0] > voice.threshold)
        kinds.append(
            kind_of(
                text,
                context.query,
                context.answer,
                cosine_query=cosine,
                grounded=both[-1],
                heard_as_assistant=heard,
            )
        )
    counts = Counter(kinds)
    return ProbeRow(
        speaker=said.speaker,
        temperature=said.temperature,
        shown=said.shown,
        genuine=wilson(counts["genuine"], len(kinds)),
        kinds={kind: counts[kind] / len(kinds) for kind in KINDS},
        grounded=_share(both),
        by_likelihood=_share(likely),
        by_embedding=_share(close),
        nats=_mean(ratios, seed),
        words=float(np.median(sizes)) if sizes else None,
    )


def _share(flags: Sequence[bool]) -> Estimate | None:
    return wilson(sum(flags), len(flags)) if flags else None


def _mean(values: Sequence[float], seed: int) -> Estimate | None:
    if not values:
        return None
    counts = resamples(len(values), BOOTSTRAP, rng_for(seed, "nats"))
    return bootstrap_ratio(np.array(values), np.ones(len(values)), counts)


def gaps(rows: Sequence[ProbeRow]) -> list[Gap]:
    people = next(r for r in rows if r.speaker == "people" and r.shown == "own answer")
    null = {r.temperature: r for r in rows if r.speaker != "people" and r.shown == "wrong answer"}
    return [
        Gap(
            speaker=r.speaker,
            temperature=r.temperature,
            over_null=newcombe(r.genuine, null[r.temperature].genuine),
            under_people=newcombe(people.genuine, r.genuine),
        )
        for r in rows
        if r.speaker != "people" and r.shown == "own answer" and r.temperature is not None
    ]


def learn_voice(
    conversations: Sequence[Conversation], contexts: Sequence[Context], seed: int
) -> Voice | None:
    """From conversations outside the contexts; None for too few."""
    used = {context.id for context in contexts}
    rest = [c for c in conversations if c.id not in used and len(c.turns) > 1]
    return Voice(rest[:MOST_VOICE], seed) if len(rest) >= LEAST_VOICE else None


async def probe(
    likelihood: Likelihood,
    scorer: Likelihood,
    contexts: Sequence[Context],
    conversations: Sequence[Conversation],
    *,
    name: str,
    weights: str,
    scorer_name: str,
    scorer_weights: str,
    temperatures: Sequence[float],
    excluded: Mapping[str, int],
    out: Path,
    seed: int,
    track: Track,
) -> ProbeReport:
    """`conversations`: of the same people, from which voices are learnt where they are not contexts."""
    started = time.monotonic()
    asked = hashlib.sha256("\n".join(c.id for c in contexts).encode()).hexdigest()[:16]
    identity = {"weights": weights, "contexts": asked}
    drawn, failed = await said_by_model(
        likelihood, contexts, temperatures, name=name, identity=identity, out=out, seed=seed, track=track
    )
    said = [*said_by_people(contexts), *drawn]
    texts = spoken_texts(said, contexts, scorer)
    nats = likelihoods(
        scorer,
        contexts,
        texts,
        identity={"weights": scorer_weights},
        cache=AnswerCache(out / "scores"),
        done=track("likelihoods", len(contexts)),
    )
    near, voice = embeddings(contexts, texts), learn_voice(conversations, contexts, seed)
    rows = [row_of(s, contexts, nats, near, voice, seed) for s in said]
    wrong = len(contexts[0].others) - 1
    return ProbeReport(
        model=name,
        weights=weights,
        scorer=scorer_name,
        contexts=len(contexts),
        wrong_answers=wrong,
        chance=1 / (wrong + 1),
        rows=tuple(rows),
        gaps=tuple(gaps(rows)),
        excluded=dict(excluded),
        failed=dict(failed),
        voice_sensitivity=voice.sensitivity if voice else None,
        notes=NOTES,
        seed=seed,
        versions=versions(),
        seconds=round(time.monotonic() - started, 1),
    )
