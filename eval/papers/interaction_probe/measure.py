"""The probe: sample under the user's header, score against right and wrong answers, count genuine follow-ups."""

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
from eval.papers.interaction_probe.contexts import ProbeContext
from eval.papers.interaction_probe.followup import (
    KINDS,
    Kind,
    by_embedding,
    by_likelihood,
    kind_of,
    ratio_nats,
)
from eval.papers.interaction_probe.followup_table import Condition, Gap, ProbeReport, ProbeRow
from eval.papers.interaction_probe.grounding import embeddings, likelihoods
from eval.papers.interaction_probe.model import BareUser, TextLikelihood
from usersim.chat_models.answer_cache import AnswerCache
from usersim.stats.estimates import Estimate, bootstrap_ratio, newcombe, resamples, rng_for, wilson
from usersim.text.style import words
from usersim.types import Conversation, Turn, UserProfile

Track = Callable[[str, int], Callable[[], None]]
LEAST_VOICE, MOST_VOICE = 40, 300
BOOTSTRAP = 1000
NOTES = (
    "People had no instruction either: real follow-ups are classified by the same rules and are the reference.",
    "A model that scores its own words favours them: a text is likely under the model that wrote it. Compare with "
    "people by a scorer that is not the probed model (--scorer), or by embedding.",
    "By embedding, chance is the null's share and not one half: any text about the query's subject lies nearer to its "
    "answer. Read every share against the row of the wrong answer.",
    "The rate depends on the temperature; it says whether a base model is fit to become a user, not how human it is.",
)


@dataclass(frozen=True)
class ConditionTexts:
    """Texts of one condition, one a context; None where sampling failed."""

    speaker: str
    temperature: float | None
    condition: Condition
    texts: tuple[str | None, ...]


async def model_texts(
    likelihood: TextLikelihood,
    contexts: Sequence[ProbeContext],
    temperatures: Sequence[float],
    *,
    name: str,
    cache_keys: Mapping[str, str],
    out: Path,
    seed: int,
    track: Track,
) -> tuple[list[ConditionTexts], Counter[str]]:
    """Samples after the own answer and after a wrong one (which is no candidate later), at every temperature."""
    texts_by_condition, failed = [], Counter[str]()
    conditions: tuple[Condition, ...] = ("own answer", "wrong answer")
    for temperature in temperatures:
        user = BareUser(likelihood.model, likelihood.header, temperature)
        for condition in conditions:
            label = f"T {temperature:g}, {condition}"
            asks = [
                Ask(f"{c.id} {condition}", UserProfile(), _history(c, contexts, condition)) for c in contexts
            ]
            journal = DrawJournal(
                out / "drawn" / f"{label.replace(' ', '-').replace(',', '')}.jsonl",
                {**cache_keys, "seed": str(seed), "temperature": f"{temperature:g}", "shown": condition},
            )
            batch = await draw(user, asks, journal, seed=seed, concurrency=4, done=track(label, len(asks)))
            failed += batch.failed
            texts_by_condition.append(
                ConditionTexts(name, temperature, condition, tuple(_text(batch, ask.key) for ask in asks))
            )
    return texts_by_condition, failed


def people_texts(contexts: Sequence[ProbeContext]) -> list[ConditionTexts]:
    """Returns people's real follow-ups and, as their null condition, the follow-ups of other contexts."""
    followups = tuple(c.followup for c in contexts)
    return [
        ConditionTexts("people", None, "own answer", followups),
        ConditionTexts("people", None, "wrong answer", tuple(followups[c.others[-1]] for c in contexts)),
    ]


def _history(
    context: ProbeContext, contexts: Sequence[ProbeContext], condition: Condition
) -> tuple[Turn, ...]:
    answer = context.answer if condition == "own answer" else contexts[context.others[-1]].answer
    return (Turn(role="user", text=context.query), Turn(role="assistant", text=answer))


def _text(batch: Batch, key: str) -> str | None:
    turn = batch.turns.get(key)
    return None if turn is None else turn.text


def spoken_texts(
    condition_texts: Sequence[ConditionTexts], contexts: Sequence[ProbeContext], likelihood: TextLikelihood
) -> list[list[str]]:
    """Returns per context the distinct texts that hold a word and a token."""
    return [
        list(
            dict.fromkeys(
                text
                for one_condition in condition_texts
                if (text := one_condition.texts[i]) and words(text) and likelihood.header.words(text)
            )
        )
        for i in range(len(contexts))
    ]


def row_of(
    condition_texts: ConditionTexts,
    contexts: Sequence[ProbeContext],
    likelihood_scores: Sequence[Mapping[str, Sequence[float]]],
    embedding_scores: Sequence[Mapping[str, tuple[float, Sequence[float]]]],
    voice: Voice | None,
    seed: int,
) -> ProbeRow:
    """Returns the row of a condition. Texts that could not be sampled are left out; empty texts count as "nothing
    said"."""
    kinds: list[Kind] = []
    likelihood_fits, embedding_fits, grounded_flags, ratios, sizes = [], [], [], [], []
    for i, (context, text) in enumerate(zip(contexts, condition_texts.texts, strict=True)):
        if text is None:
            continue
        if text not in likelihood_scores[i]:
            kinds.append("nothing said")
            continue
        right, *wrong = likelihood_scores[i][text]
        cosine, (own_uptake, *others) = embedding_scores[i][text]
        likelihood_fits.append(by_likelihood(right, wrong))
        embedding_fits.append(by_embedding(own_uptake, others))
        grounded_flags.append(likelihood_fits[-1] and embedding_fits[-1])
        ratios.append(ratio_nats(right, wrong))
        sizes.append(len(words(text)))
        is_assistant_voice = voice is not None and bool(voice.scores([text])[0] > voice.threshold)
        kinds.append(
            kind_of(
                text,
                context.query,
                context.answer,
                cosine_query=cosine,
                grounded=grounded_flags[-1],
                heard_as_assistant=is_assistant_voice,
            )
        )
    counts = Counter(kinds)
    return ProbeRow(
        speaker=condition_texts.speaker,
        temperature=condition_texts.temperature,
        shown=condition_texts.condition,
        genuine=wilson(counts["genuine"], len(kinds)),
        kinds={kind: counts[kind] / len(kinds) for kind in KINDS},
        grounded=_share(grounded_flags),
        by_likelihood=_share(likelihood_fits),
        by_embedding=_share(embedding_fits),
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
    conversations: Sequence[Conversation], contexts: Sequence[ProbeContext], seed: int
) -> Voice | None:
    """Trains the voice classifier on conversations outside the contexts; None for too few."""
    context_ids = {context.id for context in contexts}
    other_conversations = [c for c in conversations if c.id not in context_ids and len(c.turns) > 1]
    return Voice(other_conversations[:MOST_VOICE], seed) if len(other_conversations) >= LEAST_VOICE else None


async def probe(
    likelihood: TextLikelihood,
    scorer: TextLikelihood,
    contexts: Sequence[ProbeContext],
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
    """Runs the probe. `conversations` are of the same people; those outside the contexts train the voice classifier."""
    start_time = time.monotonic()
    contexts_hash = hashlib.sha256("\n".join(c.id for c in contexts).encode()).hexdigest()[:16]
    cache_keys = {"weights": weights, "contexts": contexts_hash}
    model_conditions, failed = await model_texts(
        likelihood, contexts, temperatures, name=name, cache_keys=cache_keys, out=out, seed=seed, track=track
    )
    all_conditions = [*people_texts(contexts), *model_conditions]
    texts = spoken_texts(all_conditions, contexts, scorer)
    likelihood_scores = likelihoods(
        scorer,
        contexts,
        texts,
        cache_keys={"weights": scorer_weights},
        cache=AnswerCache(out / "scores"),
        done=track("likelihoods", len(contexts)),
    )
    embedding_scores, voice = embeddings(contexts, texts), learn_voice(conversations, contexts, seed)
    rows = [
        row_of(condition, contexts, likelihood_scores, embedding_scores, voice, seed)
        for condition in all_conditions
    ]
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
        seconds=round(time.monotonic() - start_time, 1),
    )
