"""Report sections: ranking and calibration, effort, planted assistants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from eval.fidelity.pages.drawing import NamedSeries, bars, course
from eval.ranking.assistants import LEVELS
from eval.ranking.calibration import CalibrationReport
from eval.ranking.comparison import RankReport
from eval.ranking.effort import PATIENCE, WORD_BUDGETS, Effort
from eval.ranking.pages import NOTHING, Section, estimate_text, floor_text, key, picture_cards
from eval.ranking.patience import Patience
from eval.ranking.planted import LEAST_SERVED, SCORES, PlantedUser
from usersim.stats.estimates import Estimate


def rank_sections(report: RankReport) -> list[Section]:
    ceiling = report.ceiling
    rows = [
        ["Kendall τ-b", estimate_text(report.tau), "assistants and, under them, tasks and people resampled"],
        [
            "pairs ordered alike",
            estimate_text(report.agreement),
            "of the pairs that people tell apart; chance .50",
        ],
        [
            "… minus a null user, which ignores answers",
            estimate_text(report.over_null),
            "an interval above 0: listening adds to the ranking; without --null nothing is claimed",
        ],
        [
            "… among clear pairs",
            estimate_text(report.resolved_agreement),
            "human difference has an interval without 0",
        ],
        [
            "decision regret",
            estimate_text(report.regret),
            f"human score lost by choosing under simulation; at random {report.regret_of_chance:.2f}",
        ],
        ["people against people, τ-b", floor_text(ceiling.human if ceiling else None), _halves(report)],
        [
            "simulated against the same halves, τ-b",
            floor_text(ceiling.simulated if ceiling else None),
            "as many simulated scores as a half of the people gave",
        ],
        ["τ-b over people's own", _number(report.tau_over_ceiling), "the first over the fifth line"],
    ]
    standings = [
        [s.assistant, estimate_text(s.human), str(s.human.n), estimate_text(s.simulated), str(s.simulated.n)]
        for s in report.standings
    ]
    return [
        Section("Ranking", report.notes, ("metric", "value", "meaning"), rows),
        Section(
            "Assistants",
            ["Mean scores, best for people first; 95 % intervals."],
            ("assistant", "people", "n", "simulated", "n"),
            standings,
        ),
    ]


def _halves(report: RankReport) -> str:
    if report.ceiling is None:
        return "needs four people"
    return f"{report.ceiling.human.repeats} splits of {report.ceiling.people} people"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def calibration_sections(report: CalibrationReport) -> list[Section]:
    ece = report.ece
    rows = [
        ["simulated - human success", estimate_text(report.bias)],
        ["Brier score (base rate alone)", f"{report.brier:.3f} ({report.brier_of_base_rate:.3f})"],
    ]
    if ece:
        null = f"{ece.null_median:.3f} [{ece.null_low:.3f}, {ece.null_high:.3f}]"
        rows += [
            ["ECE, five strata of difficulty", f"{ece.value:.3f}"],
            ["ECE of a perfect simulator", null],
            ["ECE beyond it", f"{ece.excess:+.3f} (p {ece.p:.3f})"],
        ]
    strata = [
        [s.label, str(s.tasks), f"{s.human:.2f}", f"{s.simulated:.2f}", estimate_text(s.bias)]
        for s in report.strata
    ]
    paragraphs = (
        f"{report.tasks} tasks, {report.human_runs:.1f} human and {report.simulated_runs:.1f} simulated runs each.",
        *report.notes,
    )
    sections = [Section("Calibration", paragraphs, ("metric", "value"), rows)]
    if strata:
        heads = ("success rate elsewhere", "tasks", "people", "simulated", "simulated - people")
        sections.append(Section("Success by difficulty", ["Strata are fixed beforehand."], heads, strata))
    return sections


def effort_sections(efforts: Mapping[str, Effort], patience: Mapping[str, Patience | None]) -> list[Section]:
    rows = [
        [
            name,
            str(effort.conversations),
            *(estimate_text(e, 1) for e in (effort.messages, effort.user_words)),
            *(
                estimate_text(e)
                for e in (effort.first, effort.final, effort.gain, effort.relative_gain, *effort.drop)
            ),
        ]
        for name, effort in efforts.items()
    ]
    drops = [f"drop at patience {n}" for n in PATIENCE]
    heads = ("who", "n", "messages", "user words", "first", "final", "gain", "relative gain", *drops)
    sections = [
        Section(
            "Effort and utility",
            [
                "Utility is the share of the goal's facets served so far, unless given by a judge. Drop: change of "
                "utility for a user who gives up before that many useless replies in a row."
            ],
            heads,
            rows,
            _courses(efforts),
        )
    ]
    fitted = {name: effort for name, effort in patience.items() if effort}
    if fitted:
        sections.append(_patience(fitted))
    return sections


def _courses(efforts: Mapping[str, Effort]) -> str:
    by_words = [(n, f"c{i % 6}", effort.by_words) for i, (n, effort) in enumerate(efforts.items())]
    budgets = [str(budget) for budget in WORD_BUDGETS]
    words = course("utility by user words", budgets, ("user words", "utility"), by_words)
    longest = max(len(effort.by_message) for effort in efforts.values())
    by_message: list[NamedSeries] = [
        (n, f"c{i % 6}", _padded(effort.by_message, longest)) for i, (n, effort) in enumerate(efforts.items())
    ]
    steps = [str(step) for step in range(1, longest + 1)]
    messages = course("utility by user messages", steps, ("user messages", "utility"), by_message)
    return key(list(efforts)) + picture_cards([("By messages", messages), ("By user words", words)])


def _padded(values: Sequence[Estimate], length: int) -> list[Estimate | None]:
    return [*values, *[None] * (length - len(values))]


def _patience(fits: Mapping[str, Patience]) -> Section:
    rows = [
        [
            name,
            str(fit.conversations),
            NOTHING if fit.patience is None else str(fit.patience),
            f"{fit.before:.2f}",
            _number(fit.after),
            f"{fit.gain:.1f}",
            f"{fit.chosen['none' if fit.patience is None else str(fit.patience)]:.0%}",
            *(estimate_text(hazard) for hazard in fit.hazard[:4]),
        ]
        for name, fit in fits.items()
    ]
    heads = ("who", "n", "patience", "leaves before", "leaves then", "nats", "of resamples")
    return Section(
        "Patience",
        [
            "Chance of leaving at a reply, before and from so many useless replies in a row; nats: what the change "
            f"point explains beyond one constant chance (below 2 is noise). {NOTHING}: no such change. Replies "
            "get worse and people leave as a conversation goes on, so a user that does not listen shows a patience "
            "too: only what goes beyond a null user's is patience."
        ],
        (*heads, *(f"leaves after {run} useless" for run in range(4))),
        rows,
    )


def planted_sections(users: Sequence[PlantedUser], notes: Sequence[str]) -> list[Section]:
    order = ", ".join(f"{name} {level}" for name, level in LEVELS.items())
    nothing = users[0].serve_nothing
    shares = ", ".join(f"{name} ({share:.2f})" for name, share in nothing.items())
    left_out = (
        f"{len(nothing)} of {len(users[0].rankings[0].means)} assistants serve nothing (mean "
        f"coverage below {LEAST_SERVED:g}) and are left out of every ranking: {shares}."
        if nothing
        else "Every assistant serves something, and all are ranked."
    )
    paragraphs = [
        f"The same base model as assistants of known order: {order}. {left_out} Intervals resample goals, the same "
        "for a user and its null.",
        "A null user does not listen: it says again what the user said at this goal to one of the assistants. A better "
        "assistant serves more of any words, so only what is beyond the null is the user's. An interval of the "
        "difference with 0 in it: that the user's listening adds to the ranking is not shown.",
        "The user named reference says the whole goal at once and also ignores answers: it shows what score and "
        "base model can distinguish.",
        *(f"{name}: {what}." for name, what in SCORES.items()),
        *notes,
    ]
    heads = ("user", "score", "goals", "pairs right", "null", "difference")
    rows = [
        [
            *(user.user, ranking.score, str(over_null.difference.n)),
            *(
                estimate_text(over_null.agreement),
                estimate_text(over_null.null),
                estimate_text(over_null.difference),
            ),
        ]
        for user in users
        for ranking in user.rankings
        if (over_null := ranking.over_null)
    ]
    sections = [
        Section("Pairs in the planted order, minus a user that does not listen", paragraphs, heads, rows),
        _each_ranking(users),
    ]
    for user in users:
        sections += _user_sections(user)
    patience = {user.user: user.patience for user in users}
    effort = {
        f"{u.user} with {a}": assistant_effort for u in users for a, assistant_effort in u.effort.items()
    }
    table, *rest = effort_sections(effort, patience)
    return [*sections, Section(table.title, table.says, table.heads, table.rows), *rest]


def _each_ranking(users: Sequence[PlantedUser]) -> Section:
    rows = []
    for user in users:
        for ranking in user.rankings:
            counts = Counter(pair.seen for pair in ranking.pairs)
            rows.append(
                [
                    *(user.user, ranking.score, str(ranking.agreement.n), estimate_text(ranking.tau)),
                    *(f"{ranking.largest_tau:.2f}", estimate_text(ranking.agreement)),
                    *(str(counts[kind]) for kind in ("as planted", "unclear", "reversed")),
                ]
            )
    heads = ("user", "score", "goals", "τ-b with the truth", "most", "pairs right", "as planted", "unclear")
    return Section(
        "Each user by itself",
        ["Not minus a null user: no evidence of listening."],
        (*heads, "reversed"),
        rows,
    )


def _user_sections(user: PlantedUser) -> list[Section]:
    names = list(user.rankings[0].means)
    rows = [[name, *(estimate_text(ranking.means.get(name)) for ranking in user.rankings)] for name in names]
    pictures = [
        (ranking.score, bars(ranking.score, names, [(user.user, "c0", list(ranking.means.values()))]))
        for ranking in user.rankings
    ]
    reversed_pairs = [
        f"{ranking.score}: {p.better} over {p.worse} {estimate_text(p.gap)} {p.seen}"
        for ranking in user.rankings
        for p in ranking.pairs
        if p.seen == "reversed"
    ]
    paragraphs = [f"Reversed: {'; '.join(reversed_pairs)}." if reversed_pairs else "No pair is reversed."]
    paragraphs += [f"Left out, {why}: {count} scores." for why, count in user.left_out.items()]
    heads = ("assistant", *(ranking.score for ranking in user.rankings))
    return [Section(f"Scores under {user.user}", paragraphs, heads, rows, picture_cards(pictures))]
