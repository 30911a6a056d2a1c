"""Comparison of two finished reports, only where they measured against the same people in the same way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eval.fidelity.comparison.comparison_record import (
    Contender,
    MetricGap,
    SimulatorComparison,
    gap_of,
    with_winners,
)
from eval.fidelity.report_record import Report, SimulatorReport, versions
from usersim.errors import ConfigError, DataError
from usersim.stats.estimates import Z95, Figure, newcombe
from usersim.storage.records import explain

NEUTRAL_SETTINGS = frozenset({"examples", "quiz", "processes"})
"""Settings that change no result."""


@dataclass(frozen=True)
class FinishedReport:
    """Finished report with one of its simulators."""

    folder: Path
    report: Report
    simulator: SimulatorReport


def read_report(folder: Path, name: str | None) -> FinishedReport:
    """Reads the report in `folder` and its simulator `name`, which may be None where there is only one."""
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
    return FinishedReport(folder, report, by_name[name])


def compare_reports(first: FinishedReport, second: FinishedReport) -> SimulatorComparison:
    """Compares two finished reports. Raises DataError that names what differs: the human file, the settings, n,
    the turn cap."""
    start_time = time.monotonic()
    differing = differences(first.report, second.report)
    if differing:
        raise DataError(
            f"{first.folder} and {second.folder} cannot be compared, they differ in {'; '.join(differing)}. Run both "
            "in one `usersim eval run`, or use --human with the two JSONL files"
        )
    report = first.report
    assert report.human_file is not None
    first_metrics, second_metrics = (
        {f.key: f for f in finished.simulator.figures} for finished in (first, second)
    )
    gaps = [
        gap_of_reports(metric, second_metrics[key])
        for key, metric in first_metrics.items()
        if key in second_metrics
    ]
    if not gaps:
        raise DataError(f"{first.folder} and {second.folder} have no metric in common")
    note = (
        "Two finished reports, not paired: their intervals are combined as if they were independent. The human sample "
        "is the same, so the intervals here are too wide. --human with the two JSONL files pairs them by goal."
    )
    return SimulatorComparison(
        paired=False,
        n=report.n,
        goals=None,
        first=_contender(first),
        second=_contender(second),
        human_file=report.human_file,
        figures=with_winners(gaps),
        missing={**first.simulator.missing, **second.simulator.missing},
        notes=(note, *report.notes),
        config=report.config,
        versions=versions(),
        seconds=round(time.monotonic() - start_time, 2),
    )


def differences(first: Report, second: Report) -> list[str]:
    """Returns the reasons why two reports cannot be compared."""
    if first.human_file is None or second.human_file is None:
        return ["the human file, which one of them does not name"]
    reasons = []
    if first.human_file.sha256 != second.human_file.sha256:
        reasons.append(f"the human file ({first.human_file.path}, {second.human_file.path}: other contents)")
    for name in ("n", "turn_cap"):
        values = [getattr(report, name) for report in (first, second)]
        if values[0] != values[1]:
            reasons.append(f"{name.replace('_', ' ')} ({values[0]}, {values[1]})")
    first_settings, second_settings = (
        report.config.model_dump(exclude=set(NEUTRAL_SETTINGS)) for report in (first, second)
    )
    keys = [key for key in first_settings if first_settings[key] != second_settings[key]]
    if keys:
        reasons.append(
            "settings ("
            + ", ".join(f"{key}: {first_settings[key]}, {second_settings[key]}" for key in keys)
            + ")"
        )
    return reasons


def gap_of_reports(first: Figure, second: Figure) -> MetricGap:
    """Returns the difference of two excesses from their intervals alone (Zou & Donner 2008, the method behind
    `newcombe`). p comes from the half of the interval towards zero, read as a normal's."""
    gap = newcombe(first.excess, second.excess)
    half_width = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    z = abs(gap.value) / (half_width / Z95) if half_width > 0 else math.inf if gap.value else 0.0
    return gap_of(first, second, gap, math.erfc(z / math.sqrt(2)))


def _contender(finished: FinishedReport) -> Contender:
    kept_count = finished.simulator.side.kept
    return Contender(
        name=finished.simulator.name,
        file=finished.simulator.file,
        compared=finished.report.n,
        left_out=kept_count - finished.report.n,
    )
