"""Command `usersim eval choose-decoding`: the sampling parameters at which a User LM is hardest to tell from people.

Turns are drawn at prefixes of dev conversations under every setting of a small grid. Discriminator family A makes a
two-alternative forced choice between each drawn turn and the person's own. The setting with the accuracy nearest to
0.5 is chosen; at a tie the default. Family A may be tuned against; family B, which certificates read, is not used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from eval.fidelity.report_record import FileFacts, versions
from eval.next_turn.prefixes import Prefix, language_model_prefixes, prefixes_of, stratified, usable
from eval.next_turn.simulators.draw import draw_turns
from eval.next_turn.simulators.specifications import DrawSettings, checked_best_of, simulator_from
from eval.next_turn.turns import SimulatedTurns, shared_prefixes
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.decoding.parameters import Sampling
from usersim.errors import ConfigError, DataError
from usersim.stats.estimates import Estimate
from usersim.storage.locks import locked
from usersim.storage.records import write_json
from usersim.types import Record

RESULT = "decoding.json"
TOP_P = (0.8, 0.9, 0.95, 1.0)
TEMPERATURES = (0.8, 1.0)
DEFAULT = Sampling()
Setting = tuple[float, float, int]
"""(temperature, top_p, best_of)."""


class SettingResult(Record):
    """One setting of the grid."""

    temperature: float
    top_p: float
    best_of: int = 1
    told_apart: Estimate
    """Accuracy of family A's forced choice at all prefixes; 0.5: cannot be told from people."""
    told_apart_later: Estimate | None = None
    """Accuracy at the third turn and later."""
    words: float
    """Mean words of a drawn turn."""
    words_of_people: float
    tokens_drawn: float | None = None
    """Mean tokens drawn for a turn, of all its candidates: the cost."""


class DecodingChoice(Record):
    """Content of `decoding.json`."""

    temperature: float
    top_p: float
    best_of: int = 1
    max_tokens: int
    table: tuple[SettingResult, ...] = Field(min_length=1)
    prefixes: int
    """Number of prefixes at which every setting and the person wrote a turn."""
    conversations: int
    model: str
    seed: int
    files: tuple[FileFacts, ...] = ()
    command: str = ""
    versions: dict[str, str] = Field(default={})
    seconds: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="MODEL[@ENGINE]", help="User LM folder or run; a running vLLM"
    )
    parser.add_argument(
        "--human",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="dev conversations (JSONL); repeat for more",
    )
    parser.add_argument("--out", type=Path, required=True, help=f"directory of journals and {RESULT}")
    parser.add_argument("--top-p", default=_listed(TOP_P), help=f"values to try ({_listed(TOP_P)})")
    parser.add_argument(
        "--temperature", default=_listed(TEMPERATURES), help=f"values to try ({_listed(TEMPERATURES)})"
    )
    parser.add_argument("--best-of", default="1", help="values to try; above 1 needs a discriminator (1)")
    parser.add_argument("--max-tokens", type=int, default=DEFAULT.max_tokens, help="tokens of a turn (192)")
    parser.add_argument("--limit", type=int, default=100, help="conversations, sources in equal parts (100)")
    parser.add_argument("--language", default="en", help="of the user turns; `any` keeps all (en)")
    parser.add_argument("--concurrency", type=int, default=48, help="requests at a time (48)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print what would be drawn, and stop")
    parser.add_argument("--json", action="store_true", help=f"{RESULT} on stdout as well")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    grid = [
        (t, p, b)
        for t in _values("--temperature", args.temperature)
        for p in _values("--top-p", args.top_p)
        for b in _counts("--best-of", args.best_of)
    ]
    settings = {
        (t, p, b): DrawSettings(temperature=t, top_p=p, best_of=b, max_tokens=args.max_tokens, seed=args.seed)
        for t, p, b in grid
    }
    prefixes = dev_prefixes(args)
    conversations = len({prefix.conversation for prefix in prefixes})
    console.print(
        f"{conversations} conversations, {len(prefixes)} prefixes, {len(settings)} settings: "
        f"{len(prefixes) * len(settings)} turns to draw"
    )
    if args.dry_run:
        return 0
    started = time.monotonic()
    with locked(args.out):
        drawn = _draw(args, settings, prefixes)
        table, shared = compare_settings(prefixes, drawn, seed=args.seed)
        temperature, top_p, best_of = chosen(table)
        choice = DecodingChoice(
            temperature=temperature,
            top_p=top_p,
            best_of=best_of,
            max_tokens=args.max_tokens,
            table=tuple(table),
            prefixes=len(shared),
            conversations=len({prefix.conversation for prefix in shared}),
            model=args.model,
            seed=args.seed,
            files=tuple(FileFacts.of(path) for path in args.human),
            command=command_line(),
            versions=versions(),
            seconds=round(time.monotonic() - started, 1),
        )
        write_json(args.out / RESULT, choice.model_dump(mode="json"))
    for row in sorted(table, key=_distance):
        mark = "→" if (row.temperature, row.top_p, row.best_of) == (temperature, top_p, best_of) else " "
        drawn_tokens = "" if row.tokens_drawn is None else f", {row.tokens_drawn:.0f} tokens drawn a turn"
        console.print(
            f"{mark} temperature {row.temperature:g}, top_p {row.top_p:g}, best of {row.best_of}: "
            f"told apart {row.told_apart.value:.3f} [{row.told_apart.low:.3f}, {row.told_apart.high:.3f}], "
            f"{row.words:.1f} words (people {row.words_of_people:.1f}){drawn_tokens}"
        )
    emit_json(choice.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def dev_prefixes(args: argparse.Namespace) -> list[Prefix]:
    """Returns at most three prefixes of each conversation: the first two turns and a later one.

    Raises:
        DataError: Fewer than two people with usable conversations.
    """
    human = [conversation for path in args.human for conversation in load_conversations(path)]
    kept, excluded = usable(human, None if args.language == "any" else args.language)
    people = stratified(kept, args.limit, args.seed)
    prefixes = language_model_prefixes([p for c in people for p in prefixes_of(c)], args.seed)
    if len({prefix.cluster for prefix in prefixes}) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.items()) or "none left out"
        raise DataError(
            f"{args.human[0]}: usable conversations of fewer than two people ({reasons}); a discriminator cannot be "
            "cross-fitted, so leave the sampling parameters at their defaults"
        )
    return prefixes


def compare_settings(
    prefixes: Sequence[Prefix], drawn: Mapping[Setting, SimulatedTurns], *, seed: int = 0
) -> tuple[list[SettingResult], list[Prefix]]:
    """Returns family A's accuracy under each setting, at the prefixes at which all of them have a turn.

    Raises:
        DataError: Such prefixes are of fewer than two people.
    """
    from eval.next_turn.metrics.discriminator_features import Lexical
    from eval.next_turn.metrics.discriminators import told_apart
    from eval.next_turn.metrics.values import ClusterSums, Values, estimate
    from usersim.text.style import count_words

    shared = shared_prefixes(prefixes, list(drawn.values()))
    clusters = [prefix.cluster for prefix in shared]
    if len(set(clusters)) < 2:
        raise DataError(
            f"all settings wrote something at {len(shared)} prefixes of {len(set(clusters))} people; two people "
            "are needed at least"
        )

    def measured(values: Values) -> Estimate | None:
        sums = ClusterSums.of(values, clusters)
        return estimate(sums, is_share=True) if sums.n_clusters >= 2 else None

    def mean_words(texts: Sequence[str]) -> float:
        return round(sum(map(count_words, texts)) / len(texts), 2)

    lexical = Lexical()
    people_texts = [prefix.text or "" for prefix in shared]
    people_rows = lexical.features(shared, people_texts)
    table = []
    for (temperature, top_p, best_of), turns in drawn.items():
        tokens = [turns.tokens[prefix.id] for prefix in shared if prefix.id in turns.tokens]
        texts = [turns.text(prefix) or "" for prefix in shared]
        rows = lexical.features(shared, texts)
        choices = told_apart(rows, people_rows, clusters, ridge=lexical.ridge, seed=seed)
        values = choices.values("a", shared)
        overall = measured(values["told_apart.a.all"])
        assert overall is not None, "two clusters are there, each with a prefix"
        table.append(
            SettingResult(
                temperature=temperature,
                top_p=top_p,
                best_of=best_of,
                told_apart=overall,
                told_apart_later=measured(values["told_apart.a.3+"]),
                words=mean_words(texts),
                words_of_people=mean_words(people_texts),
                tokens_drawn=round(sum(tokens) / len(tokens), 1) if tokens else None,
            )
        )
    return table, shared


def chosen(table: Sequence[SettingResult]) -> Setting:
    """Returns the setting with the accuracy nearest to 0.5; at a tie the fewest candidates, then the default-most."""
    best = min(table, key=lambda row: (_distance(row), row.best_of, _steps_from_default(row)))
    return best.temperature, best.top_p, best.best_of


def _distance(row: SettingResult) -> float:
    return round(abs(row.told_apart.value - 0.5), 9)


def _steps_from_default(row: SettingResult) -> float:
    return abs(row.temperature - DEFAULT.temperature) + abs(row.top_p - DEFAULT.top_p)


def _draw(
    args: argparse.Namespace, settings: Mapping[Setting, DrawSettings], prefixes: Sequence[Prefix]
) -> dict[Setting, SimulatedTurns]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("drawing", total=len(prefixes) * len(settings))

        def track(name: str, total: int) -> Callable[[], None]:
            bar.update(task, description=name)
            return lambda: bar.advance(task)

        drawn = {}
        for (temperature, top_p, best_of), chosen_settings in settings.items():
            name = f"temperature-{temperature:g}-top-p-{top_p:g}"
            name += f"-best-of-{best_of}" if best_of > 1 else ""
            simulator = simulator_from(f"{name}=userlm:{args.model}", chosen_settings)
            drawn[temperature, top_p, best_of] = draw_turns(
                simulator, prefixes, args.out, concurrency=args.concurrency, track=track
            )
    return drawn


def _values(option: str, text: str) -> list[float]:
    """Distinct numbers of a list, in order."""
    try:
        numbers = list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: write numbers with commas between them") from error
    for number in numbers:
        if not 0 < number <= (1 if option == "--top-p" else 2):
            raise ConfigError(f"{option} {number:g}: above 0 and at most {1 if option == '--top-p' else 2}")
    return numbers


def _counts(option: str, text: str) -> list[int]:
    """The whole numbers of a list, in order and once each."""
    try:
        counts = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: write whole numbers with commas between them") from error
    return [checked_best_of(count) for count in counts]


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
