"""`report.html`: one self-contained page that loads nothing; it has a script only for the quiz."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from eval.fidelity.pages import tables
from eval.fidelity.pages.head import head
from eval.fidelity.pages.method import method, missing
from eval.fidelity.pages.metrics import gates, metrics
from eval.fidelity.pages.quiz import quiz, script
from eval.fidelity.pages.redaction import without_text
from eval.fidelity.pages.shapes import attributes, curves
from eval.fidelity.pages.talks import conversations, telling
from eval.fidelity.report_record import Report
from usersim.report import html as page
from usersim.storage.records import atomic_writer, write_json

LINKS = {
    "gates": "Gates",
    "floor": "Metrics",
    "writing": "How they write",
    "curves": "Over a conversation",
    "telling": "What gives them away",
    "quiz": "Quiz",
    "conversations": "Conversations",
    "missing": "Not measured",
    "method": "How to read",
    "run": "The run",
}


def render_page(report: Report) -> str:
    sections = [
        gates(report),
        metrics(report),
        attributes(report),
        curves(report),
        telling(report),
        quiz(report.quiz),
        conversations(report),
        missing(report),
        method(report),
    ]
    return page.render_page(
        report.title,
        [head(report), _links("".join(sections)), *sections],
        style=files("eval.fidelity.pages").joinpath("page.css").read_text(encoding="utf-8"),
        script=script(report.quiz),
    )


def _links(body: str) -> str:
    """Returns links to the sections that the page has."""
    links = "".join(
        f'<a href="#{anchor}">{name}</a>' for anchor, name in LINKS.items() if f' id="{anchor}"' in body
    )
    return f'<nav aria-label="sections">{links}</nav>'


def write_report(report: Report, out: str | Path) -> tuple[Path, Path]:
    """Writes `report.json`, `report.html` and the tables as `report.md` and `report.tex` into `out`, each atomically.
    With `examples = 0` no file holds chat text.

    Returns:
        Paths of `report.json` and `report.html`.
    """
    folder = Path(out)
    report = report if report.config.examples else without_text(report)
    write_json(folder / "report.json", report.model_dump(mode="json"))
    texts = {"html": render_page(report), "md": tables.markdown(report), "tex": tables.latex(report)}
    for suffix, text in texts.items():
        with atomic_writer(folder / f"report.{suffix}") as stream:
            stream.write(text)
    return folder / "report.json", folder / "report.html"
