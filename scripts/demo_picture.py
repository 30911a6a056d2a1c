"""Output of `make demo`: a page and a picture of the run beside measured results.

Measured results are read from docs/results, where every file documents its origin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.fidelity.pages.plots import key
from scripts.demo_story import (
    FUTURES,
    RULE,
    SAMPLING,
    SEED,
    WINDOW,
    Neighbour,
    ReplyComparison,
    opening,
    refusals,
    words,
)
from usersim.errors import DataError
from usersim.report.html import render_page, table, talk
from usersim.report.svg import histogram
from usersim.storage.records import atomic_writer
from usersim.types import Conversation, Turn, UserTurn

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "userlm-135m"
SHAPES = RESULTS / "beside-prompted" / "report.json"
SOURCES = {"ShareGPT": "sharegpt", "Chatbot Arena": "arena", "WildChat": "wildchat"}
USERLM, PROMPTED = "userlm-135m", "prompted-smollm2"
NAMES = ("userlm-135m", "its base, prompted", "this run's User LM")
COLOURS = {"human": "#575e6c", "userlm": "#b65300", "prompted": "#006bf4", "live": "#8e4dac"}
"""Colours of usersim/report/page.html."""
CAVEAT = (
    "One goal, one conversation and a few futures show how it works, not how good it is. Length is one attribute of "
    "many: shuffled words would have the right one. The goals were written from the finished conversations, so they "
    "give away some of the words and, by their number of facets, some of the ends. docs/results says what is "
    "measured, with intervals, and what is still wrong."
)


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class MeasuredResults:
    """Results from docs/results."""

    bins: tuple[str, ...]
    human: tuple[float, ...]
    userlm: tuple[float, ...]
    prompted: tuple[float, ...]
    """Shares of user turns by number of words."""
    n: int
    """Number of conversations per side."""
    perplexity: dict[str, tuple[Interval, Interval, Interval]]
    """Perplexity of held-out people's words, by source: User LM with their goal, with another; prompted base with
    theirs."""


@dataclass(frozen=True)
class Story:
    """Results of this run."""

    person: Conversation
    neighbours: Sequence[Neighbour]
    prompted: Sequence[UserTurn | None]
    userlm: Sequence[UserTurn | None]
    conversation: Conversation
    user_turns: Sequence[UserTurn]
    """User turns of the conversation, the end included."""
    comparison: ReplyComparison
    live_words: Sequence[int]
    live_ends: dict[int, list[float]]
    assistant: str


def read_measured(shapes: Path = SHAPES, results: Path = RESULTS) -> MeasuredResults:
    """Reads the measured results. Raises DataError for a report without them."""
    report = _json(shapes)
    try:
        shape = next(feature for feature in report["features"] if feature["key"] == "words_per_turn")
        return MeasuredResults(
            bins=tuple(shape["bins"]),
            human=tuple(shape["human"]),
            userlm=tuple(shape["simulated"][USERLM]),
            prompted=tuple(shape["simulated"][PROMPTED]),
            n=int(report["n"]),
            perplexity={name: _perplexity(results / folder) for name, folder in SOURCES.items()},
        )
    except (KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{shapes}: not the report that the demo's picture reads ({error!r})") from error


def _perplexity(folder: Path) -> tuple[Interval, Interval, Interval]:
    models = {model["name"]: model["likelihood"] for model in _json(folder / "report.json")["models"]}
    base = next(likelihood for name, likelihood in models.items() if name.endswith("(prompted)"))
    own, other = models[USERLM]["own_goal"], models[USERLM]["other_goal"]
    return _exp(own), _exp(other), _exp(base["own_goal"])


def _exp(likelihood: Any) -> Interval:
    nats = likelihood["nats_per_token"]["all"]
    value, low, high = (math.exp(nats[name]) for name in ("value", "low", "high"))
    return Interval(value, low, high, int(nats["n"]))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def shares(counts: Sequence[int], bins: Sequence[str]) -> tuple[float, ...]:
    """Returns the share of `counts` in each bin; a bin's name begins with its lower edge."""
    edges = [int(name.rstrip("+").split("–")[0]) for name in bins]  # noqa: RUF001
    in_bin = [0] * len(bins)
    for count in counts:
        in_bin[max(i for i, edge in enumerate(edges) if edge <= count)] += 1
    return tuple(number / max(1, len(counts)) for number in in_bin)


def write(story: Story, measured: MeasuredResults, out: Path) -> tuple[Path, Path]:
    """Writes `demo.html` and `demo.png` to `out`. Returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_writer(out / "demo.html") as stream:
        stream.write(page(story, measured))
    _draw(story, measured, out / "demo.png")
    return out / "demo.html", out / "demo.png"


# The page.


def page(story: Story, measured: MeasuredResults) -> str:
    goal = story.person.profile.goal
    assert goal is not None
    facets = "".join(f"<li>{escape(facet.text)}</li>" for facet in goal.facets)
    head = (
        f"<h1>Wants to {escape(goal.summary)}</h1><ul>{facets}</ul>"
        f'<p class="lead">The hidden goal of this run of <code>make demo</code>. {escape(RULE)} Both simulated users '
        f"are told it and nothing else; the assistant ({escape(story.assistant)}) never sees it. Temperature "
        f"{SAMPLING.temperature:g}, top_p {SAMPLING.top_p:g}, seed {SEED}, nothing picked; what the "
        "endpoint's guards refuse is drawn again, and says so.</p>"
    )
    sections = [head, _openings(story), _conversation(story), _comparison(story.comparison)]
    return render_page("usersim: one goal, one run", [*sections, _measured(story, measured)], style=STYLE)


STYLE = """\
.talk.human .user::before { content: "person"; }
.card h2 { margin-top: 0; }
.caveat { margin-top: 18px; }
.card .soft { font-size: 13px; margin-top: 8px; }
.cards.wide { grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); align-items: start; }
.cards.wide > div:first-child .talk { margin-top: 0; }
"""


def _openings(story: Story) -> str:
    people = [(opening(story.person), "the person whose goal this is")] + [
        (opening(other.conversation), f"like goal ({other.similarity:.2f}): {_summary(other)}")
        for other in story.neighbours
    ]
    cards = [_card("Real people", "human", people)]
    for title, style, samples in (
        ("The base, prompted to play the user", "c1", story.prompted),
        ("The User LM", "c0", story.userlm),
    ):
        cards.append(
            _card(title, style, [(spoken(turn), f"seed {SEED + i}") for i, turn in enumerate(samples)])
        )
    return f'<h2>How it is opened</h2><div class="cards">{"".join(cards)}</div>'


def _sample_note(index: int, turn: UserTurn | None) -> str:
    notes = [f"seed {SEED + index}", refusals(turn) if turn else ""]
    return "; ".join(filter(None, notes))


def spoken(turn: UserTurn | None) -> str:
    if turn is None:
        return "(nothing: no attempt was fit to say)"
    return "(leaves without a word)" if turn.ends else turn.text


def _summary(other: Neighbour) -> str:
    goal = other.conversation.profile.goal
    return "" if goal is None else goal.summary


def _card(title: str, style: str, texts: Sequence[tuple[str, str]]) -> str:
    bubbles = "".join(
        talk([Turn(role="user", text=text)], f"{words(text)} words; {note}").replace(
            "talk", f"talk {style}", 1
        )
        for text, note in texts
    )
    return f'<div class="card sim {style}"><h2>{escape(title)}</h2>{bubbles}</div>'


def _conversation(story: Story) -> str:
    turns, user_turns = story.conversation.turns, story.user_turns
    note = (
        "the user leaves" if story.conversation.ended_by == "user" else "stopped here: the demo's last turn"
    )
    ends = ", ".join(f"{turn.end_probability:.2f}" for turn in user_turns)
    labels = [str(number + 1) for number in range(1, len(user_turns))]
    bars = ""
    if len(user_turns) > 1:
        heights = [turn.end_probability for turn in user_turns[1:]]
        bars = (
            '<div class="card"><h3>P(end) before each of its turns after the opening</h3>'
            f"{histogram('P(end) by turn', labels, [('c2', heights)])}<p class='soft'>{ends} (the first is the "
            "opening, where leaving is not allowed); the tallest bar is the highest of these values.</p></div>"
        )
    return f'<h2>A conversation</h2><div class="cards wide"><div class="c0">{talk(turns, note)}</div>{bars}</div>'


def _comparison(comparison: ReplyComparison) -> str:
    rows = []
    for name, candidate in zip(("helps", "dodges"), comparison.result.candidates, strict=True):
        between = (
            ""
            if candidate.interval is None
            else f"{candidate.interval[0]:+.2f} to {candidate.interval[1]:+.2f}"
        )
        mean = "none" if candidate.mr is None else f"{candidate.mr:+.3f}"
        rows.append([f"<b>{name}</b>", escape(candidate.text), mean, between, str(candidate.n)])
    difference = "none" if comparison.mean is None else f"{comparison.mean:+.3f}"
    bounds = comparison.interval
    between = "" if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"
    rows.append(
        ["<b>helps - dodges</b>", "paired, by future", difference, between, str(len(comparison.differences))]
    )
    grid = table(["", "reply", "reward", "95 % interval", "futures"], rows, label="rewards")
    return (
        f"<h2>Two replies to the same opening</h2><p>The multiturn-aware reward of a reply is the mean over "
        f"{FUTURES} futures of {WINDOW} further turns of the user: the share of the goal's facets that the assistant "
        "served, less a price per token. Asking, and saying back what the user has said, serve nothing. Future j draws "
        f"from the same seeds after either reply.</p>{grid}<p><b>{escape(comparison.verdict())}</b></p>"
    )


def _measured(story: Story, measured: MeasuredResults) -> str:
    live = shares(story.live_words, measured.bins)
    series = [("human", measured.human), ("c0", measured.userlm), ("c1", measured.prompted), ("c2", live)]
    lengths = histogram("words per user turn", measured.bins, series)
    rows = [
        [
            escape(name),
            *(f"{each.value:.1f} <small>[{each.low:.1f}, {each.high:.1f}]</small>" for each in intervals),
            str(intervals[0].n),
        ]
        for name, intervals in measured.perplexity.items()
    ]
    heads = [
        "held-out people",
        "User LM, their goal",
        "User LM, another's",
        "base prompted, their goal",
        "n",
    ]
    return (
        "<h2>Beside what was measured</h2>"
        f'<div class="cards wide"><div class="card"><h3>Words per user turn (share of turns)</h3>{lengths}{key(NAMES)}'
        f"<p class='soft'>docs/results/userlm-135m/beside-prompted: {measured.n} conversations a side; this run: "
        f"{len(story.live_words)} turns.</p></div>"
        f'<div class="card"><h3>Perplexity per token of what people really wrote (lower: less surprised)</h3>'
        f"{table(heads, rows, label='perplexity')}<p class='soft'>docs/results/userlm-135m/sharegpt, arena, wildchat; "
        f"95 % intervals over conversations. WildChat was never trained on.</p></div></div>"
        f"<p class='caveat'>{escape(CAVEAT)}</p>"
    )


# The picture.


def _draw(story: Story, measured: MeasuredResults, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    lengths, surprise, ends = figure.subplots(1, 3)
    _draw_lengths(lengths, story, measured)
    _draw_surprise(surprise, measured)
    _draw_ends(ends, story)
    goal = story.person.profile.goal
    assert goal is not None
    figure.suptitle(
        f"This run (seed {SEED}) beside measured results: wants to {goal.summary}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=110)


def _draw_lengths(axes: Any, story: Story, measured: MeasuredResults) -> None:
    positions = range(len(measured.bins))
    for name, heights, style in (
        ("people", measured.human, "human"),
        ("userlm-135m", measured.userlm, "userlm"),
        ("its base, prompted", measured.prompted, "prompted"),
    ):
        axes.plot(positions, heights, marker="o", markersize=3, color=COLOURS[style], label=name)
    live = shares(story.live_words, measured.bins)
    axes.bar(
        positions, live, color=COLOURS["live"], alpha=0.25, label=f"this run ({len(story.live_words)} turns)"
    )
    axes.set_xticks(positions, [name.split("–")[0] for name in measured.bins], fontsize=8)  # noqa: RUF001
    axes.set_xlabel("words (lower edge)")
    axes.set_title(
        f"Words per user turn, share of turns\nmeasured, {measured.n} conversations a side", fontsize=10
    )
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def _draw_surprise(axes: Any, measured: MeasuredResults) -> None:
    labels = ("User LM, told their goal", "User LM, told another's", "base prompted, told their goal")
    for index, (name, style, face) in enumerate(
        zip(labels, ("userlm", "userlm", "prompted"), ("full", "none", "full"), strict=True)
    ):
        intervals = [rows[index] for rows in measured.perplexity.values()]
        axes.errorbar(
            [position + 0.16 * (index - 1) for position in range(len(intervals))],
            [each.value for each in intervals],
            yerr=[
                [each.value - each.low for each in intervals],
                [each.high - each.value for each in intervals],
            ],
            fmt="o",
            fillstyle=face,
            color=COLOURS[style],
            capsize=3,
            label=name,
        )
    names = [f"{name}\nn = {rows[0].n}" for name, rows in measured.perplexity.items()]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.set_title(
        "Perplexity of held-out people's words\nmeasured, 95 % intervals; lower is better", fontsize=10
    )
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def _draw_ends(axes: Any, story: Story) -> None:
    by_turn = story.live_ends
    for before, values in by_turn.items():
        axes.plot([before + 1] * len(values), values, ".", color=COLOURS["live"], alpha=0.35)
    axes.plot(
        [before + 1 for before in by_turn],
        [fmean(values) for values in by_turn.values()],
        color=COLOURS["live"],
        label="mean of all turns drawn",
    )
    own = [
        (number, turn.end_probability) for number, turn in enumerate(story.user_turns, start=1) if number > 1
    ]
    if own:
        axes.plot(*zip(*own, strict=True), "s-", color=COLOURS["userlm"], label="the conversation shown")
    axes.set_xticks(sorted({before + 1 for before in by_turn} | {number for number, _ in own}))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("user turn about to be said")
    axes.set_title("P(end) before each user turn\nthis run only", fontsize=10)
    if by_turn or own:
        axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
