"""`datasheet.html`: where conversations come from, what was done to them and what they are; one page, no script."""

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
    "the person and, where somebody or some model wrote it, a hidden goal. Conversations of one group (same person, "
    "same opening, near-duplicates) stay in one split."
)
LIMITS = (
    "Personal data is looked for by kind (see below) and not all of it is found: treat the text as personal data. "
    "Not for finding out who somebody is. The people here are those of the sources, not people at large, and what "
    "they say can be wrong or hurtful."
)
LEFT_OUT = (
    "No text of conversations, goals or personas is on this page, nor examples of malformed records or folders "
    "of the machine it was made on: it was made with <code>--no-text</code>."
)
TOLD = ("command", "seed", "seconds", "resumed_chats")
UNSTATED = "not stated; the terms of the source hold"
FOLDERS = re.compile(r"(?<![\w.~])~?/(?:[^/\s:]+/)+")

Sheet = Mapping[str, Any]


def render_datasheet(
    sheet: Sheet, examples: Mapping[str, Sequence[Conversation]] | None, *, text: bool
) -> str:
    """Keys that are missing leave their section out. Not `text`: nothing that anybody wrote is on the page."""
    if not text:
        sheet, examples = without_folders(sheet), None
    splits = {
        name: split for name, split in (sheet.get("splits") or {}).items() if split.get("conversations")
    }
    sections = [
        _head(sheet, splits, text),
        _kept(sheet),
        _sources(sheet, text),
        _changed(sheet),
        sizes(sheet, splits),
        lengths(splits),
        languages(splits),
        styles(splits),
        goals(sheet, splits, text),
        personas(sheet, text),
        endings(splits),
        examples_of(examples or {}, list(splits)),
        _made(sheet),
    ]
    style = files("data_prep.datasheet").joinpath("page.css").read_text(encoding="utf-8")
    return render_page(f"{_name(sheet)}: datasheet", [s for s in sections if s], style=style)


def without_folders(value: Any) -> Any:
    """`/home/me/logs/a.jsonl` as `a.jsonl`, wherever it stands."""
    if isinstance(value, str):
        return FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {without_folders(name): without_folders(inner) for name, inner in value.items()}
    return [without_folders(inner) for inner in value] if isinstance(value, list | tuple) else value


def _all_sources(sheet: Sheet) -> list[Sheet]:
    return sheet.get("sources") or ([sheet["source"]] if "source" in sheet else [])


def _name(sheet: Sheet) -> str:
    return (
        " + ".join(dict.fromkeys(str(source.get("name")) for source in _all_sources(sheet)))
        or "Conversations"
    )


def _head(sheet: Sheet, splits: Sheet, text: bool) -> str:
    kept = sum(split["conversations"] for split in splits.values())
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
    terms = "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in about.items())
    return (
        f"<h1>{escape(_name(sheet))}: datasheet</h1>"
        f'<p class="lead">{number(kept)} conversations, {number(with_goal)} with a hidden goal.</p>'
        f"{'' if text else f'<p class=left-out>{LEFT_OUT}</p>'}"
        f'<div class="cards">{cards}</div><dl class="about">{terms}</dl>'
    )


def _licences(sheet: Sheet) -> str:
    """`source_notes` of the sheet: a note for each source's name, about its licence and origin."""
    notes = sheet.get("source_notes") or {}
    names = dict.fromkeys(str(s.get("name")) for s in [*_all_sources(sheet), *(sheet.get("held_out") or [])])
    return (
        "<br>".join(f"{escape(name)}: {escape(str(notes.get(name) or UNSTATED))}" for name in names)
        or UNSTATED
    )


def _kept(sheet: Sheet) -> str:
    rows = sheet.get("steps")
    if not rows:
        return ""
    entered, kept = rows[0].get("in", 0), rows[-1].get("kept", 0)
    return (
        "<h2>What was kept, and why the rest was not</h2>"
        f"<p>{number(kept)} of {number(entered)} conversations that could be read; each bar is what a step let "
        "through, in red what it did not.</p>"
        f"{steps(rows)}{_facts_of(sheet, 'duplicates', 'What was found on duplicates')}"
    )


def _facts_of(sheet: Sheet, name: str, title: str) -> str:
    found = sheet.get(name)
    return details(title, facts(found, text=False)) if isinstance(found, Mapping) and found else ""


def _sources(sheet: Sheet, text: bool) -> str:
    given = [(source, "") for source in _all_sources(sheet)]
    held_out = sheet.get("held_out")
    if isinstance(held_out, Sequence):
        given += [(source, "<small>held out: marked test only</small>") for source in held_out]
    if not given:
        return ""
    rows = [
        (
            f"{escape(str(source.get('name')))}{note}",
            f"<code>{escape(str(source.get('spec')))}</code>",
            _listed(source.get("counts")),
            _listed(source.get("malformed")) + _stopped(source.get("stopped")),
        )
        for source, note in given
    ]
    bad = [line for source, _ in given for line in source.get("malformed_examples") or ()]
    shown = "".join(f"<li>{escape(line[:300])}</li>" for line in bad)
    return (
        "<h2>Sources</h2><p>What is malformed cannot be read as a conversation at all; it is counted by reason "
        "and left out.</p>"
        f'<div class="counts">{table(("source", "given as", "what it holds", "malformed"), rows)}</div>'
        + (details(f"The first {len(bad)} malformed records", f"<ul>{shown}</ul>") if bad and text else "")
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


def _changed(sheet: Sheet) -> str:
    stages = {name: found for name, found in (sheet.get("changed") or {}).items() if found}
    cards = "".join(
        f'<div class="card"><h3>{escape(name.replace("_", " "))}</h3>{bars(found, style="c1")}</div>'
        for name, found in stages.items()
    )
    return (
        "<h2>What was found and replaced</h2><p>Counts over the conversations that reached the stage. Personal data "
        "is replaced by a placeholder of its kind, such as <code>[EMAIL]</code>, on both sides.</p>"
        f'<div class="grid wide">{cards}</div>'
        if cards
        else ""
    )


def _made(sheet: Sheet) -> str:
    told = {
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
    return f"<h2>How it was made</h2>{facts(told, text=True)}{note}{inside}"
