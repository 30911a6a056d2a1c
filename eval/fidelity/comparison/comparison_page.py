"""`compare.html` and `compare.md`: short, without chat text."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path

from eval.fidelity.comparison.comparison_record import Comparison, Contender, FigureGap, Winner
from eval.fidelity.pages.plots import number, p_value
from eval.fidelity.pages.tables import interval, markdown_table, markdown_text
from usersim.report import html as page
from usersim.stats.estimates import Estimate
from usersim.storage.records import atomic_writer, write_json

WIDEST = 6.0
"""Floor widths at either end of the axis."""


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """`compare.json`, `compare.md` and `compare.html`, each complete or not there at all; returns the page."""
    write_json(out / "compare.json", comparison.model_dump(mode="json"))
    texts = {"md": markdown(comparison), "html": render_page(comparison)}
    for suffix, text in texts.items():
        with atomic_writer(out / f"compare.{suffix}") as stream:
            stream.write(text)
    return out / "compare.html"


def verdict(comparison: Comparison, winner: Winner) -> str:
    """The name of the one that is closer to human, or why none is."""
    names: dict[str, str] = {"first": comparison.first.name, "second": comparison.second.name}
    return names.get(winner, winner)


def headline(comparison: Comparison) -> str:
    """The figures by name under who is closer to people; no count and no index."""
    return " ".join(f"{name}: {'; '.join(labels) or 'none'}." for _, name, labels in _parts(comparison))


def _parts(comparison: Comparison) -> list[tuple[str, str, tuple[str, ...]]]:
    """(style, heading, figures) for either simulator and for neither."""
    few = comparison.labels("too few")
    return [
        ("c0", f"Closer to people, {comparison.first.name}", comparison.labels("first")),
        ("c1", f"Closer to people, {comparison.second.name}", comparison.labels("second")),
        ("human", "Not told", comparison.labels("inconclusive")),
        *([("human", "Too few to say", few)] if few else []),
    ]


def how(comparison: Comparison) -> str:
    kind = (
        f"{comparison.n} pairs of conversations on {comparison.goals} goals, resampled together"
        if comparison.paired
        else f"{comparison.n} conversations of each, from two finished reports"
    )
    return f"{kind}; {comparison.config.bootstrap} resamples, seed {comparison.config.seed}."


def render_page(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    main = [figure for figure in comparison.figures if figure.headline]
    ordered = sorted(main, key=lambda f: (-abs(_widths(f).value), f.label))
    sections = [
        f"<h1>{escape(first.name)} against {escape(second.name)}</h1>"
        f'<p class="lead">Which one is closer to human? {escape(how(comparison))}</p>{_cards(comparison)}',
        "<h2>The difference, on one axis</h2><p>Excess of one minus excess of the other over the human floor, in floor "
        "widths: the distance from the floor's median to its far end. Bars are 95 % intervals; a filled mark has a "
        f"winner after Holm's adjustment, a hollow one has none.</p>{_overview(comparison, ordered)}",
        "<h2>Each in its own unit</h2>" + _table(comparison, ordered),
        _second_views(comparison),
        _missing(comparison),
        _notes(comparison),
    ]
    style = files("eval.fidelity.pages").joinpath("page.css").read_text(encoding="utf-8")
    return page.render_page(f"{first.name} against {second.name}", [s for s in sections if s], style=style)


def _cards(comparison: Comparison) -> str:
    shown = "".join(
        f'<div class="card sim {style}"><h2 class="name">{escape(name)}</h2>'
        f"<p>{escape('; '.join(labels) or 'none')}</p></div>"
        for style, name, labels in _parts(comparison)
    )
    return f'<div class="cards">{shown}</div>'


def _widths(figure: FigureGap) -> Estimate:
    gap, width = figure.gap, figure.floor_width
    return Estimate(value=gap.value / width, low=gap.low / width, high=gap.high / width, n=gap.n)


def _overview(comparison: Comparison, figures: list[FigureGap]) -> str:
    rows = "".join(
        f'<div class="line"><span>{escape(figure.label)}</span>{_gap_track(figure, comparison)}</div>'
        for figure in figures
    )
    ends = (
        f'<small style="left:0">← {escape(comparison.first.name)} is closer</small>'
        f'<small style="left:50%">0</small>'
        f"<small>{escape(comparison.second.name)} is closer →</small>"
    )
    axis = f'<div class="line"><span></span><div class="ticks">{ends}</div></div>'
    return f'<div class="overview gaps">{rows}{axis}</div>'


def _gap_track(figure: FigureGap, comparison: Comparison) -> str:
    def at(value: float) -> float:
        return round(50 + 50 * min(max(value / WIDEST, -1), 1), 2)

    found = _widths(figure)
    style = {"first": "c0", "second": "c1"}.get(figure.winner, "human hollow")
    closer = verdict(comparison, figure.winner)
    spoken = f"{found.value:.2f} floor widths [{found.low:.2f}, {found.high:.2f}], closer: {closer}"
    return (
        f'<div class="track slim" role="img" aria-label="{escape(spoken)}" title="{escape(spoken)}">'
        f'<i class="median" style="left:50%"></i><span class="lane {style}" style="top:50%">'
        f'<i class="whisker" style="left:{at(found.low)}%;width:{at(found.high) - at(found.low):.2f}%"></i>'
        f'<i class="dot" style="left:{at(found.value)}%"></i></span></div>'
    )


def _table(comparison: Comparison, figures: list[FigureGap]) -> str:
    names = (escape(comparison.first.name), escape(comparison.second.name))
    rows = [[*map(escape, _row(comparison, figure)[:-1]), _winner(comparison, figure)] for figure in figures]
    return page.table(["figure", *names, "difference", "p", "closer"], rows, label="differences")


def _winner(comparison: Comparison, figure: FigureGap) -> str:
    style = {"first": "c0", "second": "c1"}.get(figure.winner)
    text = escape(verdict(comparison, figure.winner))
    return f'<b class="{style} own">{text}</b>' if style else f'<span class="soft">{text}</span>'


def _row(comparison: Comparison, figure: FigureGap) -> list[str]:
    """Plain text, for the page and for Markdown."""
    ours, theirs = figure.first, figure.second
    down = " ↓" if ours.worse == "lower" else ""
    inside = ["in" if side.inside_floor else "out" for side in (ours, theirs)]
    return [
        f"{figure.label}{down} ({figure.unit})",
        f"{number(ours.value.value, ours.unit)} ({inside[0]})",
        f"{number(theirs.value.value, theirs.unit)} ({inside[1]})",
        interval(figure.gap, figure.unit),
        p_value(figure.p_holm),
        verdict(comparison, figure.winner),
    ]


def _second_views(comparison: Comparison) -> str:
    second = [figure for figure in comparison.figures if not figure.headline]
    return page.details("Second views of the same attributes", _table(comparison, second)) if second else ""


def _missing(comparison: Comparison) -> str:
    if not comparison.missing:
        return ""
    return (
        "<h2>Not compared</h2><ul>"
        + "".join(f"<li>{escape(r)}</li>" for r in comparison.missing.values())
        + "</ul>"
    )


def notes(comparison: Comparison) -> list[str]:
    sides = "; ".join(f"{s.name}: {s.compared} compared, {s.left_out} left out" for s in _sides(comparison))
    return [
        "Difference: excess of the first minus excess of the second; positive: the second is closer to human. The "
        "floor is the same for both and drops out. (in), (out): inside or beyond the human floor; inside, a simulator "
        "is as close as people are to each other. ↓: lower is worse. p is two-sided, after Holm over the figures.",
        "No winner does not mean that they are equal.",
        sides + ".",
        *comparison.notes,
    ]


def _sides(comparison: Comparison) -> tuple[Contender, Contender]:
    return comparison.first, comparison.second


def _notes(comparison: Comparison) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    facts = {
        "files": {
            "human": comparison.human_file.model_dump(),
            **{side.name: side.file and side.file.model_dump() for side in _sides(comparison)},
        },
        "config": comparison.config.model_dump(mode="json"),
        "versions": comparison.versions,
        "seconds": comparison.seconds,
    }
    command = f"<h3>Command</h3><pre>{escape(comparison.command)}</pre>" if comparison.command else ""
    dumped = escape(json.dumps(facts, indent=1, ensure_ascii=False))
    return f"<h2>How to read this</h2><ul>{listed}</ul>{command}" + page.details(
        "Settings, versions, files", f"<pre>{dumped}</pre>"
    )


def markdown(comparison: Comparison) -> str:
    first, second = comparison.first.name, comparison.second.name
    main = [figure for figure in comparison.figures if figure.headline]
    heads = ["figure", first, second, "difference", "p", "closer"]
    listed = "\n".join(
        f"- {markdown_text(note)}" for note in (*notes(comparison), *comparison.missing.values())
    )
    return (
        f"# {markdown_text(first)} against {markdown_text(second)}\n\n"
        f"{markdown_text(headline(comparison))} {markdown_text(how(comparison))}\n\n"
        f"{markdown_table(heads, [_row(comparison, figure) for figure in main])}\n\n{listed}\n"
    )
