"""Quiz of the report: two conversations side by side, with the answer hidden until the reader has chosen."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from eval.fidelity.report_record import QuizItem
from usersim.report.html import clipped
from usersim.types import Conversation


def quiz(items: Sequence[QuizItem]) -> str:
    """Returns the quiz section. Both sides are drawn alike, without name, id, goal or end, so that only the text can
    give them away."""
    if not items:
        return ""
    pairs = "".join(_pair(number, item, len(items)) for number, item in enumerate(items, start=1))
    return (
        f'<section id="quiz" data-key="{hidden(items)}"><h2>Which one is human?</h2>'
        f"<p>{len(items)} pairs; one of each is a person. Choose with the buttons or the keys A and B; S skips, which "
        "does not count. Play before you read the conversations below.</p>"
        '<noscript><p class="soft">Scoring needs JavaScript; the pairs can be read without it.</p></noscript>'
        '<p class="start" hidden><button type="button" data-do="start">Start</button></p>'
        f'{pairs}<div class="score" role="status" aria-live="polite"></div></section>'
    )


def script(items: Sequence[QuizItem]) -> str:
    """Returns the quiz's JavaScript; empty without a quiz."""
    return files("eval.fidelity.pages").joinpath("quiz.js").read_text(encoding="utf-8") if items else ""


def hidden(items: Sequence[QuizItem]) -> str:
    """Returns the encoded answers, so that a reader of the page source does not see them by accident; this is no
    secret."""
    answers = json.dumps([[item.human == "second", item.simulator] for item in items]).encode()
    return base64.b64encode(
        bytes(byte ^ (position * 73 + 41) & 255 for position, byte in enumerate(answers))
    ).decode()


def _pair(number: int, item: QuizItem, count: int) -> str:
    sides = "".join(_side(letter, talk) for letter, talk in (("A", item.first), ("B", item.second)))
    return (
        f'<article class="pair"><h3 tabindex="-1">Pair {number} of {count}</h3><div class="sides">{sides}</div>'
        '<p class="choose" hidden><button type="button" data-do="0">A is human</button> '
        '<button type="button" data-do="1">B is human</button> '
        '<button type="button" data-do="skip" class="quiet">Skip</button></p>'
        '<p class="answer" role="status" aria-live="polite"></p></article>'
    )


def _side(letter: str, conversation: Conversation) -> str:
    turns = "".join(f'<p class="{turn.role}">{escape(clipped(turn.text))}</p>' for turn in conversation.turns)
    return (
        f'<section class="card side" aria-label="conversation {letter}" tabindex="0"><h4>{letter}</h4>'
        f'<div class="talk">{turns}</div></section>'
    )
