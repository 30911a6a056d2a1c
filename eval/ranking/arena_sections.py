"""Report sections of the SimulatorArena study."""

from __future__ import annotations

from eval.ranking.pages import NOTHING, Section, estimate_text, floor_text
from eval.ranking.reliability import Components, expected_tau
from eval.ranking.simulatorarena import ArenaGroup, ArenaReport


def arena_sections(report: ArenaReport) -> list[Section]:
    intervals = "; ".join(
        f"{tau}: [{low:.2f}, {high:.2f}]" for tau, (low, high) in report.tau_intervals.items()
    )
    paragraphs = [
        "One rating a session by the person who had it, 1 to 10. People are resampled, and split in halves; both: "
        "ratings less the mean of their half of the study.",
        f"With {report.assistants} assistants and any number of sessions, the 95 % interval of an observed τ is "
        f"{intervals}. The smallest τ significant at 5 % is {report.least_significant_tau or 1:.2f}.",
    ]
    columns = (
        "sessions of",
        "sessions",
        "people",
        "assistants",
        "pairs apart (Holm)",
        "τ-b, half against half",
    )
    more_columns = (
        "regret of the other half's choice",
        "between SD",
        "within SD",
        "ICC",
        "F test p",
        "reliability",
    )
    return [
        Section(
            "What the sessions show",
            paragraphs,
            (*columns, *more_columns),
            [_row(group) for group in report.groups],
        ),
        _power(report),
        *(_standings(group) for group in report.groups),
        Section(
            "Scores by rule against ratings",
            [
                "Rank correlation over sessions, people resampled. Coverage: of the answers to planning questions."
            ],
            ("sessions of", "score", "n", "Spearman"),
            [[c.group, c.score, str(c.rho.n), estimate_text(c.rho)] for c in report.checks],
        ),
    ]


def _row(group: ArenaGroup) -> list[str]:
    ceiling = group.ceiling
    return [
        *(group.name, str(group.sessions), str(group.people), str(len(group.assistants))),
        f"{group.apart} of {group.pairs}",
        floor_text(ceiling.human if ceiling else None),
        floor_text(ceiling.human_regret if ceiling else None),
        *_spread(group.components),
    ]


def _spread(components: Components | None) -> list[str]:
    if components is None:
        return [NOTHING] * 5
    return [
        *(f"{components.between_sd:.2f}", f"{components.within_sd:.2f}"),
        f"{components.icc:.2f} [{components.icc_low:.2f}, {components.icc_high:.2f}]",
        *(f"{components.p:.2f}", f"{components.reliability:.2f}"),
    ]


def _power(report: ArenaReport) -> Section:
    rows = [
        [group.name, str(p.scores_per_assistant), f"{p.median:.2f} [{p.low:.2f}, {p.high:.2f}]"]
        for group in report.groups
        for p in group.power
    ]
    expected = "; ".join(
        f"{group.name} {expected_tau(group.components.reliability):.2f}"
        for group in report.groups
        if group.components
    )
    needed = "; ".join(
        f"{group.name} {', '.join('no number' if n is None else f'{n:.0f}' for n in group.needed)}"
        for group in report.groups
    )
    return Section(
        "What more sessions would give",
        [
            "τ-b between two studies of people, were the assistants exactly as different as estimated above (where the "
            f"estimate is 0 there is no line). At the present size, expected: {expected}.",
            f"Sessions per assistant for an expected τ-b of .8 (ICC's low end, value, high end): {needed}.",
        ],
        ("sessions of", "sessions per assistant", "τ-b, people against people"),
        rows,
    )


def _standings(group: ArenaGroup) -> Section:
    rows = [[name, str(rating.n), estimate_text(rating)] for name, rating in group.assistants.items()]
    return Section(f"Mean ratings: {group.name}", [], ("assistant", "sessions", "rating"), rows)
