"""Self-contained HTML pages with a style sheet for light and dark, and nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from usersim.types import Turn

SHOWN_CHARACTERS = 700


def render_page(title: str, sections: Iterable[str], *, style: str = "", script: str = "") -> str:
    """Returns a page. `sections` are HTML, `title` is text; `style` and `script` are added to the common ones."""
    template = files("usersim.report").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        style=style,
        body="\n".join(sections),
        script=f"<script>{script}</script>" if script else "",
    )


def talk(turns: Sequence[Turn], note: str) -> str:
    """Returns a conversation as bubbles, with long turns clipped; `note` is text below it."""
    bubbles = "".join(f'<p class="{turn.role}">{escape(clipped(turn.text))}</p>' for turn in turns)
    return f'<div class="talk">{bubbles}<small>{escape(note)}</small></div>'


def clipped(text: str, most: int = SHOWN_CHARACTERS) -> str:
    return text if len(text) <= most else text[:most] + " […]"


def details(summary: str, inside: str) -> str:
    """Returns a collapsed section; `summary` is text, `inside` HTML."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, label: str = "table") -> str:
    """Returns a table with HTML cells. A wide table scrolls by itself, also with the keyboard; `label` is text."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><tr>{head}</tr>{body}</table></div>"
    )
