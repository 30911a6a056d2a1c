"""Markdown tables of several `usersim eval model` reports, for a model card.

python -m eval.likelihood.markdown "Chatbot Arena=docs/results/…/report.json" ShareGPT=…
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from eval.likelihood.figures import ModelReport
from usersim.cli import run_main
from usersim.errors import ConfigError
from usersim.stats.estimates import Estimate

Reports = Mapping[str, ModelReport]


def main(argv: list[str]) -> int:
    reports = {}
    for entry in argv:
        name, equals, path = entry.partition("=")
        if not equals or not Path(path).is_file():
            raise ConfigError(f"{entry}: write it as NAME=report.json, with a file that exists")
        reports[name] = ModelReport.model_validate_json(Path(path).read_text(encoding="utf-8"))
    sys.stdout.write("\n\n".join(tables(reports)) + "\n")
    return 0


def tables(reports: Reports) -> Iterator[str]:
    """Yields the tables that at least one report has numbers for."""
    for make in (perplexity, ratios, ends, goals, disclosure, control, roles, memory):
        if text := make(reports):
            yield text


def perplexity(reports: Reports) -> str:
    rows = []
    for source, report in reports.items():
        for model in report.models:
            for condition, likelihood in model.likelihood.items():
                three = (likelihood.nats_per_token.get(which) for which in ("all", "first", "later"))
                cells = [_show(e and _exp(e), 1) for e in three]
                bits = _show(likelihood.bits_per_character.get("all"))
                rows.append([source, model.name, condition.replace("_", " "), *cells, bits])
    heads = ("people", "model", "told", "all turns", "first turns", "later turns", "bits a character")
    return table("Perplexity of people's turns", heads, rows)


def ratios(reports: Reports) -> str:
    rows = [
        [source, c.first, c.second, *(_show(c.perplexity.get(w)) for w in ("all", "first", "later"))]
        for source, report in reports.items()
        for c in report.contrasts
    ]
    heads = ("people", "first", "second", "all turns", "first turns", "later turns")
    return table("Ratios of perplexity, paired", heads, rows)


def ends(reports: Reports) -> str:
    rows = []
    for source, report in reports.items():
        for model in report.models:
            for condition, report_of_ends in model.ends.items():
                at = report_of_ends and report_of_ends.at_dev_threshold
                if report_of_ends and at:
                    three = [_show(e) for e in (at.f1, at.precision, at.recall)]
                    trivial = [f"{report_of_ends.always_f1:.2f}", f"{report_of_ends.coin_f1:.2f}"]
                    auc = report_of_ends.calibration.auc
                    condition_name = condition.replace("_", " ")
                    error = _show(report_of_ends.calibration.expected_error)
                    auc_text = "–" if auc is None else f"{auc:.2f}"  # noqa: RUF001
                    rows.append([source, model.name, condition_name, *three, *trivial, error, auc_text])
    heads = (
        "people",
        "model",
        "told",
        "F1",
        "precision",
        "recall",
        "always",
        "coin",
        "calibration error",
        "AUC",
    )
    return table("Where people leave", heads, rows)


def goals(reports: Reports) -> str:
    rows = []
    for source, report in reports.items():
        if report.goals is not None:
            goal_report = report.goals
            for name in dict.fromkeys([*goal_report.wording, *goal_report.retrieval.likelihood]):
                words = goal_report.wording.get(name)
                rows.append(
                    [
                        source,
                        name,
                        _show(goal_report.retrieval.likelihood.get(name)),
                        _show(goal_report.retrieval.embedding.get(name)),
                        _show(words.first if words else None),
                        _show(words.later if words else None),
                    ]
                )
    heads = ("people", "who", "goal of 10 by likelihood", "by embedding", "goal's words, first", "later")
    return table("Following the goal", heads, rows)


def disclosure(reports: Reports) -> str:
    rows = [
        [source, name, *(_show(e) for e in curve.by_turn)]
        for source, report in reports.items()
        if report.goals is not None
        for name, curve in report.goals.disclosure.items()
    ]
    return table("Facets revealed by user turn", ("people", "who", *"12345"), rows)


def control(reports: Reports) -> str:
    rows = []
    for source, report in reports.items():
        for attribute in report.control.attributes if report.control else ():
            means = ["–" if m is None else f"{m:.2f}" for m in attribute.means]  # noqa: RUF001
            others = {
                k: e.value
                for k, e in attribute.moved.items()
                if k not in (attribute.attribute, "words_per_turn")
            }
            most = max(others, key=lambda k: abs(others[k])) if others else ""
            leak = f"{most} {others[most]:+.2f}" if most else "–"  # noqa: RUF001
            rows.append([source, attribute.attribute, _show(attribute.spearman), *means, leak])
    heads = ("people", "attribute", "Spearman", "at low", "at middle", "at high", "strongest leak")
    return table("Obeying the persona", heads, rows)


def roles(reports: Reports) -> str:
    rows = [
        [
            source,
            name,
            str(slips.turns),
            *(_percent(e) for e in (slips.assistant_phrases, slips.assistant_voice)),
            *(_percent(e) for e in (slips.repeats, slips.copies_answer)),
        ]
        for source, report in reports.items()
        if report.roles is not None
        for name, slips in report.roles.speakers.items()
    ]
    heads = (
        "people",
        "who",
        "turns",
        "assistant's phrases",
        "assistant's voice",
        "repeats",
        "copies the answer",
    )
    return table("Staying the person, without guards", heads, rows)


def memory(reports: Reports) -> str:
    rows = [
        [source, str(run), _percent(memory_report.drawn[run]), _percent(memory_report.people[run])]
        for source, report in reports.items()
        if (memory_report := report.memory) is not None
        for run in memory_report.drawn
    ]
    return table("Runs of the training set", ("people", "tokens", "drawn turns", "people's turns"), rows)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _exp(nats: Estimate) -> Estimate:
    return Estimate(value=math.exp(nats.value), low=math.exp(nats.low), high=math.exp(nats.high), n=nats.n)


def _show(estimate: Estimate | None, digits: int = 2) -> str:
    if estimate is None:
        return "–"  # noqa: RUF001
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


if __name__ == "__main__":
    sys.exit(run_main(main))
