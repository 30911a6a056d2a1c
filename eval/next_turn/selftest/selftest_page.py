"""Self-test report as HTML, Markdown and terminal output, without chat text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.table import Table
from rich.text import Text

from eval.next_turn.selftest.planted_table import ALPHA, CLOCK_BOUND, row
from eval.next_turn.selftest.selftest_record import PeopleResult, PlantedCell, SelfTestReport, UserResult
from usersim.errors import DataError
from usersim.report import html as page
from usersim.storage.records import atomic_writer, write_json

LEGEND = (
    "A cell: the planted user minus people, in standard errors of the paired difference. Bold: Holm-adjusted p below "
    f"{ALPHA}. Outlined (in Markdown: [ ]): a metric meant for this user; ✗ where it did not catch it."
)
STRONG = 12.0
"""Number of standard errors at which a cell has its full colour."""
STYLE = """
main { max-width: 1500px; }

.m { display: block; min-width: 44px; padding: 3px 5px; text-align: right; font-variant-numeric: tabular-nums;
  border-radius: 4px; }
.m.meant { outline: 2px solid var(--ink); outline-offset: -1px; }
.m.missed { outline: 2px dashed var(--bad); outline-offset: -1px; }
.m b { font-weight: 700; }
.v { writing-mode: vertical-rl; transform: rotate(180deg); font-weight: 400; font-size: 12px; white-space: nowrap; }
td { padding: 2px 3px; }
th { vertical-align: bottom; }
td:first-child { white-space: nowrap; }
.yes { color: var(--good); } .no { color: var(--bad); }
"""


def headline(report: SelfTestReport) -> list[str]:
    """Returns the findings of the self-test, one sentence per line."""
    caught, judged = sum(report.planted_caught.values()), len(report.planted_caught)
    lines = [f"{caught} of {judged} planted users are caught by a metric meant for them."]
    missed = [result for result in report.users if result.is_caught is False]
    lines += [_missed(result) for result in missed]
    lines += [
        f"{report_label(report, name)}: not judged; {why}." for name, why in report.planted_left_out.items()
    ]
    lines += [_people(result) for result in report.people]
    if report.coverage:
        outside = ", ".join(f"{key} {report.coverage[key]:.1%}" for key in report.coverage_outside)
        inside = len(report.coverage) - len(report.coverage_outside)
        lines.append(
            f"95 % intervals hold the value of the full set in 92 to 98 % of {report.config.resamples} resamples for "
            f"{inside} of {len(report.coverage)} metrics{f' (outside: {outside})' if outside else ''}."
        )
    return lines


def report_label(report: SelfTestReport, name: str) -> str:
    return next((result.label for result in report.users if result.name == name), name)


def markdown(report: SelfTestReport) -> str:
    keys = _columns(report)
    heads = ["planted user", "caught", *keys]
    rows = [
        [result.label, _verdict(result), *(_markdown_cell(_cell(result, key)) for key in keys)]
        for result in report.users
        if result.cells
    ]
    lines = [
        f"# {report.title}",
        "",
        _size(report),
        "",
        *(f"- {line}" for line in headline(report)),
        "",
        LEGEND,
        "",
        _line(heads),
        _line(["---"] * len(heads)),
        *map(_line, rows),
        "",
        "## Planted users",
        "",
        *(f"- {result.label}: {result.made} ({_facts(result)})" for result in report.users),
        "",
        "## Coverage of the 95 % intervals",
        "",
        *(f"- {key}: {share:.1%}" for key, share in report.coverage.items()),
        *(f"- {key}: not told, {why}" for key, why in report.coverage_undefined.items()),
        "",
        "## Notes",
        "",
        *(f"- {note}" for note in report.notes),
    ]
    if report.command:
        lines += ["", f"    {report.command}"]
    return "\n".join(lines) + "\n"


def html(report: SelfTestReport) -> str:
    keys = _columns(report)
    labels = {spec.key: spec.label for spec in report.specs}
    matrix = page.table(
        ["planted user", "caught", *(_head(key, labels.get(key, key)) for key in keys)],
        [
            [escape(result.label), _html_verdict(result), *(_html_cell(_cell(result, key)) for key in keys)]
            for result in report.users
            if result.cells
        ],
        label="planted users by metrics",
    )
    users = page.table(
        ["planted user", "how it is made", "metrics meant for it", "caught by", "turns"],
        [
            [
                escape(result.label),
                escape(result.made),
                escape(", ".join(expected.key for expected in row(result.name).expectations)),
                escape(", ".join(result.caught_by) or result.left_out or "none"),
                escape(_facts(result)),
            ]
            for result in report.users
        ],
        label="planted users",
    )
    coverage = page.table(
        ["metric", "coverage"],
        [
            [
                escape(key),
                f'<span class="{"no" if key in report.coverage_outside else "yes"}">{share:.1%}</span>',
            ]
            for key, share in report.coverage.items()
        ]
        + [
            [escape(key), f'<span class="soft">{escape(why)}</span>']
            for key, why in report.coverage_undefined.items()
        ],
        label="coverage",
    )
    people = page.table(
        ["people against people", "repeats", "metrics", "any below the criterion", "by which"],
        [
            [
                _form(result),
                str(result.repeats),
                str(result.metrics),
                f"{result.share:.1%}",
                escape(", ".join(f"{key} {share:.1%}" for key, share in result.by_metric.items()) or "none"),
            ]
            for result in report.people
        ],
        label="people against people",
    )
    settings = escape(report.config.model_dump_json(indent=1))
    command = f"<p><code>{escape(report.command)}</code></p>" if report.command else ""
    return page.render_page(
        report.title,
        [
            f"<h1>{escape(report.title)}</h1>"
            f'<p class="lead">{escape(_size(report))}</p>{_list(headline(report))}',
            f"<h2>Which metric sees which planted user</h2><p>{escape(LEGEND)} The two clocks count as caught where "
            f"their gain over their own baseline is bounded below {CLOCK_BOUND}.</p>{matrix}",
            f"<h2>People</h2>{people}",
            f"<h2>Coverage of the 95 % intervals</h2>{coverage}",
            f"<h2>Planted users</h2>{users}",
            f"<h2>Notes</h2>{_list(report.notes) if report.notes else '<p>None.</p>'}",
            page.details("Settings", f"<pre>{settings}</pre>{command}"),
        ],
        style=STYLE,
    )


def terminal(report: SelfTestReport) -> Table:
    table = Table(title=_size(report), title_justify="left")
    for head in (
        "planted user",
        "caught",
        "metric meant for it",
        "planted",
        "people",
        "SE",
        "p (Holm)",
        "n needed",
    ):
        table.add_column(head)
    for result in report.users:
        best = min(
            (c for c in result.cells if c.is_meant), key=lambda c: (not c.is_caught, c.p_holm), default=None
        )
        style = "green" if result.is_caught else "red" if result.is_caught is False else "dim"
        if best is None:
            table.add_row(result.label, Text(_verdict(result), style), Text(result.left_out or "", "dim"))
            continue
        table.add_row(
            result.label,
            Text(_verdict(result), style),
            best.key,
            f"{best.value.value:.3f}",
            "" if best.people is None else f"{best.people:.3f}",
            _sigmas(best),
            f"{best.p_holm:.4f}",
            "" if result.needed_n is None else f"{result.needed_n:,}",
        )
    return table


def write_selftest(report: SelfTestReport, out: str | Path) -> None:
    """Writes report.json, report.md and report.html to `out`, each atomically."""
    folder = Path(out)
    try:
        write_json(folder / "report.json", report.model_dump(mode="json"))
        for name, text in (("report.md", markdown(report)), ("report.html", html(report))):
            with atomic_writer(folder / name) as stream:
                stream.write(text)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}); name a folder with --out"
        ) from error


def _columns(report: SelfTestReport) -> list[str]:
    measured = {cell.key for result in report.users for cell in result.cells}
    return [spec.key for spec in report.specs if spec.key in measured]


def _cell(result: UserResult, key: str) -> PlantedCell | None:
    return next((cell for cell in result.cells if cell.key == key), None)


def _sigmas(cell: PlantedCell) -> str:
    if cell.z is None:
        return "0" if abs(cell.difference.value) < 1e-12 else "∞" if cell.difference.value > 0 else "-∞"
    return f"{cell.z:+.1f}"


def _markdown_cell(cell: PlantedCell | None) -> str:
    if cell is None:
        return ""
    text = f"**{_sigmas(cell)}**" if cell.p_holm < ALPHA else _sigmas(cell)
    if not cell.is_meant:
        return text
    return f"[{text}]" if cell.is_caught else f"[{text} ✗]"


def _html_cell(cell: PlantedCell | None) -> str:
    if cell is None:
        return '<span class="soft">·</span>'
    z = cell.z if cell.z is not None else _sign(cell.difference.value) * STRONG
    strength = min(abs(z) / STRONG, 1.0) * 55
    hue = "--c0" if z > 0 else "--c1"
    marks = "m" + (" meant" if cell.is_meant and cell.is_caught else " missed" if cell.is_meant else "")
    people = "" if cell.people is None else f", people {cell.people:.3f}"
    caption = f"{cell.key}: {cell.value.value:.3f}{people}, Holm p {cell.p_holm:.4f}"
    text = f"<b>{_sigmas(cell)}</b>" if cell.p_holm < ALPHA else _sigmas(cell)
    text += " ✗" if cell.is_meant and not cell.is_caught else ""
    return (
        f'<span class="{marks}" title="{escape(caption)}" '
        f'style="background:color-mix(in srgb, var({hue}) {strength:.0f}%, transparent)">{text}</span>'
    )


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _head(key: str, label: str) -> str:
    return f'<span class="v" title="{escape(label)}">{escape(key)}</span>'


def _verdict(result: UserResult) -> str:
    return "not judged" if result.is_caught is None else "yes" if result.is_caught else "no"


def _html_verdict(result: UserResult) -> str:
    kind = "soft" if result.is_caught is None else "yes" if result.is_caught else "no"
    return f'<span class="{kind}">{_verdict(result)}</span>'


def _missed(result: UserResult) -> str:
    needed = (
        f"about {result.needed_n:,} conversations"
        if result.needed_n
        else "no number told from what is seen here"
    )
    return f"{result.label}: not caught at {result.conversations} conversations; needed for 80 % power: {needed}."


def _form(result: PeopleResult) -> str:
    return "two halves of the people" if result.form == "halves" else "pairs of different people, same turn"


def _people(result: PeopleResult) -> str:
    return (
        f"People against people ({_form(result)}): any of {result.metrics} metrics below the same criterion in "
        f"{result.share:.1%} of {result.repeats} repeats."
    )


def _facts(result: UserResult) -> str:
    failed = sum(result.failed.values())
    out = f", {failed} prefixes left out: {', '.join(result.failed)}" if failed else ""
    return f"{result.turns} turns, {result.changed:.0%} not the person's{out}"


def _size(report: SelfTestReport) -> str:
    sources = ", ".join(f"{name} {count}" for name, count in sorted(report.sources.items()))
    return (
        f"{report.conversations} conversations of {report.clusters} people, as far as people are known ({sources}), "
        f"{report.turns} user turns; {report.with_goal} have a goal, {report.with_known_end} a known end."
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
