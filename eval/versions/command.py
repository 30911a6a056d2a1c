"""Command `usersim eval versions`: compares a User LM with its previous version on held-out people."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from usersim.cli import console, emit_json, load_conversations
from usersim.errors import ConfigError
from usersim.storage.locks import locked
from usersim.storage.records import atomic_writer
from usersim.weights.default_model import BASE_NAME

if TYPE_CHECKING:
    from eval.next_turn.metrics.goal_conditions import Unsaid
    from eval.next_turn.prefixes import Prefix
    from eval.versions.aims import Aim
    from eval.versions.teacher_forced import PrefixScore, TeacherForcedScorer
    from usersim.stats.estimates import Estimate
    from usersim.users.protocols import Sampler

Track = Callable[[str, int], Callable[[], None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="new version: a name, a run directory or a User LM folder")
    parser.add_argument("--before", required=True, metavar="MODEL", help="previous version")
    parser.add_argument(
        "--human",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="held-out human conversations (JSONL); may be repeated",
    )
    parser.add_argument(
        "--train",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="training conversations of either version; their people are excluded; may be repeated",
    )
    parser.add_argument(
        "--limit", type=int, default=300, help="conversations, equally many per source (default: 300)"
    )
    parser.add_argument("--aims", type=Path, metavar="TOML", help="targets: a table [aims] of key = rule")
    parser.add_argument(
        "--next-turn", type=Path, metavar="JSON", help="report of `eval next-turn` on both versions"
    )
    parser.add_argument(
        "--next-turn-names",
        nargs=2,
        default=("new", "before"),
        metavar="NAME",
        help="names of the new and the previous version in that report (default: new before)",
    )
    parser.add_argument(
        "--model-report", type=Path, metavar="JSON", help="report of `eval model` on the new version"
    )
    parser.add_argument(
        "--goals",
        default="none,own,count_neutral",
        help="goals shown to the models, comma-separated (default: none,own,count_neutral)",
    )
    parser.add_argument(
        "--acts", type=int, default=0, help="prefixes at which each act is requested (default: 0, none)"
    )
    parser.add_argument(
        "--engine", metavar="URL", help="vLLM server of the new version (default: load it in this process)"
    )
    parser.add_argument(
        "--scorer",
        default=BASE_NAME,
        help=f"language model for fluency and coherence (default: {BASE_NAME})",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of scores and drawn turns")
    parser.add_argument(
        "--language", default="en", help="language of the user turns; `any` keeps all (default: en)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a table for a model card to FILE"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers and targets as JSON on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write the numbers and targets as JSON to FILE")
    parser.set_defaults(with_goal=True)


def run(args: argparse.Namespace) -> int:
    from eval.next_turn.command import human_side
    from eval.next_turn.prefixes import prefixes_of
    from eval.versions.aims import check_aims, read_aims
    from eval.versions.aims_table import markdown
    from eval.versions.reports import model_numbers, next_turn_numbers

    rules = read_aims(args.aims) if args.aims else {}
    training = [c for path in args.train for c in load_conversations(path)]
    people, excluded = human_side(args, training)
    prefixes = [prefix for conversation in people for prefix in prefixes_of(conversation)]
    unsaid = {conversation.id: conversation.unsaid for conversation in people if conversation.unsaid}
    left_out = "".join(f"; {count} {reason}" for reason, count in excluded.items())
    console.print(f"{len(people)} conversations, {len(prefixes)} prefixes; left out{left_out or ' none'}")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with locked(args.out), Progress(*columns, console=console, transient=True) as bar:

        def track(name: str, total: int) -> Callable[[], None]:
            task = bar.add_task(name, total=total)
            return lambda: bar.advance(task)

        numbers = _teacher_forced(args, prefixes, unsaid, track)
        if args.next_turn:
            numbers |= next_turn_numbers(args.next_turn, *args.next_turn_names)
        if args.model_report:
            numbers |= model_numbers(args.model_report)
        if args.acts:
            numbers |= _acts(args, prefixes, track)
    aims = check_aims(numbers, rules)
    console.print(_table(aims))
    if args.markdown:
        with atomic_writer(args.markdown) as stream:
            stream.write(markdown(aims))
    emit_json(
        {key: aim.model_dump(mode="json") for key, aim in aims.items()}, stdout=args.json, path=args.json_out
    )
    return 0


def _teacher_forced(
    args: argparse.Namespace, prefixes: Sequence[Prefix], unsaid: Unsaid, track: Track
) -> dict[str, Estimate]:
    from eval.next_turn.command import goal_conditions
    from eval.next_turn.metrics.goal_conditions import under_condition
    from eval.next_turn.metrics.leaving import LeavingMetrics
    from eval.next_turn.metrics.values import estimate
    from eval.versions.leaving import brier_skills, shift, with_added_facets
    from eval.versions.likelihood import perplexity_ratio
    from eval.versions.teacher_forced import TeacherForcedScorer

    scorer = TeacherForcedScorer.from_pretrained(args.model, args.out / "scores")
    before = TeacherForcedScorer.from_pretrained(args.before, args.out / "scores")
    sources = sorted({prefix.source for prefix in prefixes})
    numbers: dict[str, Estimate] = {}
    own_scores: list[PrefixScore] = []
    for condition in goal_conditions(args.goals):
        places = under_condition(prefixes, condition, unsaid=unsaid, seed=args.seed)
        scores = _scored(scorer, places, f"new, goal: {condition}", track)
        if condition == "own":
            own_scores = scores
        older = (
            _scored(before, places, f"before, goal: {condition}", track)
            if condition != "count_neutral"
            else None
        )
        for source in sources:
            rows = [i for i, prefix in enumerate(places) if prefix.source == source]
            here, new = [places[i] for i in rows], [scores[i] for i in rows]
            if older is not None:
                key = f"perplexity_ratio.{condition}.{source}"
                numbers[key] = perplexity_ratio(here, new, [older[i] for i in rows])
            for baseline, skill in brier_skills(here, new, seed=args.seed).items():
                if baseline in ("turn", "facets"):
                    numbers[f"leaving.skill.{baseline}.{condition}.{source}"] = skill
        if condition == "count_neutral":
            faceted = [prefix for prefix in places if prefix.goal is not None and prefix.goal.facets]
            metrics = LeavingMetrics(faceted, seed=args.seed)
            if metrics.prefixes:
                numbers["leaving.counting_gain.count_neutral"] = estimate(
                    metrics.sums(metrics.counting_gain())
                )
    added = with_added_facets(prefixes, unsaid) if own_scores else []
    place = {prefix.id: index for index, prefix in enumerate(prefixes)}
    if added:
        changed = _scored(scorer, added, "new, two facets added", track)
        numbers["leaving.two_facets_added"] = shift(added, [own_scores[place[p.id]] for p in added], changed)
    return numbers


def _scored(
    scorer: TeacherForcedScorer, prefixes: Sequence[Prefix], name: str, track: Track
) -> list[PrefixScore]:
    done = track(name, len(prefixes))
    scores = []
    for prefix in prefixes:
        scores.append(scorer.score(prefix))
        done()
    return scores


def _acts(args: argparse.Namespace, prefixes: Sequence[Prefix], track: Track) -> dict[str, Estimate]:
    from eval.likelihood.drawing import DrawJournal
    from eval.likelihood.scored import weights_hash
    from eval.next_turn.metrics.coherence import Coherence, Contexts
    from eval.next_turn.metrics.fluency import LanguageModelFluency
    from eval.next_turn.metrics.language_model import LanguageModelScorer
    from eval.next_turn.metrics.values import difference
    from eval.versions import asked_acts
    from usersim.rendering.renderer import Renderer
    from usersim.stats.estimates import rng_for
    from usersim.text.user_acts import ACTS
    from usersim.users.guards import Guards
    from usersim.users.protocols import EndPolicy
    from usersim.users.userlm import UserLM
    from usersim.weights.default_model import resolve

    path = resolve(args.model)
    renderer = Renderer.from_pretrained(path)
    if not renderer.settings.acts:
        raise ConfigError(f"{args.model} was not trained with acts; run without --acts")
    spoken = [prefix for prefix in prefixes if prefix.text is not None]
    later = [prefix for prefix in spoken if prefix.position >= 2]
    order = rng_for(args.seed, "acts asked for").permutation(len(later))[: args.acts]
    places = [later[i] for i in sorted(order)]
    journal = DrawJournal(
        args.out / "asked-acts.jsonl",
        {"weights": weights_hash(path), "render": renderer.fingerprint, "seed": str(args.seed)},
    )
    user = UserLM(
        renderer,
        _sampler(path, args.engine),
        end=EndPolicy(mode="never"),
        guards=Guards.off().model_copy(update={"empty": True, "attempts": 4}),
    )
    prefixes_by_act = {act: [p for p in places if asked_acts.askable(act, p)] for act in ACTS}
    total = len(places) + sum(map(len, prefixes_by_act.values()))
    texts = asked_acts.draw_acts(user, places, journal, done=track("acts asked for", total))
    numbers: dict[str, Estimate] = {}
    for act in ACTS:
        numbers[f"acts.asked.{act}"] = asked_acts.seen_share(act, places, texts[act])
        numbers[f"acts.not_asked.{act}"] = asked_acts.seen_share(act, places, texts[asked_acts.FREE])
        people = {prefix.id: prefix.text or "" for prefix in places}
        numbers[f"acts.people.{act}"] = asked_acts.seen_share(act, places, people)
    coherence = Coherence(
        LanguageModelScorer.from_pretrained(args.scorer, journal=args.out / "asked-acts-scores.jsonl"),
        Contexts.of(spoken, args.seed),
    )
    scored = [prefix for prefix in places if prefix.id in coherence.contexts.scored]
    for metric, key in ((LanguageModelFluency(coherence), "fluency.lm"), (coherence, "coherence.history.lm")):
        free = metric.values(scored, [texts[asked_acts.FREE][prefix.id] for prefix in scored])[key]
        sides = []
        for act in ACTS:
            own = [texts[act].get(prefix.id) for prefix in scored]
            rows = [i for i, text in enumerate(own) if text is not None]
            values = metric.values([scored[i] for i in rows], [own[i] or "" for i in rows])[key]
            sides.append((rows, values))
        sums = asked_acts.paired(scored, sides, free)
        numbers[f"acts.{key}.over_free"] = difference(*sums)
    return numbers


def _sampler(path: Path, engine: str | None) -> Sampler:
    if engine is not None:
        from usersim.backends.vllm_http import HttpSampler

        return HttpSampler(engine)
    from usersim.backends.transformers_local import LocalSampler

    return LocalSampler.from_pretrained(path)


def _table(aims: dict[str, Aim]) -> Table:
    from eval.versions.aims import written

    table = Table("number", "value [95 %]", "n", "aim", "met")
    for key, aim in aims.items():
        met = "" if aim.met is None else "yes" if aim.met else "no"
        table.add_row(key, written(aim), str(aim.n), aim.aim or "", met)
    return table
