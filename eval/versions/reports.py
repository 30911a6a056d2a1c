"""Readers of report.json of `eval next-turn` and `eval model`: the numbers that have targets."""

from __future__ import annotations

from pathlib import Path

from eval.likelihood.figures import ModelReport
from eval.next_turn.results import NextTurnReport
from eval.versions.aims import ratio
from usersim.errors import ConfigError
from usersim.stats.estimates import Estimate

LENGTH_AND_CASE = ("words_per_turn", "lowercase_starts")
OBEYED = 0.3
"""Minimum Spearman correlation between requested and written style at which an attribute counts as obeyed."""
CHANCE = 0.5
LATER = "3+"


def next_turn_numbers(path: Path, model: str, before: str) -> dict[str, Estimate]:
    """Detectability of each version at later turns, and its coherence relative to that of people.

    Args:
        path: report.json of `eval next-turn` over both versions.
        model: Name of the new version in the report.
        before: Name of the previous version in the report.

    Returns:
        Estimates by key.

    Raises:
        ConfigError: A version is not in the report, or family B was not run.
    """
    report = NextTurnReport.model_validate_json(path.read_text(encoding="utf-8"))
    measured = {
        simulator.name: {m.spec.key: m.simulated for m in simulator.measurements}
        for simulator in report.simulators
    }
    missing = [name for name in (model, before) if name not in measured]
    key = f"told_apart.b.{LATER}"
    if missing or key not in measured[model]:
        raise ConfigError(
            f"{path}: {', '.join(missing) or key} is missing; "
            "run `eval next-turn --certificate` with both versions"
        )
    numbers = {
        f"{key}.excess_over_before": ratio(measured[model][key], measured[before][key], CHANCE),
        key: measured[model][key],
        f"{key}.before": measured[before][key],
    }
    for scorer in ("lm", "embedding"):
        name = f"coherence.history.{scorer}.{LATER}"
        numbers[f"{name}.share_of_people"] = ratio(measured[model][name], report.people[name])
    return numbers


def model_numbers(path: Path) -> dict[str, Estimate]:
    """Style obedience, share of turns in the assistant's voice, and memorised runs, from report.json of `eval model`.

    Raises:
        ConfigError: The report has no drawn turns (`--draws`, `--control`, `--train`).
    """
    report = ModelReport.model_validate_json(path.read_text(encoding="utf-8"))
    if report.control is None or report.roles is None or report.memory is None:
        raise ConfigError(
            f"{path}: tables are missing; run `eval model` with --draws, --control, --dev and --train"
        )
    style = {one.attribute: one.spearman for one in report.control.attributes}
    others = [spearman for name, spearman in style.items() if name not in LENGTH_AND_CASE]
    model = next(name for name in report.roles.speakers if name != "people")
    return {
        **{f"style.{name}": spearman for name, spearman in style.items()},
        "style.others_obeyed": Estimate(
            value=sum(s.value >= OBEYED for s in others),
            low=sum(s.low >= OBEYED for s in others),
            high=sum(s.high >= OBEYED for s in others),
            n=report.control.conversations,
        ),
        "assistant_voice": report.roles.speakers[model].assistant_voice,
        "assistant_voice.people": report.roles.speakers["people"].assistant_voice,
        "memorised_runs": report.memory.drawn[30],
        "memorised_runs.over_people": _difference(report.memory.drawn[30], report.memory.people[30]),
    }


def _difference(first: Estimate, second: Estimate) -> Estimate:
    return Estimate(
        value=first.value - second.value,
        low=first.low - second.high,
        high=first.high - second.low,
        n=min(first.n, second.n),
    )
