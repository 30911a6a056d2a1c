"""Report files of the commands: report.json with everything, report.md and report.html from the same sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval.fidelity.pages.tables import markdown_table, markdown_text
from usersim.report import html as page
from usersim.stats.estimates import Estimate, Floor
from usersim.storage.records import atomic_writer, write_json

NOTHING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Section:
    """Section of a report. All text is plain except `picture`, which is HTML and is left out of the Markdown."""

    title: str
    says: Sequence[str]
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: str = ""


def write_pages(out: Path, title: str, document: dict[str, Any], sections: Sequence[Section]) -> None:
    """Writes three files into `out`, each atomically."""
    write_json(out / "report.json", document)
    for name, text in (
        ("report.md", as_markdown(title, sections)),
        ("report.html", as_html(title, sections)),
    ):
        with atomic_writer(out / name) as stream:
            stream.write(text)


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {markdown_text(title)}"]
    for section in sections:
        parts.append(f"## {markdown_text(section.title)}")
        parts += [markdown_text(text) for text in section.says]
        if section.rows:
            parts.append(markdown_table(section.heads, section.rows))
    return "\n\n".join(parts) + "\n"


def as_html(title: str, sections: Sequence[Section]) -> str:
    style = files("eval.fidelity.pages").joinpath("page.css").read_text(encoding="utf-8")
    return page.render_page(title, [f"<h1>{escape(title)}</h1>", *map(_html, sections)], style=style)


def _html(section: Section) -> str:
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in section.says)
    rows = [[escape(cell) for cell in row] for row in section.rows]
    table = page.table([escape(head) for head in section.heads], rows) if rows else ""
    return f"<h2>{escape(section.title)}</h2>{paragraphs}{section.picture}{table}"


def picture_cards(pictures: Sequence[tuple[str, str]]) -> str:
    """Returns each (heading, SVG) in a card."""
    cards = "".join(f'<div class="card"><h3>{escape(head)}</h3>{svg}</div>' for head, svg in pictures)
    return f'<div class="grid wide">{cards}</div>'


def key(names: Sequence[str]) -> str:
    spans = "".join(f'<span class="c{i % 6}"><i></i>{escape(n)}</span>' for i, n in enumerate(names))
    return f'<div class="key">{spans}</div>'


def estimate_text(estimate: Estimate | None, digits: int = 2) -> str:
    if estimate is None:
        return NOTHING
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def floor_text(floor: Floor | None) -> str:
    return NOTHING if floor is None else f"{floor.median:.2f} [{floor.low:.2f}, {floor.high:.2f}]"
