"""Model card of an adapted User LM in Markdown. Unknown facts are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import usersim
from usersim.adapt.config import AdaptConfig
from usersim.adapt.facts import Feasibility
from usersim.training.config import TrainConfig

READINGS = {
    "like people": "Like people",
    "more": "More than people",
    "less": "Less than people",
    "not told": "Could not be told",
}


def model_card(
    config: AdaptConfig,
    facts: Mapping[str, Any],
    certificate: Any,
    legs: Sequence[TrainConfig],
    judged: Feasibility,
) -> str:
    """Returns the model card.

    Args:
        config: Config of the run. Its title names the model.
        facts: Results of stages: `datasheet`, `calibration`, `decoding`, `training N`. None for a missing one.
        certificate: Next-turn report, or None.
        legs: Training configs of the legs. The last one describes the method.
        judged: Feasibility of the stages.
    """
    parts = [
        f"# {config.title}",
        "A User LM: it writes the person's turns of a chat with an assistant, given a hidden goal and a persona (each "
        "may be missing), and says how likely the person leaves.",
        _table(
            {
                "Base": legs[-1].base,
                "Trained on from": legs[0].start or "nothing",
                "Method": f"LoRA, rank {legs[-1].lora.rank}"
                if legs[-1].method == "lora"
                else "full fine-tune",
                "Made by": f"`usersim adapt`, usersim {usersim.__version__}",
            }
        ),
        _data(facts.get("datasheet")),
        _training(facts, legs),
        _calibration(facts.get("calibration")),
        _decoding(facts.get("decoding")),
        _population(facts.get("population")),
        _certificate(config.title, certificate),
        _limits(judged),
        '## Use\n\n```\nusersim serve --model FOLDER\nusersim sample --model FOLDER --goal "…"\n```',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(sheet: Any) -> str:
    if not sheet:
        return ""
    rows = [
        [
            name,
            f"{split['conversations']:,}",
            f"{split['user_turns']:,}",
            f"{split['with_goal']:,}",
            f"{split['ended_by'].get('user', 0):,}",
            ", ".join(f"{source} {count:,}" for source, count in split["sources"].items()),
        ]
        for name, split in sheet["splits"].items()
    ]
    header = ["split", "chats", "user turns", "with a goal", "known ends", "sources"]
    return "## Data\n\n" + _rows(header, rows)


def _training(facts: Mapping[str, Any], legs: Sequence[TrainConfig]) -> str:
    rows = []
    for number, leg in enumerate(legs, start=1):
        summary = facts.get(f"training {number}")
        if summary:
            share = summary.get("windows_seen", 0) / max(1, summary.get("pass_windows") or 1)
            rows.append(
                [
                    str(number),
                    f"{summary.get('steps', 0):,}",
                    f"{summary.get('tokens', 0):,}",
                    f"{summary.get('supervised_tokens', 0):,}",
                    f"{share:.0%}",
                    f"{leg.lr:g}, {leg.schedule}",
                    _number(summary.get("eval_loss")),
                ]
            )
    if not rows:
        return ""
    header = [
        "leg",
        "steps",
        "tokens",
        "supervised tokens",
        "of a pass",
        "learning rate",
        "dev loss, nats a token",
    ]
    return "## Training\n\n" + _rows(header, rows)


def _calibration(report: Any) -> str:
    if not report:
        return ""
    return (
        "## When it leaves\n\n"
        f"P(end) was fitted at {report['decisions']:,} places of {report['conversations']:,} dev chats, at "
        f"{report['left']:.0%} of which people left. Brier score: {report['brier']:.4f} as trained, "
        f"{report['brier_calibrated']:.4f} calibrated (fitted on the other half), "
        f"{report['brier_of_a_constant']:.4f} for a constant."
    )


def _decoding(choice: Any) -> str:
    if not choice:
        return ""
    rows = [
        [
            f"{row['temperature']:g}",
            f"{row['top_p']:g}",
            f"{row['told_apart']['value']:.3f} [{row['told_apart']['low']:.3f}, {row['told_apart']['high']:.3f}]",
            f"{row['words']:.1f}",
        ]
        for row in choice["table"]
    ]
    return (
        "## Sampling parameters\n\n"
        f"temperature {choice['temperature']:g}, top_p {choice['top_p']:g}, at most {choice['max_tokens']} tokens: of "
        f"those tried, what discriminator family A tells least from people, at {choice['prefixes']} prefixes of "
        f"{choice['conversations']} dev chats (0.5: not told apart).\n\n"
        + _rows(["temperature", "top_p", "told apart [95 %]", "words a turn"], rows)
    )


def _population(comparison: Any) -> str:
    if not comparison:
        return ""
    distances = comparison["distances"]
    return (
        "## Population\n\n"
        f"`population.json` draws users like those of the logs. {comparison['users']:,} drawn users beside "
        f"{comparison['people']:,} held-out people: mean Kolmogorov-Smirnov distance of the style attributes "
        f"{comparison['mean_ks']:.3f}, {comparison['mean_ks_by_chance']:.3f} by chance. The nearest person of "
        f"the fit is at least {distances['least_users']:.3f} away from every drawn user."
    )


def _certificate(title: str, report: Any) -> str:
    if not report:
        return ""
    lines = [
        f"## Beside people\n\nNext turns at {report['prefixes']:,} prefixes of {report['conversations']:,} held-out "
        "chats; every number with its interval: [certificate.html](certificate.html), `certificate.json`."
    ]
    if report.get("family_b_use") is not None:
        lines.append(f"Use {report['family_b_use']} of discriminator family B.")
    for simulator in report["simulators"]:
        claims = simulator["claims"]
        own = [f"### {simulator['name']}{'' if simulator['name'] == title else ' (baseline)'}"]
        for reading, text in READINGS.items():
            labels = [claim["label"] for claim in claims if claim["reading"] == reading]
            if labels:
                own.append(f"- {text}: {'; '.join(labels)}.")
        lines.append("\n".join([own[0], "", *own[1:]]))
    return "\n\n".join(lines)


def _limits(judged: Feasibility) -> str:
    notes = [*judged.warnings, *(f"{stage}: {reason}." for stage, reason in judged.left_out.items())]
    return "## Limits\n\n" + "\n".join(f"- {note}" for note in notes) if notes else ""


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else ""
