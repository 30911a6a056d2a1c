"""Pages of a comparison: `compare.html` and `compare.md`; short, without chat text."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path

from eval.fidelity.comparison.comparison_record import Contender, MetricGap, SimulatorComparison, Winner
from eval.fidelity.pages.plots import number, p_value
from eval.fidelity.pages.tables import interval, markdown_table, markdown_text
from usersim.report import html as page
from usersim.stats.estimates import Estimate
from usersim.storage.records import atomic_writer, write_json

WIDEST = 6.0
"""Baseline widths at either end of the axis."""


def write_comparison(comparison: SimulatorComparison, out: Path) -> Path:
    """Writes `compare.json`, `compare.md` and `compare.html`, each atomically; returns the path of the page."""
    write_json(out / "compare.json", comparison.model_dump(mode="json"))
    texts = {"md": markdown(comparison), "html": render_page(comparison)}
    for suffix, text in texts.items():
        with atomic_writer(out / f"compare.{suffix}") as stream:
            stream.write(text)
    return out / "compare.html"


def verdict(comparison: SimulatorComparison, winner: Winner) -> str:
    """Returns the name of the simulator that is closer to human, or the reason why neither is."""
    names: dict[str, str] = {"first": comparison.first.name, "second": comparison.second.name}
    return names.get(winner, winner)


def headline(comparison: SimulatorComparison) -> str:
    """Returns the metrics by the simulator that is closer to people; no count and no index."""
    return " ".join(f"{name}: {'; '.join(labels) or 'none'}." for _, name, labels in _parts(comparison))


def _parts(comparison: SimulatorComparison) -> list[tuple[str, str, tuple[str, ...]]]:
    """Returns (style, heading, metric labels) for either simulator and for neither."""
    too_few = comparison.labels("too few")
    return [
        ("c0", f"Closer to people, {comparison.first.name}", comparison.labels("first")),
        ("c1", f"Closer to people, {comparison.second.name}", comparison.labels("second")),
        ("human", "Not told", comparison.labels("inconclusive")),
        *([("human", "Too few to say", too_few)] if too_few else []),
    ]


def protocol_line(comparison: SimulatorComparison) -> str:
    kind = (
        f"{comparison.n} pairs of conversations on {comparison.goals} goals, resampled together"
        if comparison.paired
        else f"{comparison.n} conversations of each, from two finished reports"
    )
    return f"{kind}; {comparison.config.bootstrap} resamples, seed {comparison.config.seed}."


def render_page(comparison: SimulatorComparison) -> str:
    first, second = comparison.first, comparison.second
    main = [metric for metric in comparison.figures if metric.headline]
    ordered = sorted(main, key=lambda f: (-abs(_widths(f).value), f.label))
    sections = [
        f"<h1>{escape(first.name)} against {escape(second.name)}</h1>"
        f'<p class="lead">Which one is closer to human? {escape(protocol_line(comparison))}</p>{_cards(comparison)}',
        "<h2>The difference, on one axis</h2><p>Excess of one minus excess of the other over the human baseline, in "
        "baseline widths: the distance from the baseline's median to its far end. Bars are 95 % intervals; a filled "
        f"mark has a winner after Holm's adjustment, a hollow one has none.</p>{_overview(comparison, ordered)}",
        "<h2>Each in its own unit</h2>" + _table(comparison, ordered),
        _second_views(comparison),
        _missing(comparison),
        _notes(comparison),
    ]
    style = files("eval.fidelity.pages").joinpath("page.css").read_text(encoding="utf-8")
    return page.render_page(f"{first.name} against {second.name}", [s for s in sections if s], style=style)


def _cards(comparison: SimulatorComparison) -> str:
    cards = "".join(
        f'<div class="card sim {style}"><h2 class="name">{escape(name)}</h2>'
        f"<p>{escape('; '.join(labels) or 'none')}</p></div>"
        for style, name, labels in _parts(comparison)
    )
    return f'<div class="cards">{cards}</div>'


def _widths(metric: MetricGap) -> Estimate:
    gap, width = metric.gap, metric.floor_width
    return Estimate(value=gap.value / width, low=gap.low / width, high=gap.high / width, n=gap.n)


def _overview(comparison: SimulatorComparison, metrics: list[MetricGap]) -> str:
    rows = "".join(
        f'<div class="line"><span>{escape(metric.label)}</span>{_gap_track(metric, comparison)}</div>'
        for metric in metrics
    )
    ends = (
        f'<small style="left:0">← {escape(comparison.first.name)} is closer</small>'
        f'<small style="left:50%">0</small>'
        f"<small>{escape(comparison.second.name)} is closer →</small>"
    )
    axis = f'<div class="line"><span></span><div class="ticks">{ends}</div></div>'
    return f'<div class="overview gaps">{rows}{axis}</div>'


def _gap_track(metric: MetricGap, comparison: SimulatorComparison) -> str:
    def at(value: float) -> float:
        return round(50 + 50 * min(max(value / WIDEST, -1), 1), 2)

    widths = _widths(metric)
    style = {"first": "c0", "second": "c1"}.get(metric.winner, "human hollow")
    closer = verdict(comparison, metric.winner)
    label = f"{widths.value:.2f} baseline widths [{widths.low:.2f}, {widths.high:.2f}], closer: {closer}"
    return (
        f'<div class="track slim" role="img" aria-label="{escape(label)}" title="{escape(label)}">'
        f'<i class="median" style="left:50%"></i><span class="lane {style}" style="top:50%">'
        f'<i class="whisker" style="left:{at(widths.low)}%;width:{at(widths.high) - at(widths.low):.2f}%"></i>'
        f'<i class="dot" style="left:{at(widths.value)}%"></i></span></div>'
    )


def _table(comparison: SimulatorComparison, metrics: list[MetricGap]) -> str:
    names = (escape(comparison.first.name), escape(comparison.second.name))
    rows = [[*map(escape, _row(comparison, metric)[:-1]), _winner(comparison, metric)] for metric in metrics]
    return page.table(["metric", *names, "difference", "p", "closer"], rows, label="differences")


def _winner(comparison: SimulatorComparison, metric: MetricGap) -> str:
    style = {"first": "c0", "second": "c1"}.get(metric.winner)
    text = escape(verdict(comparison, metric.winner))
    return f'<b class="{style} own">{text}</b>' if style else f'<span class="soft">{text}</span>'


def _row(comparison: SimulatorComparison, metric: MetricGap) -> list[str]:
    """Returns the cells of a metric as plain text, for the page and for Markdown."""
    first, second = metric.first, metric.second
    down = " ↓" if first.worse == "lower" else ""
    in_or_out = ["in" if side.inside_floor else "out" for side in (first, second)]
    return [
        f"{metric.label}{down} ({metric.unit})",
        f"{number(first.value.value, first.unit)} ({in_or_out[0]})",
        f"{number(second.value.value, second.unit)} ({in_or_out[1]})",
        interval(metric.gap, metric.unit),
        p_value(metric.p_holm),
        verdict(comparison, metric.winner),
    ]


def _second_views(comparison: SimulatorComparison) -> str:
    second = [metric for metric in comparison.figures if not metric.headline]
    return page.details("Second views of the same attributes", _table(comparison, second)) if second else ""


def _missing(comparison: SimulatorComparison) -> str:
    if not comparison.missing:
        return ""
    return (
        "<h2>Not compared</h2><ul>"
        + "".join(f"<li>{escape(r)}</li>" for r in comparison.missing.values())
        + "</ul>"
    )


def notes(comparison: SimulatorComparison) -> list[str]:
    sides = "; ".join(f"{s.name}: {s.compared} compared, {s.left_out} left out" for s in _sides(comparison))
    return [
        "Difference: excess of the first minus excess of the second; positive: the second is closer to human. The "
        "human baseline is the same for both and cancels. (in), (out): inside or beyond it; inside, a simulator "
        "is as close as people are to each other. ↓: lower is worse. p is two-sided, after Holm over the metrics.",
        "No winner does not mean that they are equal.",
        sides + ".",
        *comparison.notes,
    ]


def _sides(comparison: SimulatorComparison) -> tuple[Contender, Contender]:
    return comparison.first, comparison.second


def _notes(comparison: SimulatorComparison) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
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
    facts_json = escape(json.dumps(facts, indent=1, ensure_ascii=False))
    return f"<h2>How to read this</h2><ul>{items}</ul>{command}" + page.details(
        "Settings, versions, files", f"<pre>{facts_json}</pre>"
    )


def markdown(comparison: SimulatorComparison) -> str:
    first, second = comparison.first.name, comparison.second.name
    main = [metric for metric in comparison.figures if metric.headline]
    heads = ["metric", first, second, "difference", "p", "closer"]
    items = "\n".join(
        f"- {markdown_text(note)}" for note in (*notes(comparison), *comparison.missing.values())
    )
    return (
        f"# {markdown_text(first)} against {markdown_text(second)}\n\n"
        f"{markdown_text(headline(comparison))} {markdown_text(protocol_line(comparison))}\n\n"
        f"{markdown_table(heads, [_row(comparison, metric) for metric in main])}\n\n{items}\n"
    )
