"""Markdown report of the User-Sim Index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval.papers.user_sim_index.features import DIMENSIONS
from eval.papers.user_sim_index.index import SCORES
from eval.papers.user_sim_index.index_record import IndexReport, SimulatorIndex
from usersim.stats.estimates import Estimate, Figure

MARK = {"different": "≠", "equivalent": "≈", "inconclusive": "", "too few": "?"}
EXTRA_METRICS = ("coverage", "density")


def markdown(report: IndexReport, *, by_feature: bool = True) -> str:
    """Returns the tables: as published, at the same n beside the human ceiling, outcomes, and feature by feature."""
    parts = [
        f"# User-Sim Index, {report.n} conversations per side beside the ceiling",
        "\n".join(_published(report.simulators)),
        "\n".join(_matched(report)),
    ]
    parts += ["\n".join(_outcomes(s)) for s in report.simulators if s.calibration]
    parts += ["\n".join(_features(s)) for s in report.simulators if by_feature]
    parts.append("\n".join(f"- {note}" for note in report.notes))
    if report.command:
        parts.append(f"`{report.command}`, seed {report.seed}")
    return "\n\n".join(parts) + "\n"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    return [row(*cells), row(*("---" for _ in cells))]


def spread(value: Estimate, digits: int = 1) -> str:
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _published(simulators: Sequence[SimulatorIndex]) -> Iterator[str]:
    yield "## As published (all conversations)\n"
    yield from head("simulator", "n", "D1", "D2", "D3", "D4", "Eval", "ECE", "USI", "terms")
    for s in simulators:
        p = s.published
        usi = spread(p.usi) + (f" ± {p.usi_sd:.1f} (batches)" if p.usi_sd is not None else "")
        yield row(
            s.name,
            str(p.usi.n),
            *(spread(p.dimensions[key]) for key in DIMENSIONS),
            "-" if p.evaluation is None else f"{p.evaluation:.1f}",
            "-" if p.ece is None else f"{p.ece:.3f}",
            usi,
            p.label,
        )


def _matched(report: IndexReport) -> Iterator[str]:
    yield f"## At {report.n} per side, beside people against people\n"
    yield from head("metric", "people", *(s.name for s in report.simulators))
    for key in (*SCORES, *EXTRA_METRICS):
        digits = 2 if key in EXTRA_METRICS else 1
        metrics = [_metric_of(s, key) for s in report.simulators]
        floor = metrics[0].floor
        yield row(
            metrics[0].label,
            f"{floor.median:.{digits}f} [{floor.low:.{digits}f}, {floor.high:.{digits}f}]",
            *(f"{spread(f.value, digits)} {MARK[f.verdict]}".strip() for f in metrics),
        )
    yield "\n≠: different from people (Holm over the metrics); ≈: equivalent within the margin; ?: too few to say"


def _metric_of(simulator: SimulatorIndex, key: str) -> Figure:
    return next(metric for metric in simulator.figures if metric.key == key)


def _outcomes(simulator: SimulatorIndex) -> Iterator[str]:
    calibration = simulator.calibration
    assert calibration is not None
    yield f"## Outcomes: {simulator.name}\n"
    yield (
        f"ECE {spread(calibration.ece, 3)} over {calibration.ece.n} tasks, {calibration.runs} run(s) "
        f"against {calibration.batches} batch(es); two draws from the same probabilities score "
        f"{calibration.null_median:.3f} [{calibration.null_low:.3f}, {calibration.null_high:.3f}]; "
        f"beyond chance {spread(calibration.excess, 3)}, p = {calibration.p:.3f}"
    )
    if calibration.human_human is not None:
        yield f"\nPeople against people: {calibration.human_human:.3f}"
    yield ""
    yield from head("difficulty", "tasks", "people succeed", f"{simulator.name} succeeds")
    for b in calibration.bins:
        yield row(f"{b.low:.1f} to {b.high:.1f}", str(b.tasks), f"{b.human:.2f}", f"{b.simulated:.2f}")


def _features(simulator: SimulatorIndex) -> Iterator[str]:
    """Yields the table of features. Dice is at the same n; the means are over all conversations."""
    yield f"## Features: {simulator.name}\n"
    yield from head("dimension", "feature", "people", simulator.name, "Dice", "Dice of people with people")
    means = {m.key: m for m in simulator.features}
    for dimension, keys in DIMENSIONS.items():
        for key in keys:
            metric, mean = _metric_of(simulator, key), means[key]
            yield row(
                dimension,
                key,
                f"{mean.human:.3f}",
                f"{mean.simulated:.3f}",
                f"{spread(metric.value, 2)} {MARK[metric.verdict]}".strip(),
                f"{metric.floor.median:.2f} [{metric.floor.low:.2f}, {metric.floor.high:.2f}]",
            )
