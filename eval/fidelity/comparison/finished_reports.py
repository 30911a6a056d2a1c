"""Two finished reports: compared only where they measured against the same people in the same way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eval.fidelity.comparison.comparison_record import Comparison, Contender, FigureGap, gap_of, with_winners
from eval.fidelity.report_record import Report, SimulatorReport, versions
from usersim.errors import ConfigError, DataError
from usersim.stats.estimates import Z95, Figure, newcombe
from usersim.storage.records import explain

MOVES_NOTHING = frozenset({"examples", "quiz", "processes"})
"""Settings that change no number."""


@dataclass(frozen=True)
class Run:
    folder: Path
    report: Report
    simulator: SimulatorReport


def read_run(folder: Path, name: str | None) -> Run:
    """The report in `folder` and its simulator `name`, which may be left out where there is one only."""
    file = folder / "report.json"
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; give folders of `usersim eval run`, or --human for two JSONL files"
        )
    try:
        report = Report.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DataError(f"{file}: not a report of this version ({explain(error)}); run it again") from error
    by_name = {simulator.name: simulator for simulator in report.simulators}
    if name is None and len(by_name) == 1:
        name = next(iter(by_name))
    if name not in by_name:
        raise ConfigError(f"{folder} holds {', '.join(by_name)}: write NAME={folder} with one of them")
    return Run(folder, report, by_name[name])


def compare_runs(first: Run, second: Run) -> Comparison:
    """Raises DataError naming what differs: the human file, the settings, n, the turn cap."""
    started = time.monotonic()
    differing = differences(first.report, second.report)
    if differing:
        raise DataError(
            f"{first.folder} and {second.folder} cannot be compared, they differ in {'; '.join(differing)}. Run both "
            "in one `usersim eval run`, or use --human with the two JSONL files"
        )
    report = first.report
    assert report.human_file is not None
    ours, theirs = ({f.key: f for f in run.simulator.figures} for run in (first, second))
    shared = [gap_of_runs(figure, theirs[key]) for key, figure in ours.items() if key in theirs]
    if not shared:
        raise DataError(f"{first.folder} and {second.folder} have no figure in common")
    note = (
        "Two finished reports, not paired: their intervals are combined as if they were independent. The human sample "
        "is the same, so the intervals here are too wide. --human with the two JSONL files pairs them by goal."
    )
    return Comparison(
        paired=False,
        n=report.n,
        goals=None,
        first=_contender(first),
        second=_contender(second),
        human_file=report.human_file,
        figures=with_winners(shared),
        missing={**first.simulator.missing, **second.simulator.missing},
        notes=(note, *report.notes),
        config=report.config,
        versions=versions(),
        seconds=round(time.monotonic() - started, 2),
    )


def differences(first: Report, second: Report) -> list[str]:
    """What keeps two reports from being compared, in words."""
    if first.human_file is None or second.human_file is None:
        return ["the human file, which one of them does not name"]
    found = []
    if first.human_file.sha256 != second.human_file.sha256:
        found.append(f"the human file ({first.human_file.path}, {second.human_file.path}: other contents)")
    for name in ("n", "turn_cap"):
        values = [getattr(report, name) for report in (first, second)]
        if values[0] != values[1]:
            found.append(f"{name.replace('_', ' ')} ({values[0]}, {values[1]})")
    one, other = (report.config.model_dump(exclude=set(MOVES_NOTHING)) for report in (first, second))
    keys = [key for key in one if one[key] != other[key]]
    if keys:
        found.append("settings (" + ", ".join(f"{key}: {one[key]}, {other[key]}" for key in keys) + ")")
    return found


def gap_of_runs(first: Figure, second: Figure) -> FigureGap:
    """Difference of two excesses from their intervals alone (Zou & Donner 2008, the method behind `newcombe`); p from
    the half of the interval that looks towards zero, read as a normal's."""
    gap = newcombe(first.excess, second.excess)
    towards = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    z = abs(gap.value) / (towards / Z95) if towards > 0 else math.inf if gap.value else 0.0
    return gap_of(first, second, gap, math.erfc(z / math.sqrt(2)))


def _contender(run: Run) -> Contender:
    kept = run.simulator.side.kept
    return Contender(
        name=run.simulator.name, file=run.simulator.file, compared=run.report.n, left_out=kept - run.report.n
    )
