"""Datasheet sections on splits: sizes, lengths, languages and writing style."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from math import sqrt
from typing import Any

from data_prep.datasheet.page_plots import WIDE, Shape, bars, key, number, overlaid
from usersim.report.html import table
from usersim.report.svg import percent
from usersim.types import Style

FIRST_PART = re.compile(r"[;:] |\. (?=[A-Z])|\.$")

Splits = Mapping[str, Mapping[str, Any]]

COLUMNS = {
    "conversations": "conversations",
    "user_turns": "user turns",
    "with_goal": "with a goal",
    "with_persona": "with a free-text persona",
    "groups": "groups",
    "largest_group": "largest group",
    "users": "people known by a key",
}
LENGTHS = {
    "words_per_user_turn": ("Words of a user turn", "share of user turns"),
    "characters_per_conversation": ("Characters of a conversation", "both sides; share of conversations"),
    "group_sizes": ("Conversations in a group", "share of groups"),
}
CHANCE = 1.358
"""Two-sample Kolmogorov-Smirnov coefficient: samples of one population differ by less in 95 of 100 cases."""


def sizes(sheet: Mapping[str, Any], splits: Splits) -> str:
    if not splits:
        return ""
    columns = [name for name in COLUMNS if any(split.get(name) for split in splits.values())]
    rows = [
        (escape(name), *(number(split.get(column)) for column in columns)) for name, split in splits.items()
    ]
    shapes = shapes_of(splits, "user_turns_per_conversation")
    heads = ("split", *(COLUMNS[column] for column in columns))
    plots = (
        f'<div class="grid wide"><div class="card"><h3>User turns of a conversation'
        f"<small>share of conversations; bins are named by their upper end</small></h3>"
        f"{overlaid('user turns of a conversation', shapes, width=WIDE)}</div>"
        f'<div class="card"><h3>How far the splits are apart</h3>{_distances(shapes)}</div></div>'
        if shapes
        else ""
    )
    return (
        f"<h2>Splits</h2><p>By whole groups. {_crossing(sheet)}</p>"
        f'<div class="num">{table(heads, rows)}</div>{key(list(splits))}{plots}'
    )


def _crossing(sheet: Mapping[str, Any]) -> str:
    """Sentence on groups and users in several splits, from `across_splits` of the sheet."""
    crossings = sheet.get("across_splits")
    if not crossings:
        return ""
    counts = " and ".join(f"{number(count)} {escape(name)}" for name, count in crossings.items())
    style = "different" if any(crossings.values()) else "soft"
    return f'Counted again in what was written: <b class="{style}">{counts} in more than one split.</b>'


def shapes_of(splits: Splits, name: str) -> dict[str, Shape]:
    """Returns one shape per split, in order of the splits (which sets the colours); empty if a split lacks it."""
    shapes = {split: values[name] for split, values in splits.items() if name in values}
    return shapes if len(shapes) == len(splits) and any(sum(s["counts"]) for s in shapes.values()) else {}


def _distances(shapes: Mapping[str, Shape]) -> str:
    first, *others = shapes
    if not others:
        return '<p class="soft">There is one split.</p>'
    rows = []
    for other in others:
        gap = distance(shapes[first], shapes[other])
        bound = min(1.0, by_chance(shapes[first]["n"], shapes[other]["n"]))
        cell = percent(gap) if gap <= bound else f'<b class="different">{percent(gap)}</b>'
        median = number(shapes[other]["median"])
        rows.append((f"{escape(other)} from {escape(first)}", cell, percent(bound), median))
    return (
        '<p class="soft">The largest difference in the share of conversations with at most so many turns, beside '
        "what two samples of the same people differ by at most in 95 of 100 cases.</p>"
        f'<div class="num">{table(("", "apart", "by chance", "median"), rows)}</div>'
        f'<p class="soft">Median of {escape(first)}: {number(shapes[first]["median"])}.</p>'
    )


def distance(one: Shape, other: Shape) -> float:
    """Returns the Kolmogorov-Smirnov statistic over the bins."""
    sums = [list(accumulate(shape["counts"])) for shape in (one, other)]
    return float(max(abs(a / sums[0][-1] - b / sums[1][-1]) for a, b in zip(*sums, strict=True)))


def by_chance(one: int, other: int) -> float:
    """Returns the 95 % critical value of the Kolmogorov-Smirnov statistic for two sample sizes."""
    return CHANCE * sqrt((one + other) / (one * other))


def lengths(splits: Splits) -> str:
    cards = "".join(
        card(title, note, shapes_of(splits, name), medians=True) for name, (title, note) in LENGTHS.items()
    )
    return (
        f'<h2>Lengths</h2><p>Bins are named by their upper end.</p>{key(list(splits))}<div class="grid">{cards}</div>'
        if cards
        else ""
    )


def card(title: str, note: str, shapes: Mapping[str, Shape], *, medians: bool = False) -> str:
    if not shapes:
        return ""
    medians_text = " · ".join(number(shape["median"]) for shape in shapes.values())
    subtitle = f"{note} · median {medians_text}" if medians else note
    return f'<div class="card"><h3>{escape(title)}<small>{escape(subtitle)}</small></h3>{overlaid(title, shapes)}</div>'


def languages(splits: Splits) -> str:
    counts = summed(splits, "languages")
    if not counts:
        return ""
    if len(counts) == 1:
        return f"<h2>Languages</h2><p>All {number(sum(counts.values()))} are in “{escape(next(iter(counts)))}”.</p>"
    return (
        "<h2>Languages</h2><p>Of the conversations of all splits, as ISO 639 codes.</p>"
        f'<div class="card codes">{bars(counts, style="c4")}</div>'
    )


def summed(splits: Splits, name: str) -> dict[str, int]:
    """Sums counts over all splits. A name that one split has only as part of `other` counts as `other` here."""
    counters = [Counter(split.get(name) or {}) for split in splits.values()]
    hidden = {
        value
        for counter in counters
        if "other" in counter
        for other in counters
        for value in other
        if value not in counter
    }
    total: Counter[str] = Counter()
    for counter in counters:
        for value, count in counter.items():
            total["other" if value in hidden else value] += count
    rest = total.pop("other", 0)
    ranked = dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
    return ranked | ({"other": rest} if rest else {})


def styles(splits: Splits) -> str:
    names = dict.fromkeys(name for split in splits.values() for name in split.get("style") or {})
    cards = "".join(_style_card(name, splits) for name in names)
    return (
        "<h2>How people write</h2><p>Style is measured from a person's own turns, by the code that also conditions "
        "the model and scores it. Share of conversations; bins are named by their upper end.</p>"
        f'{key(list(splits))}<div class="grid">{cards}</div>'
        if cards
        else ""
    )


def _style_card(name: str, splits: Splits) -> str:
    by_split = {split: (values.get("style") or {}).get(name) for split, values in splits.items()}
    info = Style.model_fields.get(name)
    note = FIRST_PART.split((info.description if info else None) or "")[0].replace("`", "")
    title = name.replace("_", " ").capitalize()
    summaries: Sequence[Any] = [value for value in by_split.values() if value]
    if "values" in summaries[0]:
        counts = summed({split: value for split, value in by_split.items() if value}, "values")
        return f'<div class="card"><h3>{escape(title)}<small>{escape(note)}</small></h3>{bars(counts)}</div>'
    empty = {**summaries[0], "counts": [0] * len(summaries[0]["counts"]), "median": None}
    return card(title, note, {split: value or empty for split, value in by_split.items()})
