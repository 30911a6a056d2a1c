"""HTML and Markdown pages of the next-turn report: what is like people, what differs, and all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from eval.fidelity.pages.plots import Axis, estimate, lanes, p_value, style_of
from eval.fidelity.pages.plots import key as colour_key
from eval.likelihood.pictures import STYLE as RELIABILITY_STYLE
from eval.likelihood.pictures import reliability
from eval.next_turn.comparison import Claim, Measurement
from eval.next_turn.results import NextTurnReport, SimulatorResult
from usersim.report import html as page
from usersim.stats.estimates import Estimate
from usersim.storage.records import atomic_writer, write_json

GROUPS: dict[str, str] = {
    "indistinguishability": "Can a classifier tell the turn from the person's?",
    "coherence": "Does the turn belong to its history, its goal and the last answer?",
    "fluency": "Is it language?",
    "facts": "Do numbers and names come from somewhere?",
    "acts": "Does it object, answer, thank, and stay in its role as people do?",
    "leaving": "Does it know when people leave?",
    "copying": "Does it repeat what it was trained on?",
    "likelihood": "How well does it expect what people write?",
}
WORDS = {"more": "more than people", "less": "less than people"}
BEYOND = {
    "more": "something beyond",
    "less": "less than",
    "like people": "nothing beyond",
    "not told": "not told beside",
}
"""Readings of skill and gain. People have neither, so their null is the baseline."""
CONDITIONS = {"none": "no goal", "count_neutral": "count-neutral goals"}
STYLE = """
.row { grid-template-columns: 225px 1fr 300px; }
.verdicts dt { font-weight: 600; margin-top: 10px; }
.verdicts dd { margin: 0 0 4px; }
.verdicts ul { margin: 2px 0 0; padding-left: 18px; }
"""


def render(report: NextTurnReport) -> str:
    """Renders the report as one self-contained HTML page, without chat text."""
    names = [simulator.name for simulator in report.simulators]
    groups = [f"<h2>{escape(GROUPS[group])}</h2>{rows}" for group in GROUPS if (rows := _rows(report, group))]
    pictures = "".join(
        reliability(s.name, [(b.predicted, b.observed, b.prefixes) for b in s.reliability])
        for s in report.simulators
        if s.reliability
    )
    return page.render_page(
        report.title,
        [
            _head(report),
            f'<div class="cards">{"".join(map(_card, range(len(names)), report.simulators))}</div>',
            colour_key(names, floor=False)
            + '<p class="soft">Band: people at the same prefixes, with the 95 % interval of their value. Dots: '
            "simulators with theirs. p: labels swapped within pairs of turns at one prefix, whole conversations at a "
            "time, adjusted by Holm.</p>",
            *groups,
            f'<h2>Is P(end) calibrated?</h2><div class="figures">{pictures}</div>' if pictures else "",
            _data(report),
            _method(report),
        ],
        style=RELIABILITY_STYLE + STYLE,
    )


def _head(report: NextTurnReport) -> str:
    family_b = (
        f" This is use number {report.family_b_use} of the second family of discriminators."
        if report.family_b_use
        else " The second family of discriminators, which only certificates run, was not used."
    )
    return (
        f"<h1>{escape(report.title)}</h1>"
        f'<p class="lead">{report.conversations} conversations of {escape(", ".join(report.sources))}, '
        f"{report.prefixes} prefixes at which the person and every simulator wrote something; the same ones for all. "
        f"Leaving is read at {report.leaving_prefixes}.{family_b}</p>"
    )


def _card(index: int, simulator: SimulatorResult) -> str:
    body = "".join(
        f"<dt>{title}</dt><dd>{_bullets(sentences)}</dd>" for title, sentences in in_words(simulator)
    )
    silent = (
        f"wrote nothing at {simulator.silent} prefixes where the person went on" if simulator.silent else ""
    )
    held = simulator.bits_per_character
    bits = (
        f"people's turns cost it {held.value:.2f} [{held.low:.2f}, {held.high:.2f}] bits a character"
        if held
        else ""
    )
    slope = simulator.calibration_slope
    calibrated = (
        f"calibration slope of P(end) {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]" if slope else ""
    )
    failed = ", ".join(f"{count} {reason}" for reason, count in simulator.failed.items())
    facts = "; ".join(
        filter(None, (simulator.drawn_with, bits, calibrated, silent, failed and f"failed: {failed}"))
    )
    return (
        f'<div class="card sim {style_of(index)}"><h3>{escape(simulator.name)}</h3>'
        f'<p class="soft">{escape(facts)}</p><dl class="verdicts">{body}</dl></div>'
    )


def _bullets(sentences: Sequence[str]) -> str:
    if not sentences:
        return '<span class="soft">nothing</span>'
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def in_words(simulator: SimulatorResult) -> list[tuple[str, list[str]]]:
    """Summary sentences: metrics like people, different, not told, and the gain of P(end) over each baseline.

    Forced choices over all turns are listed here, and of leaving the rate and the gains; the rows hold the others.
    """
    comparable = [
        c
        for c in simulator.claims
        if not c.key.startswith(("leaving.skill", "leaving.logloss", "leaving.gain"))
        and (not c.key.startswith("told_apart") or c.key.endswith(".all"))
    ]
    gains = [c for c in simulator.claims if c.key.startswith("leaving.gain")]
    return [
        ("Like people", [claim_words(c) for c in comparable if c.reading == "like people"]),
        ("Not like people", [claim_words(c) for c in comparable if c.reading in WORDS]),
        ("Could not be told", [claim_words(c) for c in comparable if c.reading == "not told"]),
        ("What P(end) knows", [gain_words(c) for c in gains]),
    ]


def claim_words(claim: Claim) -> str:
    """Claim in words, such as "thanks (more than people)"."""
    label = qualified(claim.label, claim.key)
    if claim.disagree:
        return f"{label} (its two scorers disagree)"
    return f"{label} ({WORDS[claim.reading]})" if claim.reading in WORDS else label


def gain_words(claim: Claim) -> str:
    """Gain in words, such as "something beyond the hazard by turn number (no goal)"."""
    baseline = claim.label.removeprefix("log-loss saved beside ")
    return f"{BEYOND[claim.reading]} {qualified(baseline, claim.key)}"


def null_name(measurement: Measurement) -> str:
    """Name of the reference value of a metric that people have no value of."""
    return "baseline" if measurement.spec.group == "leaving" else "not told apart"


def reading_words(measurement: Measurement) -> str:
    """Reading of one metric in words; a skill or gain is read against its baseline."""
    if measurement.people is None and measurement.spec.group == "leaving":
        words = {"more": "above the baseline", "less": "below it", "like people": "as the baseline"}
        return words.get(measurement.reading, measurement.reading)
    if measurement.people is None and measurement.reading == "more":
        return "told apart"
    return measurement.reading


def qualified(label: str, key: str) -> str:
    """Label with the turns and goals of its key."""
    parts = key.split(".")
    details = [text for name, text in CONDITIONS.items() if name in parts]
    if "3+" in parts and not key.startswith("told_apart"):
        details.append("from the third turn on")
    return f"{label} ({', '.join(details)})" if details else label


def _rows(report: NextTurnReport, group: str) -> str:
    keys = dict.fromkeys(
        m.spec.key for s in report.simulators for m in s.measurements if m.spec.group == group
    )
    return "".join(_row(report, key) for key in keys)


def _row(report: NextTurnReport, key: str) -> str:
    series = [
        (index, m) for index, s in enumerate(report.simulators) for m in s.measurements if m.spec.key == key
    ]
    spec, first = series[0][1].spec, series[0][1]
    people = (
        f'<div class="human"><b>people</b> <span>{estimate(first.people)}</span></div>'
        if first.people
        else f'<div class="human"><b>{null_name(first)}</b> <span>{first.null:g}</span></div>'
    )
    values = "".join(f'<div class="{style_of(i)}">{_value(report, i, m)}</div>' for i, m in series)
    unit = f"{spec.unit} · {spec.scorer}" if spec.scorer else spec.unit
    return (
        f'<div class="row"><div class="name">{escape(qualified(spec.label, spec.key))}<small>{escape(unit)} · '
        f"n = {first.simulated.n}, {first.prefixes} prefixes</small></div>{_track([*series])}"
        f'<div class="values">{people}{values}</div></div>'
    )


def _value(report: NextTurnReport, index: int, m: Measurement) -> str:
    kind = {"like people": "equivalent", "not told": "inconclusive"}.get(m.reading, "different")
    return (
        f"<b>{escape(report.simulators[index].name)}</b> <span>{estimate(m.simulated)} "
        f'<small class="{kind}">{reading_words(m)}, p {p_value(m.p_holm)}</small></span>'
    )


def _track(series: Sequence[tuple[int, Measurement]]) -> str:
    first = series[0][1]
    null = first.null or 0.0
    people = first.people or Estimate(value=null, low=null, high=null, n=0)
    values = [m.simulated for _, m in series]
    low = min([people.low, *(v.low for v in values)])
    high = max([people.high, *(v.high for v in values)])
    room = max(0.06 * (high - low), 1e-6)
    axis = Axis(low - room, high + room)
    spoken = ", ".join(f"{m.simulated.value:.3g} ({reading_words(m)})" for _, m in series)
    left, right = axis.at(people.low), axis.at(people.high)
    return (
        f'<div class="track" role="img" aria-label="people {people.value:.3g}; simulators {escape(spoken)}">'
        f'<i class="band" style="left:{left}%;width:{max(right - left, 0.6):.2f}%"></i>'
        f'<i class="median" style="left:{axis.at(people.value)}%"></i>'
        f"{lanes(axis, [(index, m.simulated, m.simulated.value) for index, m in series])}"
        f'<small class="from">{axis.low:.3g}</small><small class="to">{axis.high:.3g}</small></div>'
    )


def _data(report: NextTurnReport) -> str:
    sources = page.table(
        ("corpus", "conversations", "people", "prefixes", "with a goal", "known ends"),
        [
            (escape(name), *map(str, (s.conversations, s.people, s.prefixes, s.with_goal, s.known_ends)))
            for name, s in report.sources.items()
        ],
    )
    left_out = "".join(
        f"<li>{count} left out: {escape(reason)}</li>" for reason, count in report.excluded.items()
    )
    undefined = "".join(
        f"<li>{escape(s.name)}: {escape(key)} not measured ({escape(reason)})</li>"
        for s in report.simulators
        for key, reason in s.undefined.items()
    )
    return f"<h2>The people</h2>{sources}<ul>{left_out}{undefined}</ul>"


def _method(report: NextTurnReport) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    stages = page.table(
        ("stage", "minutes"), [(escape(k), f"{v:.1f}") for k, v in report.minutes_by_stage.items()]
    )
    files = page.table(("file", "SHA-256"), [(escape(f.path), f.sha256) for f in report.files])
    return (
        f"<h2>How it was measured</h2><ul>{notes}</ul>"
        + page.details("Time", stages)
        + page.details("Files", files)
        + page.details("Command", f"<pre>{escape(report.command)}</pre>")
    )


def markdown(report: NextTurnReport) -> str:
    """Renders the numbers as a Markdown table, for a model card or a pull request."""
    names = [s.name for s in report.simulators]
    lines = [
        f"# {report.title}",
        "",
        f"{report.conversations} conversations, {report.prefixes} prefixes, the same for all.",
        "",
        "| metric | people | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for key in dict.fromkeys(m.spec.key for s in report.simulators for m in s.measurements):
        by_name = {s.name: m for s in report.simulators for m in s.measurements if m.spec.key == key}
        first = next(iter(by_name.values()))
        human = _plain(first.people) if first.people else f"{null_name(first)}: {first.null:g}"
        scorer = f", {first.spec.scorer}" if first.spec.scorer else ""
        cells = (
            f"{_plain(by_name[n].simulated)} {reading_words(by_name[n])}" if n in by_name else "not measured"
            for n in names
        )
        lines.append(f"| {qualified(first.spec.label, key)}{scorer} | {human} | " + " | ".join(cells) + " |")
    for simulator in report.simulators:
        lines += ["", f"## {simulator.name}", ""]
        lines += [
            f"- **{title}**: {'; '.join(sentences) or 'nothing'}" for title, sentences in in_words(simulator)
        ]
    lines += ["", *(f"- {note}" for note in report.notes)]
    if report.command:
        lines += ["", f"    {report.command}"]
    return "\n".join(lines) + "\n"


def _plain(number: Estimate) -> str:
    return f"{number.value:.3g} [{number.low:.3g}, {number.high:.3g}]"


def write_report(report: NextTurnReport, out: Path) -> None:
    """Writes report.json, report.md and report.html, each atomically."""
    write_json(out / "report.json", report.model_dump(mode="json"))
    for name, text in (("report.md", markdown(report)), ("report.html", render(report))):
        with atomic_writer(out / name) as stream:
            stream.write(text)
