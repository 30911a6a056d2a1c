"""Report sections: features that give simulators away, and conversations to read (nearest to human, farthest,
random)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from eval.fidelity.pages.plots import style_of
from eval.fidelity.report_record import Report, SimulatorReport
from usersim.report import html as page
from usersim.types import Conversation


def telling(report: Report) -> str:
    cards = "".join(_telling(index, simulator) for index, simulator in enumerate(report.simulators))
    ngrams = any(s.telling.simulated_ngrams or s.telling.human_ngrams for s in report.simulators)
    runs = (
        "Character runs with the largest weights in the text classifier (· is a space), and the"
        if ngrams
        else "The"
    )
    return (
        f'<h2 id="telling">What gives them away</h2><p>{runs} attributes that tell most by themselves. Near the '
        f'human baseline these are noise.</p><div class="cards">{cards}</div>'
    )


def _telling(index: int, simulator: SimulatorReport) -> str:
    features = simulator.telling
    alone = "".join(
        f"<li>{escape(label)}: {'more' if value > 0.5 else 'less'} <small>(AUC alone {value:.2f})</small></li>"
        for label, value in features.features[:4]
    )
    sides = (("the simulator", features.simulated_ngrams), ("humans", features.human_ngrams))
    runs = "".join(f"<p>For {side}: {_ngrams(ngrams)}</p>" for side, ngrams in sides if ngrams)
    return f'<div class="card sim {style_of(index)}"><h3>{escape(simulator.name)}</h3>{runs}<ul>{alone}</ul></div>'


def _ngrams(ngrams: Sequence[str]) -> str:
    return " ".join(f"<code>{escape(ngram.replace(' ', '·'))}</code>" for ngram in ngrams)


def conversations(report: Report) -> str:
    cards = "".join(_simulator(index, simulator, report) for index, simulator in enumerate(report.simulators))
    cards += _card("human", "human", (("random sample", report.human_examples),))
    if not cards:
        return ""
    return (
        '<h2 id="conversations">Conversations</h2><p>Nearest and farthest: what the classifiers took most, and '
        "least, for human. The others are a random sample. Long turns are cut.</p>"
        f'<div class="grid">{cards}</div>'
    )


def _simulator(index: int, simulator: SimulatorReport, report: Report) -> str:
    groups = (
        ("nearest to human", simulator.nearest),
        ("farthest from human", simulator.farthest),
        ("random sample", report.simulated_examples.get(simulator.name, ())),
    )
    return _card(simulator.name, style_of(index), groups)


def _card(name: str, style: str, groups: Sequence[tuple[str, Sequence[Conversation]]]) -> str:
    body = "".join(f"<h4>{title}</h4>{''.join(map(_talk, talks))}" for title, talks in groups if talks)
    return f'<div class="card sim {style}"><h3>{escape(name)}</h3>{body}</div>' if body else ""


def _talk(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    name = goal.summary if goal else conversation.id
    return page.details(name, page.talk(conversation.turns, f"ended by: {conversation.ended_by}"))
