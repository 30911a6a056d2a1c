"""Page `datasheet.html`: sources, cleaning steps, splits and examples of a run. HTML without scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from data_prep.datasheet.page_people import endings, examples_of, goals, personas
from data_prep.datasheet.page_plots import bars, facts, number, steps
from data_prep.datasheet.page_splits import languages, lengths, sizes, styles
from usersim.report.html import details, render_page, table
from usersim.types import Conversation

MOTIVATION = (
    "Conversations of people with assistants, prepared for training and measuring a model of the person: what "
    "people ask, in what words, in how many turns, and when they leave."
)
UNIT = (
    "One record is a conversation: turns of a person and an assistant in alternation, with the measured style of "
    "the person and, where a person or a model wrote one, a hidden goal. Conversations of one group (same person, "
    "same opening, near-duplicates) stay in one split."
)
LIMITS = (
    "Personal data is looked for by kind (see below) and not all of it is found: treat the text as personal data. "
    "Do not use it to identify people. The people here are those of the sources, not people at large, and what "
    "they say can be wrong or hurtful."
)
LEFT_OUT = (
    "No text of conversations, goals or personas is on this page, nor examples of malformed records or folders "
    "of the machine it was made on: it was made with <code>--no-text</code>."
)
UNSTATED = "not stated; the terms of the source hold"
FOLDERS = re.compile(r"(?<![\w.~])~?/(?:[^/\s:]+/)+")

Sheet = Mapping[str, Any]


def render_datasheet(
    sheet: Sheet, examples: Mapping[str, Sequence[Conversation]] | None, *, text: bool
) -> str:
    """Returns the datasheet as HTML; a missing key leaves its section out.

    Args:
        sheet: the datasheet, as in datasheet.json.
        examples: conversations to show, by split.
        text: False leaves out all text that people wrote, and folder names.
    """
    if not text:
        sheet, examples = without_folders(sheet), None
    splits = {
        name: split for name, split in (sheet.get("splits") or {}).items() if split.get("conversations")
    }
    sections = [
        _head(sheet, splits, text),
        _steps(sheet),
        _sources(sheet, text),
        _replacements(sheet),
        sizes(sheet, splits),
        lengths(splits),
        languages(splits),
        styles(splits),
        goals(sheet, splits, text),
        personas(sheet, text),
        endings(splits),
        examples_of(examples or {}, list(splits)),
        _run_facts(sheet),
    ]
    style = files("data_prep.datasheet").joinpath("page.css").read_text(encoding="utf-8")
    return render_page(f"{_title(sheet)}: datasheet", [s for s in sections if s], style=style)


def without_folders(value: Any) -> Any:
    """Removes folders from paths: `/home/me/logs/a.jsonl` becomes `a.jsonl`."""
    if isinstance(value, str):
        return FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {without_folders(name): without_folders(item) for name, item in value.items()}
    return [without_folders(item) for item in value] if isinstance(value, list | tuple) else value


def _all_sources(sheet: Sheet) -> list[Sheet]:
    return sheet.get("sources") or ([sheet["source"]] if "source" in sheet else [])


def _title(sheet: Sheet) -> str:
    return (
        " + ".join(dict.fromkeys(str(source.get("name")) for source in _all_sources(sheet)))
        or "Conversations"
    )


def _head(sheet: Sheet, splits: Sheet, text: bool) -> str:
    total = sum(split["conversations"] for split in splits.values())
    with_goal = sum(split.get("with_goal", 0) for split in splits.values())
    cards = "".join(
        f'<div class="card sim c{index % 6}"><h3>{escape(name)}</h3>'
        f'<div class="big">{number(split["conversations"])} <small>conversations</small></div>'
        f'<p class="soft">{number(split.get("user_turns"))} user turns, '
        f"{number(split.get('with_goal'))} with a goal</p></div>"
        for index, (name, split) in enumerate(splits.items())
    )
    about = {
        "What for": escape(str(sheet.get("motivation") or MOTIVATION)),
        "A record": escape(UNIT),
        "Licences": _licences(sheet),
        "Take care": escape(LIMITS),
    }
    definitions = "".join(f"<dt>{name}</dt><dd>{content}</dd>" for name, content in about.items())
    return (
        f"<h1>{escape(_title(sheet))}: datasheet</h1>"
        f'<p class="lead">{number(total)} conversations, {number(with_goal)} with a hidden goal.</p>'
        f"{'' if text else f'<p class=left-out>{LEFT_OUT}</p>'}"
        f'<div class="cards">{cards}</div><dl class="about">{definitions}</dl>'
    )


def _licences(sheet: Sheet) -> str:
    """Licence and origin of each source, from `source_notes` of the sheet."""
    notes = sheet.get("source_notes") or {}
    names = dict.fromkeys(str(s.get("name")) for s in [*_all_sources(sheet), *(sheet.get("held_out") or [])])
    return (
        "<br>".join(f"{escape(name)}: {escape(str(notes.get(name) or UNSTATED))}" for name in names)
        or UNSTATED
    )


def _steps(sheet: Sheet) -> str:
    rows = sheet.get("steps")
    if not rows:
        return ""
    entered, kept_count = rows[0].get("in", 0), rows[-1].get("kept", 0)
    return (
        "<h2>What was kept, and why the rest was not</h2>"
        f"<p>{number(kept_count)} of {number(entered)} conversations that could be read; each bar is what a step let "
        "through, in red what it did not.</p>"
        f"{steps(rows)}{_facts_of(sheet, 'duplicates', 'Counts of duplicates')}"
    )


def _facts_of(sheet: Sheet, name: str, title: str) -> str:
    value = sheet.get(name)
    return details(title, facts(value, text=False)) if isinstance(value, Mapping) and value else ""


def _sources(sheet: Sheet, text: bool) -> str:
    sources = [(source, "") for source in _all_sources(sheet)]
    held_out = sheet.get("held_out")
    if isinstance(held_out, Sequence):
        sources += [(source, "<small>held out: marked test only</small>") for source in held_out]
    if not sources:
        return ""
    rows = [
        (
            f"{escape(str(source.get('name')))}{note}",
            f"<code>{escape(str(source.get('spec')))}</code>",
            _listed(source.get("counts")),
            _listed(source.get("malformed")) + _stopped(source.get("stopped")),
        )
        for source, note in sources
    ]
    bad = [line for source, _ in sources for line in source.get("malformed_examples") or ()]
    items = "".join(f"<li>{escape(line[:300])}</li>" for line in bad)
    return (
        "<h2>Sources</h2><p>What is malformed cannot be read as a conversation at all; it is counted by reason "
        "and left out.</p>"
        f'<div class="counts">{table(("source", "given as", "what it holds", "malformed"), rows)}</div>'
        + (details(f"The first {len(bad)} malformed records", f"<ul>{items}</ul>") if bad and text else "")
    )


def _listed(counts: Mapping[str, Any] | None) -> str:
    return (
        "<br>".join(f"{number(n)} {escape(name.replace('_', ' '))}" for name, n in (counts or {}).items())
        or "none"
    )


def _stopped(stopped: Mapping[str, Any] | None) -> str:
    if not stopped:
        return ""
    where = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in stopped.items())
    return f"<small>the file breaks off: {where}</small>"


def _replacements(sheet: Sheet) -> str:
    stages = {name: counts for name, counts in (sheet.get("changed") or {}).items() if counts}
    cards = "".join(
        f'<div class="card"><h3>{escape(name.replace("_", " "))}</h3>{bars(counts, style="c1")}</div>'
        for name, counts in stages.items()
    )
    return (
        "<h2>What was found and replaced</h2><p>Counts over the conversations that reached the stage. Personal data "
        "is replaced by a placeholder of its kind, such as <code>[EMAIL]</code>, on both sides.</p>"
        f'<div class="grid wide">{cards}</div>'
        if cards
        else ""
    )


def _run_facts(sheet: Sheet) -> str:
    values = {
        name: sheet[name]
        for name in ("command", "seed", "seconds", "resumed_chats")
        if sheet.get(name) is not None
    }
    inside = "".join(
        details(title, f"<pre>{escape(json.dumps(sheet[name], indent=1, ensure_ascii=False))}</pre>")
        for name, title in (("settings", "Settings"), ("versions", "Versions"))
        if sheet.get(name)
    )
    precision = next(
        (split["precision"] for split in (sheet.get("splits") or {}).values() if "precision" in split), None
    )
    note = (
        f'<p class="soft">Histograms keep {escape(precision)}. A word is a run without a space; of turns longer than '
        "800 characters words are estimated from the first 800.</p>"
        if precision
        else ""
    )
    return f"<h2>How it was made</h2>{facts(values, text=True)}{note}{inside}"
