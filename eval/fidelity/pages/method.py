"""Report sections: what could not be measured, how to read the report, and the facts of the run."""

from __future__ import annotations

import json
from html import escape

from eval.fidelity.pages.redaction import has_text
from eval.fidelity.report_record import FileFacts, Report
from eval.fidelity.samples.prepare import SideFacts
from usersim.report import html as page


def missing(report: Report) -> str:
    rows = [
        [escape(simulator.name), escape(metric), escape(reason)]
        for simulator in report.simulators
        for metric, reason in simulator.missing.items()
    ]
    if not rows:
        return ""
    return '<h2 id="missing">Not measured</h2><p>Never taken as zero.</p>' + page.table(
        ("simulator", "metric", "why"), rows, label="not measured"
    )


def method(report: Report) -> str:
    notes = [escape(note) for note in report.notes]
    if not has_text(report):
        notes.append("This version holds no chat text: conversations, quiz and character runs are left out.")
    return (
        '<h2 id="method">How to read this</h2><ul>'
        f"{''.join(f'<li>{note}</li>' for note in (*notes, *_rules(report)))}</ul>"
        f"{_sides([report.human, *(s.side for s in report.simulators)])}{_run(report)}"
    )


def _rules(report: Report) -> list[str]:
    cap = f"cut at {report.turn_cap} user turns ({report.turn_cap_from})" if report.turn_cap else "not cut"
    return [
        f"Conversations are the unit; they are {cap}. All sides have the same n; the others are left out at random.",
        "“different”: p, adjusted for all metrics together (Holm), is at most 0.05, the interval of value minus "
        "baseline median lies beyond zero, and the value beyond the far end of the baseline. “equivalent”: that "
        "interval ends below the margin (the dotted line), fixed beforehand. All others are inconclusive, not the "
        "same as equal. Gates are not adjusted: by chance alone about one in twenty is called different. “Overall” "
        "is one test over all metrics: p is the share of human splits whose worst metric is as far out.",
    ]


def _sides(sides: list[SideFacts]) -> str:
    rows = [
        [
            escape(side.name),
            *map(str, (side.given, side.kept, side.truncated)),
            escape(", ".join(f"{k} {v}" for k, v in side.excluded.items()) or "none"),
            escape(", ".join(f"{k} {v}" for k, v in side.ended_by.items())),
        ]
        for side in sides
    ]
    return page.table(("file", "given", "kept", "cut", "left out", "ended by"), rows, label="files")


def _run(report: Report) -> str:
    facts = [("seed", str(report.config.seed)), ("seconds", f"{report.seconds:.0f}")]
    facts += [(name, f"{value:,.15g}") for name, value in report.costs.items()]
    facts += [(f"{name}: file", f"{file.path} (SHA-256 {file.sha256})") for name, file in _files(report)]
    facts += [("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items()))]
    command = f"<h3>Command</h3><pre>{escape(report.command)}</pre>" if report.command else ""
    config = json.dumps(report.config.model_dump(mode="json"), indent=1, ensure_ascii=False)
    facts_html = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<h2 id="run">The run</h2>{command}<dl class="facts">{facts_html}</dl>' + page.details(
        "All settings", f"<pre>{escape(config)}</pre>"
    )


def _files(report: Report) -> list[tuple[str, FileFacts]]:
    files_by_name = [("human", report.human_file), *((s.name, s.file) for s in report.simulators)]
    return [(name, file) for name, file in files_by_name if file]
