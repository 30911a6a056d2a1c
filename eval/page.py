"""`report.html`: one self-contained page, no script, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from eval.estimates import Estimate, Figure, FigureSpec
from eval.metrics.gates import GateResult
from eval.plots import estimate, number, shapes, shares, track
from eval.report import Report, SimulatorReport
from usersim import page
from usersim.plots import percent
from usersim.records import atomic_writer, write_json
from usersim.types import Conversation

CLASS_OF = {"different": "different", "inconclusive": "inconclusive", "too few": "few"}


def render_page(report: Report) -> str:
    sections = [
        _head(report),
        _figures(report),
        _shapes(report),
        _gates(report),
        _telling(report),
        _conversations(report),
        _method(report),
    ]
    return page.render_page(report.title, sections)


def write_report(report: Report, out: str | Path) -> tuple[Path, Path]:
    """`report.json` and `report.html` in `out`, each complete or not there at all."""
    folder, html = Path(out), render_page(report)
    write_json(folder / "report.json", report.model_dump(mode="json"))
    with atomic_writer(folder / "report.html") as stream:
        stream.write(html)
    return folder / "report.json", folder / "report.html"


def _head(report: Report) -> str:
    cards = "".join(_card(index, simulator) for index, simulator in enumerate(report.simulators))
    warning = ""
    if any(figure.verdict == "too few" for s in report.simulators for figure in s.figures):
        warning = (
            f'<p class="different"><b>Too few:</b> {report.n} conversations per side carry no verdict.</p>'
        )
    return (
        f"<h1>{escape(report.title)}</h1>"
        f'<p class="lead">{report.n} conversations per side, beside the floor: how far two halves of the '
        f"{report.human.kept} human conversations are from each other at the same n.</p>{warning}"
        f'<div class="cards">{cards}</div>'
    )


def _card(index: int, simulator: SimulatorReport) -> str:
    head = simulator.headline
    failing = [gate.label for gate in simulator.gates if gate.verdict == "different"]
    gates = f"Gates that differ: {escape('; '.join(failing))}." if failing else "No gate is known to differ."
    beyond = head.worst_floor_widths
    worst = f"{beyond:.1f} floor widths out" if beyond > 1 else "inside the floor"
    overall = f"{'different from human' if head.different else 'no difference found'} (p {head.p:.3f})"
    style = "different" if head.different else "soft"
    return (
        f'<div class="card sim c{index % 6}"><h3>{escape(simulator.name)}</h3>'
        f'<div class="big">{head.inside_floor} <small>of {head.figures} figures inside the floor</small></div>'
        f'<p><b class="{style}">Overall: {overall}.</b> Worst: {escape(head.worst)} ({worst}). Figures called '
        f"different: {head.called_different}.</p>"
        f'<p class="soft">{gates}</p></div>'
    )


def _key(report: Report, *, floor: bool) -> str:
    first = (
        '<span><i class="band"></i>human floor, 95 %</span>'
        if floor
        else ('<span class="human"><i></i>human</span>')
    )
    rest = (f'<span class="c{i % 6}"><i></i>{escape(s.name)}</span>' for i, s in enumerate(report.simulators))
    return f'<div class="key">{first}{"".join(rest)}</div>'


def _figures(report: Report) -> str:
    by_key: dict[str, list[Figure]] = {}
    for simulator in report.simulators:
        for figure in simulator.figures:
            by_key.setdefault(figure.key, []).append(figure)
    main = "".join(_row(found) for found in by_key.values() if found[0].headline)
    second = "".join(_row(found) for found in by_key.values() if not found[0].headline)
    return (
        "<h2>Against the human floor</h2>"
        "<p>A dot inside the band is no further from humans than humans are from each other. Bars are 95 % "
        "intervals over conversations. Further right is further from human, but for coverage and density.</p>"
        f"{_key(report, floor=True)}{main}"
        f"<details><summary>Histogram distances of the same attributes (Jensen-Shannon)</summary>{second}</details>"
    )


def _row(figures: Sequence[Figure]) -> str:
    spec: FigureSpec = figures[0]
    floor = figures[0].floor
    values = "".join(
        f'<div class="c{index % 6}"><span>{estimate(f.value, f.unit)}</span>'
        f'<small class="{CLASS_OF[f.verdict]}">{f.verdict}</small></div>'
        for index, f in enumerate(figures)
    )
    low = " · lower is worse" if spec.worse == "lower" else ""
    band = f"floor {number(floor.median, spec.unit)}, to "
    band += number(floor.high if spec.worse == "higher" else floor.low, spec.unit)
    return (
        f'<div class="row"><div class="name">{escape(spec.label)}<small>{escape(spec.unit)}{low}</small></div>'
        f'{track(figures)}<div class="values">{values}<small>{band}</small></div></div>'
    )


def _shapes(report: Report) -> str:
    cards = []
    for shape in report.features:
        plot = shares(shape) if shape.bins == ("no", "yes") else shapes(shape)
        cards.append(f'<div class="card"><h3>{escape(shape.label)}</h3>{plot}</div>')
    return (
        "<h2>How they write</h2><p>Share of user turns, or of conversations; each conversation weighs the same. "
        "Bins are named by their range, or by their lower edge.</p>"
        f'{_key(report, floor=False)}<div class="grid">{"".join(cards)}</div>'
    )


def _gates(report: Report) -> str:
    heads = ["gate", "human", *(escape(s.name) for s in report.simulators)]
    rows = [
        [
            escape(gates[0].label),
            _share(gates[0].human),
            *(f"{_share(gate.simulated)}{_verdict(gate)}" for gate in gates),
        ]
        for gates in zip(*(s.gates for s in report.simulators), strict=True)
    ]
    return (
        "<h2>Validity gates</h2><p>Share of conversations with at least one, beside the human share.</p>"
        f"{page.table(heads, rows)}"
    )


def _share(found: Estimate | None) -> str:
    if found is None:
        return "–"  # noqa: RUF001
    return f"{percent(found.value)}<small>[{percent(found.low)}, {percent(found.high)}], n {found.n}</small>"


def _verdict(gate: GateResult) -> str:
    style = CLASS_OF.get(gate.verdict, "few")
    return f'<small class="{style}">{gate.verdict}</small>'


def _telling(report: Report) -> str:
    cards = []
    for index, simulator in enumerate(report.simulators):
        found = simulator.telling
        alone = "".join(
            f"<li>{escape(label)}: {'more' if value > 0.5 else 'less'} <small>(AUC alone {value:.2f})</small></li>"
            for label, value in found.features[:4]
        )
        cards.append(
            f'<div class="card sim c{index % 6}"><h3>{escape(simulator.name)}</h3>'
            f"<p>For the simulator: {_ngrams(found.simulated_ngrams)}</p>"
            f"<p>For humans: {_ngrams(found.human_ngrams)}</p><ul>{alone}</ul></div>"
        )
    return (
        "<h2>What gives them away</h2><p>Character runs with the largest weights in the text classifier (· is a "
        "space), and the attributes that tell most by themselves. Near the floor these are noise.</p>"
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _ngrams(ngrams: Sequence[str]) -> str:
    return " ".join(f"<code>{escape(ngram.replace(' ', '·'))}</code>" for ngram in ngrams)


def _conversations(report: Report) -> str:
    groups = [("human", "human", report.human_examples)] if report.human_examples else []
    order = [simulator.name for simulator in report.simulators]
    groups += [(n, f"c{order.index(n) % 6}", found) for n, found in report.simulated_examples.items()]
    if not groups:
        return ""
    talks = "".join(
        f'<div class="card {style}"><h3>{escape(name)}</h3>{"".join(map(_talk, found))}</div>'
        for name, style, found in groups
    )
    return f'<h2>Conversations</h2><p>Drawn at random, not chosen.</p><div class="grid">{talks}</div>'


def _talk(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    name = goal.summary if goal else conversation.id
    return page.details(name, page.talk(conversation.turns, f"ended by: {conversation.ended_by}"))


def _method(report: Report) -> str:
    cap = f"cut at {report.turn_cap} user turns ({report.turn_cap_from})" if report.turn_cap else "not cut"
    sides = [report.human, *(simulator.side for simulator in report.simulators)]
    rows = [
        [
            escape(side.name),
            *map(str, (side.given, side.kept, side.truncated)),
            escape(", ".join(f"{k} {v}" for k, v in side.excluded.items()) or "none"),
        ]
        for side in sides
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    facts = {
        "config": report.config.model_dump(mode="json"),
        "versions": report.versions,
        "files": {
            "human": report.human_file and report.human_file.model_dump(),
            **{s.name: s.file and s.file.model_dump() for s in report.simulators},
        },
        "seconds": report.seconds,
    }
    return (
        "<h2>How to read this</h2><ul>"
        f"{notes}<li>Conversations are the unit; they are {cap}. All sides have the same n; the rest is drawn off "
        "at random.</li>"
        "<li>“different”: the interval of value minus floor median lies beyond zero and the value beyond the 97.5 % "
        "quantile of the floor. Everything else is inconclusive, which is not the same as equal. By chance alone about "
        "one figure in forty and one gate in twenty is called different. “Overall” corrects for that: p is the "
        "share of human splits whose worst figure is as far out.</li></ul>"
        f"{page.table(('file', 'given', 'kept', 'cut', 'left out'), rows)}"
        + page.details(
            "Settings, versions, files",
            f"<pre>{escape(json.dumps(facts, indent=1, ensure_ascii=False))}</pre>",
        )
    )
