"""Datasheet sections on goals, personas and endings, with example conversations."""

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
"""Examples shown unfolded."""
NAMES = {
    "ended_by": ("Ended by", "“user”: the person left; at “cut” and “turn_cap” the end says nothing"),
    "satisfied": ("Got what they wanted", "where it was judged"),
    "flags": ("Flags", "what the corpus says about the text; a conversation can have several"),
}


def goals(sheet: Mapping[str, Any], splits: Splits, text: bool) -> str:
    goal_counts = sheet.get("goals")
    provenance = summed(splits, "goal_provenance")
    if not provenance and not goal_counts:
        return ""
    cards = "".join(
        (
            _count_card("Who wrote them", "goals by provenance", provenance),
            card("Facets of a goal", "share of goals", shapes_of(splits, "facets_per_goal")),
            card(
                "Turn that first reveals a facet", "share of facets", shapes_of(splits, "first_reveal_turn")
            ),
        )
    )
    return (
        "<h2>Hidden goals</h2><p>What the person wanted over the whole conversation, in others' words; facets carry "
        f"the turn that first revealed them.{_overlap_note(goal_counts)}</p>"
        f'<div class="grid">{cards}</div>'
        + (
            details("Annotations and how they were joined", facts(goal_counts, text=text))
            if goal_counts
            else ""
        )
    )


def _overlap_note(goal_counts: Mapping[str, Any] | None) -> str:
    figures = (goal_counts or {}).get("wording_shared_with_user")
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


def _count_card(title: str, note: str, counts: Mapping[str, int], style: str = "human") -> str:
    if not counts:
        return ""
    rows = bars(counts, style=style)
    return f'<div class="card"><h3>{escape(title)}<small>{escape(note)}</small></h3>{rows}</div>'


def personas(sheet: Mapping[str, Any], text: bool) -> str:
    persona_counts = sheet.get("personas")
    if not persona_counts:
        return ""
    rates = {
        name: value
        for name, value in persona_counts.items()
        if isinstance(value, Mapping) and "rate" in value
    }
    rows = [
        (
            escape(name),
            f"<b>{rate['rate']:.2f}</b> [{rate.get('low', 0):.2f}, {rate.get('high', 1):.2f}]",
            number(rate.get("n")),
        )
        for name, rate in rates.items()
    ]
    measured = table(("", "goal found, with 95 % interval", "personas"), rows) if rows else ""
    rest = {name: value for name, value in persona_counts.items() if name not in rates}
    return (
        "<h2>Personas</h2><p>A persona must not carry the goal: how often the goal of a conversation is found among "
        "ten by its free-text persona alone, before and after words that give it away are masked. By chance 0.10.</p>"
        f'<div class="facts">{measured}</div>{facts(rest, text=text)}'
    )


def endings(splits: Splits) -> str:
    cards = "".join(
        _count_card(title, note, summed(splits, name), style="c0" if name == "flags" else "human")
        for name, (title, note) in NAMES.items()
    )
    return f'<h2>How it ends</h2><div class="grid">{cards}</div>' if cards else ""


def examples_of(examples: Mapping[str, Sequence[Conversation]], order: Sequence[str]) -> str:
    groups = [(name, examples[name]) for name in order if examples.get(name)]
    if not groups:
        return ""
    sections = "".join(
        f'<h3>{escape(name)}</h3><div class="card talks c{order.index(name) % 6}">'
        f"{''.join(_example(one, opened=not group and index < OPEN) for index, one in enumerate(conversations))}</div>"
        for group, (name, conversations) in enumerate(groups)
    )
    return (
        "<h2>Conversations</h2><p>Drawn at random, not chosen. The person is on the right; long turns and long "
        f"conversations are clipped.</p>{sections}"
    )


def _example(conversation: Conversation, *, opened: bool) -> str:
    goal = conversation.profile.goal
    user_texts = [turn.text for turn in conversation.turns if turn.role == "user"]
    name = (
        goal.summary
        if goal
        else clipped(" ".join(user_texts[0][:200].split()), 90)
        if user_texts
        else conversation.id
    )
    about = f"{len(user_texts)} user turns" if len(user_texts) != 1 else "1 user turn"
    note = f"ended by: {conversation.ended_by}"
    note += "" if conversation.satisfied is None else f" · satisfied: {conversation.satisfied}"
    return (
        f"<details{' open' if opened else ''}><summary>{escape(name)} <small>{about}</small></summary>"
        f"{_profile(conversation)}{talk(conversation.turns, note)}</details>"
    )


def _profile(conversation: Conversation) -> str:
    goal, persona = conversation.profile.goal, conversation.profile.persona
    lines = [f"<p><small>{escape(conversation.source)} · {escape(conversation.id)}</small></p>"]
    if goal is not None:
        facets = "".join(
            f"<li>{escape(facet.text)}{'' if facet.turn is None else f' <small>turn {facet.turn}</small>'}</li>"
            for facet in goal.facets
        )
        lines.append(f"<p><b>Goal:</b> {escape(goal.summary)}</p><ul>{facets}</ul>")
    if persona is not None and (persona.description or persona.style):
        lines.append(f"<p><b>Persona:</b> {escape(_persona_text(persona))}</p>")
    if conversation.system:
        lines.append(f"<p><b>System prompt:</b> {escape(conversation.system[:300])}</p>")
    return f'<div class="given">{"".join(lines)}</div>'


def _persona_text(persona: Persona) -> str:
    measured = {} if persona.style is None else persona.style.model_dump(exclude_none=True)
    style = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in measured.items())
    return " — ".join(part for part in (persona.description, style) if part)
