"""The sections of the datasheet about people: goals, personas, how they leave, and examples of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from data_prep.datasheet.page_plots import bars, facts, number
from data_prep.datasheet.page_splits import Splits, card, shapes_of, summed
from usersim.report.html import clipped, details, table, talk
from usersim.report.svg import percent
from usersim.types import Conversation, Persona

OPEN = 1
"""Examples that are unfolded."""
NAMES = {
    "ended_by": ("Ended by", "“user”: the person left; at “cut” and “turn_cap” the end says nothing"),
    "satisfied": ("Got what they wanted", "where somebody judged it"),
    "flags": ("Flags", "what the corpus says about the text; a conversation can have several"),
}


def goals(sheet: Mapping[str, Any], splits: Splits, text: bool) -> str:
    known = sheet.get("goals")
    provenance = summed(splits, "goal_provenance")
    if not provenance and not known:
        return ""
    cards = "".join(
        (
            _named("Who wrote them", "goals by provenance", provenance),
            card("Facets of a goal", "share of goals", shapes_of(splits, "facets_per_goal")),
            card(
                "Turn that first reveals a facet", "share of facets", shapes_of(splits, "first_reveal_turn")
            ),
        )
    )
    return (
        "<h2>Hidden goals</h2><p>What the person wanted over the whole conversation, in others' words; facets carry "
        f"the turn that first revealed them.{_parroted(known)}</p>"
        f'<div class="grid">{cards}</div>'
        + (details("Annotations and how they were joined", facts(known, text=text)) if known else "")
    )


def _parroted(known: Mapping[str, Any] | None) -> str:
    figures = (known or {}).get("wording_shared_with_user")
    if not isinstance(figures, Mapping) or "mean" not in figures:
        return ""
    bound = (
        f"; {percent(figures['share_above_bound'])} share more than {percent(figures['bound'])}"
        if {"bound", "share_above_bound"} <= set(figures)
        else ""
    )
    return (
        f" Of a summary's runs of {number(figures.get('ngram_words'))} words, the person wrote "
        f"{percent(figures['mean'])} on average, {percent(figures.get('median', 0))} in the median summary{bound}."
    )


def _named(title: str, note: str, counts: Mapping[str, int], style: str = "human") -> str:
    if not counts:
        return ""
    shown = bars(counts, style=style)
    return f'<div class="card"><h3>{escape(title)}<small>{escape(note)}</small></h3>{shown}</div>'


def personas(sheet: Mapping[str, Any], text: bool) -> str:
    known = sheet.get("personas")
    if not known:
        return ""
    rates = {name: found for name, found in known.items() if isinstance(found, Mapping) and "rate" in found}
    rows = [
        (
            escape(name),
            f"<b>{found['rate']:.2f}</b> [{found.get('low', 0):.2f}, {found.get('high', 1):.2f}]",
            number(found.get("n")),
        )
        for name, found in rates.items()
    ]
    measured = table(("", "goal found, with 95 % interval", "personas"), rows) if rows else ""
    rest = {name: found for name, found in known.items() if name not in rates}
    return (
        "<h2>Personas</h2><p>A persona must not carry the goal: how often the goal of a conversation is found among "
        "ten by its free-text persona alone, before and after words that give it away are masked. By chance 0.10.</p>"
        f'<div class="facts">{measured}</div>{facts(rest, text=text)}'
    )


def endings(splits: Splits) -> str:
    cards = "".join(
        _named(title, note, summed(splits, name), style="c0" if name == "flags" else "human")
        for name, (title, note) in NAMES.items()
    )
    return f'<h2>How it ends</h2><div class="grid">{cards}</div>' if cards else ""


def examples_of(examples: Mapping[str, Sequence[Conversation]], order: Sequence[str]) -> str:
    groups = [(name, examples[name]) for name in order if examples.get(name)]
    if not groups:
        return ""
    shown = "".join(
        f'<h3>{escape(name)}</h3><div class="card talks c{order.index(name) % 6}">'
        f"{''.join(_example(one, opened=not at and index < OPEN) for index, one in enumerate(found))}</div>"
        for at, (name, found) in enumerate(groups)
    )
    return (
        "<h2>Conversations</h2><p>Drawn at random, not chosen. The person is on the right; long turns and long "
        f"conversations are clipped.</p>{shown}"
    )


def _example(conversation: Conversation, *, opened: bool) -> str:
    goal = conversation.profile.goal
    said = [turn.text for turn in conversation.turns if turn.role == "user"]
    name = goal.summary if goal else clipped(" ".join(said[0][:200].split()), 90) if said else conversation.id
    about = f"{len(said)} user turns" if len(said) != 1 else "1 user turn"
    note = f"ended by: {conversation.ended_by}"
    note += "" if conversation.satisfied is None else f" · satisfied: {conversation.satisfied}"
    return (
        f"<details{' open' if opened else ''}><summary>{escape(name)} <small>{about}</small></summary>"
        f"{_given(conversation)}{talk(conversation.turns, note)}</details>"
    )


def _given(conversation: Conversation) -> str:
    goal, persona = conversation.profile.goal, conversation.profile.persona
    lines = [f"<p><small>{escape(conversation.source)} · {escape(conversation.id)}</small></p>"]
    if goal is not None:
        facets = "".join(
            f"<li>{escape(facet.text)}{'' if facet.turn is None else f' <small>turn {facet.turn}</small>'}</li>"
            for facet in goal.facets
        )
        lines.append(f"<p><b>Goal:</b> {escape(goal.summary)}</p><ul>{facets}</ul>")
    if persona is not None and (persona.description or persona.style):
        lines.append(f"<p><b>Persona:</b> {escape(_persona(persona))}</p>")
    if conversation.system:
        lines.append(f"<p><b>System prompt:</b> {escape(conversation.system[:300])}</p>")
    return f'<div class="given">{"".join(lines)}</div>'


def _persona(persona: Persona) -> str:
    measured = {} if persona.style is None else persona.style.model_dump(exclude_none=True)
    style = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in measured.items())
    return " — ".join(part for part in (persona.description, style) if part)
