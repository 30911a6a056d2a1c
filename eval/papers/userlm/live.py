"""Metrics that need a live simulator: termination, role and intent adherence; and the optional judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.matching import person_of
from eval.likelihood.drawing import Batch
from eval.likelihood.roles import Voice, people
from eval.papers.userlm import intent, judged, role, termination
from eval.papers.userlm.finished import LEAST, equal_sides, speaking
from eval.papers.userlm.metric_rows import MetricTally, UserLMSettings
from eval.papers.userlm.speakers import Speaker, Track, ask
from usersim.chat_models.judge import Judge
from usersim.stats.estimates import cluster_resamples, rng_for
from usersim.types import Conversation

LEAST_VOICE = 20
KINDS: tuple[role.Temptation, ...] = ("undecided", "swap")


async def measure_live(
    speakers: Sequence[Speaker],
    human: Sequence[Conversation],
    dev: Sequence[Conversation],
    settings: UserLMSettings,
    judge: Judge | None,
    tally: MetricTally,
    track: Track,
) -> None:
    """Measures the live speakers. `dev` are other people, who train the voice classifier; with too few of them it is
    left out."""
    voice = Voice(dev, settings.seed) if len(dev) >= LEAST_VOICE else None
    if voice is None:
        tally.missing["role adherence by voice"] = f"needs --dev with at least {LEAST_VOICE} conversations"
    speaking_people = speaking(human, tally.human_excluded)
    for speaker in speakers:
        await _termination(speaker, speaking_people, settings, tally, track)
        await _role(speaker, speaking_people, settings, voice, tally, track)
        await _intent(speaker, speaking_people, settings, judge, tally, track)


async def _termination(
    speaker: Speaker,
    human: Sequence[Conversation],
    settings: UserLMSettings,
    tally: MetricTally,
    track: Track,
) -> None:
    """Measures termination on conversations with a goal where there are any, because a simulator has a goal in use."""
    with_goal = [c for c in human if c.profile.goal] or list(human)
    order = rng_for(settings.seed, "places of leaving").permutation(len(with_goal))
    sampled = [with_goal[i] for i in order[: settings.places]]
    batch = await ask(speaker, "ends", termination.end_asks(sampled), settings.out, settings.seed, track)
    clusters = [person_of(c) for c in sampled]
    rng = rng_for(settings.seed, f"resamples of leaving {speaker.name}")
    end_results = termination.ends(
        speaker.name, sampled, batch, cluster_resamples(clusters, settings.bootstrap, rng)
    )
    if end_results is None:
        tally.missing[f"{speaker.name}: dialogue termination"] = (
            "needs a prefix with an answer where the person left, and one where the person went on"
        )
    else:
        tally.ends.append(end_results)
        tally.rows += termination.end_rows(end_results)
    _count_failures(speaker, "ends", batch, tally)


async def _role(
    speaker: Speaker,
    human: Sequence[Conversation],
    settings: UserLMSettings,
    voice: Voice | None,
    tally: MetricTally,
    track: Track,
) -> None:
    ordinary = [turn for turn in people(human, 1) if turn.before]
    order = rng_for(settings.seed, "ordinary turns").permutation(len(ordinary))
    reference = [ordinary[i] for i in order[: settings.places]]
    for kind in KINDS:
        prefixes = role.role_asks(kind, settings.places)
        batch = await ask(
            speaker, f"role {kind}", [a for a, _ in prefixes], settings.out, settings.seed, track
        )
        tally.rows += role.role_rows(speaker.name, kind, prefixes, batch, voice, reference)
        _count_failures(speaker, f"role {kind}", batch, tally)


async def _intent(
    speaker: Speaker,
    human: Sequence[Conversation],
    settings: UserLMSettings,
    judge: Judge | None,
    tally: MetricTally,
    track: Track,
) -> None:
    with_goal = [c for c in human if c.profile.goal]
    if len(with_goal) < LEAST:
        tally.missing[f"{speaker.name}: intent adherence"] = (
            f"{len(with_goal)} human conversations with a goal"
        )
        return
    diversion_goals = intent.diversions(with_goal, settings.places, settings.seed)
    diversion_list = [diversion for diversion, _ in diversion_goals]
    batch = await ask(
        speaker, "intent", intent.intent_asks(diversion_goals), settings.out, settings.seed, track
    )
    reference = intent.people_keep_intent(human, settings.places, settings.seed)
    row = intent.intent_row(speaker.name, diversion_list, batch, reference)
    tally.checks |= intent.planted(diversion_list)
    if row is not None:
        tally.rows.append(row)
    if judge is not None:
        tally.rows += await judged.intent_rows(judge, speaker.name, diversion_list, batch)
    _count_failures(speaker, "intent", batch, tally)


def _count_failures(speaker: Speaker, kind: str, batch: Batch, tally: MetricTally) -> None:
    if batch.failed:
        failures = {f"{kind}: {reason}": count for reason, count in batch.failed.items()}
        tally.excluded.setdefault(speaker.name, {}).update(failures)


async def judge_finished(
    judge: Judge,
    simulated: Mapping[str, Sequence[Conversation]],
    human: Sequence[Conversation],
    settings: UserLMSettings,
    tally: MetricTally,
) -> None:
    """Adds the judge's naturalness of first turns, with at most `settings.places` a side."""
    judge_settings = settings.model_copy(update={"max_n": settings.places})
    for name, conversations in simulated.items():
        sides = equal_sides(
            name,
            speaking(conversations, tally.human_excluded),
            speaking(human, tally.human_excluded),
            judge_settings,
        )
        if sides is not None:
            first = [[user_texts(c)[0] for c in side.conversations] for side in sides]
            tally.rows += await judged.naturalness_rows(judge, *sides, first[0], first[1], settings.seed)
