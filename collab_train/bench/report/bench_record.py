"""What a benchmark leaves: report.json, table.md, report.html, and one line a cell for the terminal."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from collab_train.bench.benchmark import Jobs
from collab_train.bench.conditions import BenchConfig, Part
from collab_train.bench.measures.cells import Cell
from collab_train.bench.measures.conversation_measures import MEASURES
from collab_train.bench.measures.intervals import Estimate
from collab_train.bench.report.plots import figure
from collab_train.bench.single_replies.generalise import Asking
from collab_train.bench.single_replies.safety import Refusing
from usersim import __version__

LIBRARIES = ("torch", "transformers", "trl", "peft", "numpy", "scipy")
ENOUGH = 10
Table = tuple[list[str], list[list[str]]]
"""Heads and rows of text."""


def complete(config: BenchConfig, jobs: Jobs, made: dict[str, Any], command: str) -> dict[str, Any]:
    """`made` by `run_bench`, with all that is needed to make it again."""
    return {
        "command": command,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "versions": _versions(),
        "contexts": {part: _contexts_hash(jobs[part]) for part in jobs},
        **made,
    }


def _versions() -> dict[str, str]:
    found = {"usersim": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _contexts_hash(jobs: Sequence[Any]) -> dict[str, str]:
    """By task: SHA-256 over everything in its contexts, rules of scoring included."""
    grouped: dict[str, dict[str, Any]] = {}
    for job in jobs:
        grouped.setdefault(job.task, {})[job.context.id] = job.context.model_dump(mode="json")
    return {
        task: hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]
        for task, own in grouped.items()
    }


def cell_line(cell: Cell) -> str:
    """One cell on the terminal."""
    where = " · ".join((cell.task, cell.user, cell.assistant))
    failed = f", {cell.failed} failed" if cell.failed else ""
    if not cell.measures:
        return f"{where}: nothing came through ({next(iter(cell.failures), '')})"
    shown = ("score", "reward", "tokens", "question_rate", "user_words")
    said = ", ".join(f"{MEASURES[name].label} {_short(cell.measures[name], name)}" for name in shown)
    return f"{where}: {said}; n {cell.contexts}{failed}"


def _short(estimate: Estimate, name: str) -> str:
    return figure(estimate, MEASURES[name].digits)


def asking_line(one: Asking) -> str:
    parts = (("asks when ambiguous", one.ambiguous), ("answers when clear", one.clear), ("macro", one.macro))
    said = ", ".join(f"{name} {figure(found, 2)}" for name, found in parts if found)
    return f"abg_coqa · {one.assistant}: {said or 'nothing came through'}{_failed(one.failed)}"


def refusing_line(one: Refusing) -> str:
    parts = (("refuses harmful", one.harmful), ("harmless", one.harmless))
    said = ", ".join(f"{name} {figure(found, 2)}" for name, found in parts if found)
    return f"safety · {one.assistant}: {said or 'nothing came through'}{_failed(one.failed)}"


def _failed(count: int) -> str:
    return f", {count} failed" if count else ""


LINES: dict[Part, tuple[Any, Callable[[Any], str]]] = {
    "table": (Cell, cell_line),
    "ablation": (Cell, cell_line),
    "clarify": (Asking, asking_line),
    "safety": (Refusing, refusing_line),
}


def lines(report: dict[str, Any]) -> Iterator[str]:
    for part, (kind, line) in LINES.items():
        for one in report.get(part, ()):
            yield line(kind.model_validate(plain(one)))


def plain(cell: dict[str, Any]) -> dict[str, Any]:
    """Without what the ablation adds to a cell."""
    return {name: value for name, value in cell.items() if name not in ("w", "rewards")}


def values_table(cells: Sequence[Cell]) -> Table:
    """One row an assistant, all of one task and user."""
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


def differences_table(cells: Sequence[Cell]) -> Table:
    """One row an assistant and reference; bold as `leaves_out_zero` says."""
    names = [name for name in MEASURES if any(name in cell.measures for cell in cells)]
    rows = [
        [
            f"{cell.assistant} - {reference}",
            *(_difference(found[name], name) if name in found else "-" for name in names),
            str(found["reward"].n if "reward" in found else 0),
        ]
        for cell in cells
        for reference, found in cell.differences.items()
    ]
    return ["", *(MEASURES[name].label for name in names), "n"], rows


def _difference(estimate: Estimate, name: str) -> str:
    text = figure(estimate, MEASURES[name].digits, signed=True)
    return f"**{text}**" if leaves_out_zero(estimate) else text


def leaves_out_zero(estimate: Estimate) -> bool:
    """With enough contexts: the bootstrap of a few values is too narrow to claim anything by."""
    if estimate.low is None or estimate.high is None or estimate.n < ENOUGH:
        return False
    return not estimate.low <= 0.0 <= estimate.high


def asking_table(found: Sequence[Asking]) -> Table:
    heads = ["assistant", "asks when ambiguous", "answers when clear", "mean of both", "failed"]
    rows = [
        [
            one.assistant,
            *(_or_dash(part) for part in (one.ambiguous, one.clear, one.macro)),
            str(one.failed),
            *(_gap(one.differences.get(name)) for name in _references(found)),
        ]
        for one in found
    ]
    return [*heads, *(f"mean, minus {name}" for name in _references(found))], rows


def refusing_table(found: Sequence[Refusing]) -> Table:
    judged = any(one.judged for one in found)
    heads = ["assistant", "refuses harmful", "refuses harmless", "failed"]
    heads += [f"{kind}, minus {name}" for name in _references(found) for kind in ("harmful", "harmless")]
    heads += ["harmful by judge", "harmless by judge", "judge agrees"] if judged else []
    rows = []
    for one in found:
        row = [one.assistant, _or_dash(one.harmful), _or_dash(one.harmless), str(one.failed)]
        for name in _references(found):
            row += [_gap(one.differences.get(name, {}).get(kind)) for kind in ("harmful", "harmless")]
        if judged:
            row += [_or_dash(one.judged.get(kind)) for kind in ("harmful", "harmless")]
            row.append(_or_dash(one.agreement))
        rows.append(row)
    return heads, rows


def _references(found: Sequence[Asking] | Sequence[Refusing]) -> list[str]:
    return list(dict.fromkeys(name for one in found for name in one.differences))


def _or_dash(estimate: Estimate | None) -> str:
    return "-" if estimate is None else figure(estimate, 2)


def _gap(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    text = figure(estimate, 2, signed=True)
    return f"**{text}**" if leaves_out_zero(estimate) else text
