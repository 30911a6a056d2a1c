"""Command `usersim eval next-turn`: compares simulators' next turns with people's at the same human prefixes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eval.fidelity.report_record import FileFacts, versions
from eval.next_turn.metrics.family_b_log import log_use
from eval.next_turn.metrics.goal_conditions import CONDITIONS, GoalCondition, under_condition
from eval.next_turn.prefixes import Prefix, prefixes_of, stratified, usable
from eval.next_turn.results import NextTurnReport, SourceFacts
from eval.next_turn.simulators.ceiling import pooled, read_annotated
from eval.next_turn.simulators.draw import draw_turns
from eval.next_turn.simulators.specifications import (
    BEST_OF_HELP,
    DrawSettings,
    Simulator,
    checked_best_of,
    simulator_from,
)
from eval.next_turn.turns import SimulatedTurns
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.errors import ConfigError, DataError
from usersim.storage.locks import locked
from usersim.types import Conversation
from usersim.weights.default_model import BASE_NAME

if TYPE_CHECKING:
    from eval.next_turn.metrics.discriminator_features import Family
    from eval.next_turn.metrics.language_model import LanguageModelScorer
    from usersim.stats.estimates import Estimate

FEW = 50
TITLE = "Next turns beside people's"
OPENING_CHARACTERS = 200
NOTES = (
    "At every prefix the simulator sees what the person saw: the same history, assistant and goal. Nothing that it "
    "writes changes what comes later.",
    "Numbers of the language model are read at up to three prefixes a conversation; contexts are clipped to about 256 "
    "tokens and turns to 128.",
    "Like people: the whole interval of the difference lies within a margin that was fixed beforehand. More or less: "
    "the permutation test, adjusted by Holm over all metrics of the simulator, stays below 5 %.",
    "Leaving: skill 0 is a baseline fitted on the same people, cross-fitted; gain is what P(end) adds to the baseline "
    "after recalibration, which a clock cannot have.",
    "Goals were written from the finished conversations, so their facets give the end away: read leaving with "
    "count-neutral goals and without a goal, too.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--human",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="held-out human conversations (JSONL); repeat for more",
    )
    parser.add_argument(
        "--simulator",
        action="append",
        required=True,
        metavar="NAME=KIND:ARGUMENT",
        help="userlm:MODEL[@ENGINE], endpoint:URL, chat:URL#MODEL, base:MODEL[@ENGINE], nearest:FILE, "
        "policy:POLICY+…, file:TURNS; repeat for more",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of journals and reports")
    parser.add_argument(
        "--train",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what the simulators were trained on; such conversations are left out of the human side",
    )
    parser.add_argument(
        "--ceiling", type=Path, metavar="FILE", help="other people's next turns at the same prefixes (JSONL)"
    )
    parser.add_argument("--limit", type=int, default=200, help="conversations, sources in equal parts (200)")
    parser.add_argument("--with-goal", action="store_true", help="only conversations with a goal")
    parser.add_argument(
        "--goals",
        default="own",
        help=f"goals that leaving is read under, comma-separated: {', '.join(CONDITIONS)} (own)",
    )
    parser.add_argument("--scorer", default=BASE_NAME, help=f"language model of the contrasts ({BASE_NAME})")
    parser.add_argument("--no-scorer", action="store_true", help="leave the language model's numbers out")
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="LOG",
        help="run discriminator family B, too, and log this use in a JSONL file",
    )
    parser.add_argument("--language", default="en", help="of the user turns; `any` keeps all (en)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, default=192, help="tokens of a drawn turn (192)")
    parser.add_argument("--best-of", type=int, default=1, help=BEST_OF_HELP)
    parser.add_argument("--guards", choices=["off", "on"], default="off", help="the same for all (off)")
    parser.add_argument("--concurrency", type=int, default=48, help="requests at a time (48)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--title", default=TITLE)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be drawn and measured, and stop"
    )
    parser.add_argument("--json", action="store_true", help="report.json on stdout as well")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    from eval.next_turn.results_page import write_report

    conditions = goal_conditions(args.goals)
    settings = DrawSettings(
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        guards=args.guards,
        seed=args.seed,
        best_of=checked_best_of(args.best_of),
    )
    simulators = [simulator_from(text, settings) for text in args.simulator]
    if len({s.name for s in simulators}) < len(simulators):
        raise ConfigError("--simulator: every simulator needs a name of its own")
    training = [c for path in args.train for c in load_conversations(path)]
    people, excluded = human_side(args, training)
    prefixes = [prefix for conversation in people for prefix in prefixes_of(conversation)]
    if args.dry_run:
        _print_plan(people, prefixes, excluded, [s.name for s in simulators], conditions)
        return 0
    with locked(args.out):
        report = _evaluate(args, simulators, training, people, prefixes, excluded, conditions)
        write_report(report, args.out)
    for simulator in report.simulators:
        console.print(f"{simulator.name}", style="bold")
        for reading in ("like people", "more", "less", "not told"):
            labels = "; ".join(c.label for c in simulator.claims if c.reading == reading)
            if labels:
                console.print(f"  {reading}: {labels}")
    console.print(f"{report.seconds:.0f} s · {args.out / 'report.html'} · {args.out / 'report.json'}")
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def human_side(
    args: argparse.Namespace, training: Sequence[Conversation]
) -> tuple[list[Conversation], dict[str, int]]:
    """Returns the conversations to measure on, and the number of excluded ones by reason.

    Raises:
        DataError: Fewer than two usable conversations.
    """
    human = [c for path in args.human for c in load_conversations(path)]
    usable_conversations, excluded = usable(human, None if args.language == "any" else args.language)
    training_keys = {c.id for c in training} | {_opening(c) for c in training}
    unseen = [
        c for c in usable_conversations if c.id not in training_keys and _opening(c) not in training_keys
    ]
    excluded["seen in training (id or beginning)"] = len(usable_conversations) - len(unseen)
    eligible = [c for c in unseen if c.profile.goal or not args.with_goal]
    excluded["no goal"] = len(unseen) - len(eligible)
    sample = stratified(eligible, args.limit, args.seed)
    excluded["beyond --limit"] = len(eligible) - len(sample)
    if len(sample) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in (+excluded).items())
        raise DataError(
            f"{len(sample)} usable human conversations; {FEW} at least are needed (left out: {reasons})"
        )
    return sample, dict(+excluded)


def _evaluate(
    args: argparse.Namespace,
    simulators: Sequence[Simulator | SimulatedTurns],
    training: Sequence[Conversation],
    people: Sequence[Conversation],
    prefixes: Sequence[Prefix],
    excluded: dict[str, int],
    conditions: Sequence[GoalCondition],
) -> NextTurnReport:
    from eval.next_turn.metric_vector import Reference, StageClock, Vector

    start = time.monotonic()
    with _progress() as (track, say):
        clock = StageClock(say)
        clock("drawing next turns")
        turn_sets = [
            draw_turns(s, prefixes, args.out, concurrency=args.concurrency, track=track) for s in simulators
        ]
        unsaid = {conversation.id: conversation.unsaid for conversation in people if conversation.unsaid}
        if args.ceiling:
            turn_sets.append(pooled(read_annotated(args.ceiling), prefixes, args.seed))
        leaving: dict[GoalCondition, tuple[Sequence[Prefix], Sequence[SimulatedTurns]]] = {
            "own": (prefixes, turn_sets)
        }
        for condition in conditions:
            if condition == "own":
                continue
            clock(f"P(end) with goals: {condition}")
            condition_prefixes = under_condition(prefixes, condition, unsaid=unsaid, seed=args.seed)
            later = [prefix for prefix in condition_prefixes if prefix.position >= 2]
            probes = [_probe(s, condition) for s in simulators if isinstance(s, Simulator) and s.tells_end]
            leaving[condition] = (
                condition_prefixes,
                [
                    _renamed(
                        draw_turns(s, later, args.out, concurrency=args.concurrency, track=track), condition
                    )
                    for s in probes
                ],
            )
        clock("reading the people")
        scorer = None if args.no_scorer else _scorer(args)
        families: tuple[Family, ...] = ("a", "b") if args.certificate else ("a",)
        reference = Reference(
            tuple(prefixes),
            tuple(people),
            tuple(training),
            scorer,
            families,
            args.seed,
        )
        vector = Vector(reference)
        shared, results = vector.measure(turn_sets, leaving, clock)
        model_of = {s.name: s.source for s in simulators if isinstance(s, Simulator) and s.kind == "userlm"}
        results = [
            r.model_copy(update={"bits_per_character": _likelihood(model_of[r.name], people, track, clock)})
            if r.name in model_of
            else r
            for r in results
        ]
        clock("people's own values")
        own = vector.people(shared)
        clock("")
    use = None
    if args.certificate:
        use = max(log_use(args.certificate, s.name, command_line(), len(shared)) for s in turn_sets)
    return NextTurnReport(
        title=args.title,
        sources=_sources(people, prefixes),
        excluded=excluded,
        prefixes=len(shared),
        conversations=len({prefix.conversation for prefix in shared}),
        leaving_prefixes=sum(prefix.position >= 2 for prefix in prefixes),
        people=own,
        simulators=tuple(results),
        scorer=scorer.name if scorer else "none",
        family_b_use=use,
        notes=(*NOTES, *_notes(people, scorer)),
        seed=args.seed,
        files=tuple(FileFacts.of(path) for path in (*args.human, *args.train)),
        command=command_line(),
        versions=versions(),
        seconds=round(time.monotonic() - start, 1),
        minutes_by_stage={name: round(minutes, 2) for name, minutes in clock.minutes.items()},
    )


def goal_conditions(text: str) -> list[GoalCondition]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CONDITIONS]
    if unknown:
        raise ConfigError(f"--goals {unknown[0]!r}: known are {', '.join(CONDITIONS)}")
    return [condition for condition in CONDITIONS if condition in names]


def _probe(simulator: Simulator, condition: GoalCondition) -> Simulator:
    """Simulator under another name with turns of one token, from which only P(end) is read."""
    from dataclasses import replace

    settings = simulator.settings.model_copy(update={"max_tokens": 1})
    return replace(
        simulator,
        name=f"{simulator.name} {condition}",
        settings=settings,
        identity={**simulator.identity, "goals": condition, "max_tokens": "1"},
    )


def _renamed(turns: SimulatedTurns, condition: GoalCondition) -> SimulatedTurns:
    from dataclasses import replace

    return replace(turns, name=turns.name.removesuffix(f" {condition}"))


def _scorer(args: argparse.Namespace) -> LanguageModelScorer:
    from eval.next_turn.metrics.language_model import LanguageModelScorer

    return LanguageModelScorer.from_pretrained(args.scorer, journal=args.out / "scores.jsonl")


def _likelihood(
    source: str,
    people: Sequence[Conversation],
    track: Callable[[str, int], Callable[[], None]],
    step: Callable[[str], None],
) -> Estimate:
    from eval.likelihood.likelihood import UserScorer
    from eval.next_turn.metrics.likelihood import bits_per_character
    from usersim.weights.default_model import resolve

    step("likelihood of people's turns")
    scorer = UserScorer.from_pretrained(resolve(source))
    return bits_per_character(scorer, people, track("likelihood", len(people)))


def _opening(conversation: Conversation) -> str:
    first = next((turn.text for turn in conversation.turns if turn.role == "user"), "")
    return "opening " + first[:OPENING_CHARACTERS]


def _sources(people: Sequence[Conversation], prefixes: Sequence[Prefix]) -> dict[str, SourceFacts]:
    facts_by_source = {}
    for source in sorted({c.source for c in people}):
        own = [c for c in people if c.source == source]
        here = [prefix for prefix in prefixes if prefix.source == source]
        facts_by_source[source] = SourceFacts(
            conversations=len(own),
            people=len({prefix.cluster for prefix in here}),
            prefixes=len(here),
            with_goal=sum(c.profile.goal is not None for c in own),
            known_ends=sum(prefix.has_left for prefix in here),
        )
    return facts_by_source


def _notes(people: Sequence[Conversation], scorer: LanguageModelScorer | None) -> list[str]:
    notes = []
    if len(people) < FEW:
        notes.append(
            f"Only {len(people)} conversations: most differences cannot be told with fewer than {FEW}."
        )
    if scorer is not None and scorer.name == BASE_NAME:
        notes.append(
            f"The scorer, {BASE_NAME}, is the base of the shipped User LM: it favours words that were drawn from its "
            "own family. Embeddings and an n-gram model stand beside it, and a claim needs both."
        )
    return notes


def _print_plan(
    people: Sequence[Conversation],
    prefixes: Sequence[Prefix],
    excluded: dict[str, int],
    simulators: Sequence[str],
    conditions: Sequence[GoalCondition],
) -> None:
    for source, facts in _sources(people, prefixes).items():
        console.print(
            f"{source}: {facts.conversations} conversations of {facts.people} people, {facts.prefixes} prefixes, "
            f"{facts.with_goal} with a goal, {facts.known_ends} known ends"
        )
    for reason, count in excluded.items():
        console.print(f"  {count} left out: {reason}")
    console.print(f"would draw {len(prefixes)} turns of each of {', '.join(simulators)}")
    for condition in conditions:
        if condition != "own":
            later = sum(prefix.position >= 2 for prefix in prefixes)
            console.print(f"and P(end) at {later} prefixes with goals: {condition}")


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str, int], Callable[[], None]], Callable[[str], None]]]:
    """(progress bar of a counted stage, line of an uncounted stage)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        stage = bar.add_task("reading", total=None)

        def track(name: str, total: int) -> Callable[[], None]:
            task = bar.add_task(name, total=total)
            return lambda: bar.advance(task)

        yield track, lambda name: bar.update(stage, description=name)
