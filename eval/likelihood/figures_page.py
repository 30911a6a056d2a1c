"""Writer of report.html and report.json of `usersim eval model`: self-contained, no script, no text of chats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from eval.fidelity.metrics.endings.ending import EndReport
from eval.likelihood import pictures
from eval.likelihood.figures import ModelReport, ModelScores
from usersim.report import html as page
from usersim.stats.estimates import Estimate
from usersim.storage.records import atomic_writer, write_json

TITLE = "What the User LM knows about people"


def write_report(report: ModelReport, out: Path) -> Path:
    """Writes both files atomically into `out`; returns the path of the page."""
    write_json(out / "report.json", report.model_dump(mode="json"))
    html = page.render_page(TITLE, sections(report), style=pictures.STYLE)
    with atomic_writer(out / "report.html") as stream:
        stream.write(html)
    return out / "report.html"


def sections(report: ModelReport) -> list[str]:
    parts = [_head(report), _likelihood(report), _contrasts(report), _ends(report)]
    parts += [_goals(report), _control(report), _roles(report), _memory(report)]
    return [part for part in parts if part]


def summary(report: ModelReport) -> str:
    """Summary lines for the terminal."""
    lines = []
    for contrast in report.contrasts:
        ratio = contrast.perplexity.get("all")
        if ratio:
            lines.append(f"perplexity {contrast.first} : {contrast.second} = {plain(ratio)}")
    for model in report.models:
        for condition, ends in model.ends.items():
            if ends and ends.at_dev_threshold:
                at = ends.at_dev_threshold
                lines.append(
                    f"end F1 {model.name} / {condition} {plain(at.f1)} (always {ends.always_f1:.2f}, "
                    f"coin {ends.coin_f1:.2f})"
                )
    if report.control:
        correlations = (f"{a.attribute} {a.spearman.value:.2f}" for a in report.control.attributes)
        lines.append("persona control, Spearman: " + ", ".join(correlations))
    return "\n".join(lines)


def plain(estimate: Estimate, digits: int = 2) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def cell(estimate: Estimate | None, digits: int = 2) -> str:
    if estimate is None:
        return "–"  # noqa: RUF001
    return (
        f"{estimate.value:.{digits}f} <small>{estimate.low:.{digits}f} to {estimate.high:.{digits}f}</small>"
    )


def _head(report: ModelReport) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    return (
        f"<h1>{TITLE}</h1><p class='lead'>{report.conversations} held-out conversations, {report.user_turns} "
        f"turns of people. Intervals are 95 %, bootstrap over conversations.</p>{notes}"
    )


def _likelihood(report: ModelReport) -> str:
    rows = [
        [escape(model.name), condition.replace("_", " "), *_perplexities(model, condition)]
        for model in report.models
        for condition in model.likelihood
    ]
    prompts = "".join(_prompt(model) for model in report.models if model.prompts_on_dev)
    heads = ("model", "told", "all turns", "first turns", "later turns", "bits a character")
    return (
        "<h2>1 · Perplexity of people's turns</h2><p>Per token, lower is better: the person's words and the end of "
        "the turn, without the end of the conversation. Only the head of a long message is scored, as in training.</p>"
        + page.table(heads, rows)
        + prompts
    )


def _perplexities(model: ModelScores, condition: str) -> Iterator[str]:
    likelihood = model.likelihood[condition]  # type: ignore[index]
    for which in ("all", "first", "later"):
        nats = likelihood.nats_per_token.get(which)
        yield cell(_exp(nats), 1) if nats else "–"  # noqa: RUF001
    yield cell(likelihood.bits_per_character.get("all"))


def _exp(nats: Estimate) -> Estimate:
    value, low, high = (math.exp(x) for x in (nats.value, nats.low, nats.high))
    return Estimate(value=value, low=low, high=high, n=nats.n)


def _prompt(model: ModelScores) -> str:
    tried = ", ".join(f"{name} {nats:.3f}" for name, nats in model.prompts_on_dev.items())
    return f"<p>{escape(model.name)}: prompt “{model.prompt}”, the best on dev (nats per token: {tried}).</p>"


def _contrasts(report: ModelReport) -> str:
    rows = [
        [escape(c.first), escape(c.second), *(cell(c.perplexity.get(w)) for w in ("all", "first", "later"))]
        for c in report.contrasts
    ]
    if not rows:
        return ""
    heads = ("first", "second", "all turns", "first turns", "later turns")
    return (
        "<h3>Ratios of perplexity</h3><p>On the same turns, paired; 0.75: the first is a quarter lower.</p>"
        + page.table(heads, rows)
    )


def _ends(report: ModelReport) -> str:
    reports = [
        (model.name, condition, ends)
        for model in report.models
        for condition, ends in model.ends.items()
        if ends and (ends.at_dev_threshold or condition in ("no_goal", "own_goal"))
    ]
    if not reports:
        return ""
    rows = [row for name, condition, ends in reports for row in _end_rows(name, condition, ends)]
    heads = ("model", "told", "P(end) from", "F1", "precision", "recall", "Brier", "calibration error", "AUC")
    first = reports[0][2]
    openings = first.with_openings
    curves = "".join(
        pictures.reliability(f"{name}, {condition.replace('_', ' ')}", ends.calibration.bins)
        for name, condition, ends in reports
        if "prompted" not in name
    )
    return (
        f"<h2>2 · Where people leave</h2><p>{first.positions} places after an answer, people left at "
        f"{100 * first.base_rate:.0f} %. F1 of always-end {first.always_f1:.2f}, of never-end 0, of a coin at the "
        f"base rate {first.coin_f1:.2f}; with openings as places {openings.always_f1:.2f} and "
        f"{openings.coin_f1:.2f}. Brier of the base rate {first.calibration.brier_of_base_rate:.3f}.</p>"
        + page.table(heads, rows)
        + f'<div class="figures">{curves}</div>'
    )


def _end_rows(name: str, condition: str, ends: EndReport) -> Iterator[list[str]]:
    calibration = ends.calibration
    for at in (ends.at_half, ends.at_dev_threshold):
        if at is not None:
            figures = [cell(at.f1), cell(at.precision), cell(at.recall), cell(calibration.brier, 3)]
            auc = "–" if calibration.auc is None else f"{calibration.auc:.2f}"  # noqa: RUF001
            source = f"{at.threshold:.2f}, {at.threshold_from}"
            condition_name = condition.replace("_", " ")
            yield [escape(name), condition_name, source, *figures, cell(calibration.expected_error), auc]


def _goals(report: ModelReport) -> str:
    goals = report.goals
    if goals is None:
        return ""
    names = list(dict.fromkeys([*goals.retrieval.likelihood, *goals.retrieval.embedding]))
    rows = [
        [
            escape(name),
            cell(goals.retrieval.likelihood.get(name)),
            cell(goals.retrieval.embedding.get(name)),
            cell(goals.wording[name].first) if name in goals.wording else "–",  # noqa: RUF001
            cell(goals.wording[name].later) if name in goals.wording else "–",  # noqa: RUF001
        ]
        for name in names
    ]
    heads = (
        "who",
        "real opening, by likelihood",
        "own opening, by embedding",
        "wording, first",
        "wording, later",
    )
    text = (
        "<h2>3 · Following the goal</h2><p>Accuracy of finding the goal of an opening among 10, and the share of "
        "the turns' content words that occur in the goal.</p>" + page.table(heads, rows)
    )
    if goals.disclosure:
        text += pictures.curves({n: [e.value for e in d.by_turn] for n, d in goals.disclosure.items()})
        text += _disclosure_table(report)
    return text


def _disclosure_table(report: ModelReport) -> str:
    assert report.goals is not None
    goals = report.goals
    rows = [[escape(n), *(cell(e) for e in d.by_turn)] for n, d in goals.disclosure.items()]
    turns = len(next(iter(goals.disclosure.values())).by_turn)
    return (
        "<p>Share of the goal's facets revealed by user turn k: some sentence has a cosine of at least "
        f"{goals.disclosure_threshold:.2f} with it (chosen on dev; F1 {goals.disclosure_agreement:.2f} against the "
        "annotators there).</p>" + page.table(("who", *(f"turn {k}" for k in range(1, turns + 1))), rows)
    )


def _control(report: ModelReport) -> str:
    control = report.control
    if control is None:
        return ""
    rows = [
        [attribute.attribute.replace("_", " "), cell(attribute.spearman), *map(_number, attribute.means)]
        for attribute in control.attributes
    ]
    matrix = {a.attribute: {n: e.value for n, e in a.moved.items()} for a in control.attributes}
    return (
        f"<h2>4 · Obeying the persona</h2><p>Each attribute is requested alone, at low, middle and high, for "
        f"{control.conversations} conversations; Spearman correlation of requested level and measured value.</p>"
        + page.table(("attribute", "Spearman", "at low", "at middle", "at high"), rows)
        + "<h3>Leakage</h3><p>Rows are requested, columns measured. The diagonal is control, the rest leakage.</p>"
        + pictures.heatmap(matrix)
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"  # noqa: RUF001


def _roles(report: ModelReport) -> str:
    if report.roles is None:
        return ""
    rows = [
        [
            escape(name),
            str(slips.turns),
            *(_percent(e) for e in (slips.assistant_phrases, slips.assistant_voice)),
            *(_percent(e) for e in (slips.repeats, slips.copies_answer)),
        ]
        for name, slips in report.roles.speakers.items()
    ]
    heads = (
        "who",
        "turns",
        "assistant's phrases",
        "assistant's voice",
        "repeats a turn",
        "copies the answer",
    )
    return (
        "<h2>5 · Staying the person</h2><p>Shares of turns, without guards. Voice: a classifier with a false alarm "
        "rate of 1 % on human turns and a recall of "
        f"{100 * report.roles.voice_sensitivity:.0f} % on assistant turns cut to the same lengths.</p>"
        + page.table(heads, rows)
    )


def _memory(report: ModelReport) -> str:
    memory = report.memory
    if memory is None:
        return ""
    rows = [
        [f"{run} tokens", _percent(memory.drawn[run]), _percent(memory.people[run])] for run in memory.drawn
    ]
    return (
        "<h2>Memorisation</h2><p>Share of drawn turns with a run of tokens from the training set "
        f"({memory.training_conversations:,} conversations), beside held-out human turns. Turns of at least 30 "
        f"tokens: {memory.long_enough['drawn']} drawn, {memory.long_enough['people']} of people.</p>"
        + page.table(("run", "drawn", "people"), rows)
    )


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} % <small>{low:.1f} to {high:.1f}</small>"
