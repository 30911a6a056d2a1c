"""Report of a benchmark as JSON, as tables of text, and as one line per cell for the terminal."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from collab_train.bench.benchmark import Jobs
from collab_train.bench.conditions import BenchConfig, Part
from collab_train.bench.measures.cells import BenchCell
from collab_train.bench.measures.conversation_measures import MEASURES
from collab_train.bench.measures.intervals import IntervalEstimate
from collab_train.bench.report.plots import format_estimate
from collab_train.bench.single_replies.generalise import Asking
from collab_train.bench.single_replies.safety import Refusing
from usersim import __version__

LIBRARIES = ("torch", "transformers", "trl", "peft", "numpy", "scipy")
ENOUGH = 10
Table = tuple[list[str], list[list[str]]]
"""Column headings, and rows of text."""


def with_provenance(config: BenchConfig, jobs: Jobs, results: dict[str, Any], command: str) -> dict[str, Any]:
    """Adds to the results of `run_bench` what is needed to reproduce them."""
    return {
        "command": command,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "versions": _versions(),
        "contexts": {part: _contexts_hash(jobs[part]) for part in jobs},
        **results,
    }


def _versions() -> dict[str, str]:
    versions = {"usersim": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _contexts_hash(jobs: Sequence[Any]) -> dict[str, str]:
    """Returns, by task, the SHA-256 of its contexts, scoring rules included."""
    grouped: dict[str, dict[str, Any]] = {}
    for job in jobs:
        grouped.setdefault(job.task, {})[job.context.id] = job.context.model_dump(mode="json")
    return {
        task: hashlib.sha256(json.dumps(contexts, sort_keys=True).encode()).hexdigest()[:16]
        for task, contexts in grouped.items()
    }


def cell_line(cell: BenchCell) -> str:
    """Summary of a cell for the terminal."""
    condition = " · ".join((cell.task, cell.user, cell.assistant))
    failed = f", {cell.failed} failed" if cell.failed else ""
    if not cell.measures:
        return f"{condition}: no conversation succeeded ({next(iter(cell.failures), '')})"
    names = ("score", "reward", "tokens", "question_rate", "user_words")
    summary = ", ".join(f"{MEASURES[name].label} {_short(cell.measures[name], name)}" for name in names)
    return f"{condition}: {summary}; n {cell.contexts}{failed}"


def _short(estimate: IntervalEstimate, name: str) -> str:
    return format_estimate(estimate, MEASURES[name].digits)


def asking_line(result: Asking) -> str:
    estimates = (
        ("asks when ambiguous", result.ambiguous),
        ("answers when clear", result.clear),
        ("macro", result.macro),
    )
    summary = ", ".join(f"{name} {format_estimate(estimate, 2)}" for name, estimate in estimates if estimate)
    return f"abg_coqa · {result.assistant}: {summary or 'no reply succeeded'}{_failed(result.failed)}"


def refusing_line(result: Refusing) -> str:
    estimates = (("refuses harmful", result.harmful), ("harmless", result.harmless))
    summary = ", ".join(f"{name} {format_estimate(estimate, 2)}" for name, estimate in estimates if estimate)
    return f"safety · {result.assistant}: {summary or 'no reply succeeded'}{_failed(result.failed)}"


def _failed(count: int) -> str:
    return f", {count} failed" if count else ""


LINES: dict[Part, tuple[Any, Callable[[Any], str]]] = {
    "table": (BenchCell, cell_line),
    "ablation": (BenchCell, cell_line),
    "clarify": (Asking, asking_line),
    "safety": (Refusing, refusing_line),
}


def lines(report: dict[str, Any]) -> Iterator[str]:
    for part, (kind, format_line) in LINES.items():
        for row in report.get(part, ()):
            yield format_line(kind.model_validate(cell_fields(row)))


def cell_fields(cell: dict[str, Any]) -> dict[str, Any]:
    """Drops the fields that the ablation adds to a cell."""
    return {name: value for name, value in cell.items() if name not in ("w", "rewards")}


def values_table(cells: Sequence[BenchCell]) -> Table:
    """Table of values with one row per assistant; all cells are of one task and user."""
    names = [name for name in MEASURES if any(name in cell.measures for cell in cells)]
    heads = ["assistant", *(MEASURES[name].label for name in names), "n", "failed"]
    rows = [
        [
            cell.assistant,
            *(_short(cell.measures[name], name) if name in cell.measures else "-" for name in names),
            str(cell.contexts),
            str(cell.failed),
        ]
        for cell in cells
    ]
    return heads, rows


def differences_table(cells: Sequence[BenchCell]) -> Table:
    """Table of paired differences with one row per assistant and reference; bold where `leaves_out_zero`."""
    names = [name for name in MEASURES if any(name in cell.measures for cell in cells)]
    rows = [
        [
            f"{cell.assistant} - {reference}",
            *(_difference(gaps[name], name) if name in gaps else "-" for name in names),
            str(gaps["reward"].n if "reward" in gaps else 0),
        ]
        for cell in cells
        for reference, gaps in cell.differences.items()
    ]
    return ["", *(MEASURES[name].label for name in names), "n"], rows


def _difference(estimate: IntervalEstimate, name: str) -> str:
    text = format_estimate(estimate, MEASURES[name].digits, signed=True)
    return f"**{text}**" if leaves_out_zero(estimate) else text


def leaves_out_zero(estimate: IntervalEstimate) -> bool:
    """True if the interval excludes 0 and n is at least 10. The bootstrap interval of fewer values is too narrow."""
    if estimate.low is None or estimate.high is None or estimate.n < ENOUGH:
        return False
    return not estimate.low <= 0.0 <= estimate.high


def asking_table(results: Sequence[Asking]) -> Table:
    heads = ["assistant", "asks when ambiguous", "answers when clear", "mean of both", "failed"]
    rows = [
        [
            result.assistant,
            *(_or_dash(part) for part in (result.ambiguous, result.clear, result.macro)),
            str(result.failed),
            *(_gap(result.differences.get(name)) for name in _references(results)),
        ]
        for result in results
    ]
    return [*heads, *(f"mean, minus {name}" for name in _references(results))], rows


def refusing_table(results: Sequence[Refusing]) -> Table:
    judged = any(result.judged for result in results)
    heads = ["assistant", "refuses harmful", "refuses harmless", "failed"]
    heads += [f"{kind}, minus {name}" for name in _references(results) for kind in ("harmful", "harmless")]
    heads += ["harmful by judge", "harmless by judge", "judge agrees"] if judged else []
    rows = []
    for result in results:
        row = [result.assistant, _or_dash(result.harmful), _or_dash(result.harmless), str(result.failed)]
        for name in _references(results):
            row += [_gap(result.differences.get(name, {}).get(kind)) for kind in ("harmful", "harmless")]
        if judged:
            row += [_or_dash(result.judged.get(kind)) for kind in ("harmful", "harmless")]
            row.append(_or_dash(result.agreement))
        rows.append(row)
    return heads, rows


def _references(results: Sequence[Asking] | Sequence[Refusing]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.differences))


def _or_dash(estimate: IntervalEstimate | None) -> str:
    return "-" if estimate is None else format_estimate(estimate, 2)


def _gap(estimate: IntervalEstimate | None) -> str:
    if estimate is None:
        return "-"
    text = format_estimate(estimate, 2, signed=True)
    return f"**{text}**" if leaves_out_zero(estimate) else text
