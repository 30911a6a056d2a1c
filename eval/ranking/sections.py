"""The reports in words and tables: ranking and calibration, effort, planted assistants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from eval.fidelity.pages.drawing import Named, bars, course
from eval.ranking.assistants import LEVELS
from eval.ranking.calibration import CalibrationReport
from eval.ranking.comparison import RankReport
from eval.ranking.effort import PATIENCE, WORD_BUDGETS, Effort
from eval.ranking.pages import NOTHING, Section, banded, figures, key, shown
from eval.ranking.patience import Patience
from eval.ranking.planted import LEAST_SERVED, SCORES, PlantedUser
from usersim.stats.estimates import Estimate


def rank_sections(report: RankReport) -> list[Section]:
    ceiling = report.ceiling
    rows = [
        ["Kendall τ-b", shown(report.tau), "assistants and, under them, tasks and people resampled"],
        ["pairs ordered alike", shown(report.agreement), "of the pairs that people tell apart; chance .50"],
        [
            "… minus a user that does not listen",
            shown(report.over_null),
            "an interval above 0: listening adds to the ranking; without --null nothing is claimed",
        ],
        [
            "… among clear pairs",
            shown(report.resolved_agreement),
            "human difference has an interval without 0",
        ],
        [
            "decision regret",
            shown(report.regret),
            f"human score lost by choosing under simulation; at random {report.regret_of_chance:.2f}",
        ],
        ["people against people, τ-b", banded(ceiling.human if ceiling else None), _halves(report)],
        [
            "simulated against the same halves, τ-b",
            banded(ceiling.simulated if ceiling else None),
            "as many simulated scores as a half of the people gave",
        ],
        ["τ-b over people's own", _number(report.tau_over_ceiling), "the first over the fifth line"],
    ]
    standings = [
        [s.assistant, shown(s.human), str(s.human.n), shown(s.simulated), str(s.simulated.n)]
        for s in report.standings
    ]
    return [
        Section("Ranking", report.notes, ("figure", "value", "what it is"), rows),
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
        ["simulated - human success", shown(report.bias)],
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
        [s.label, str(s.tasks), f"{s.human:.2f}", f"{s.simulated:.2f}", shown(s.bias)] for s in report.strata
    ]
    says = (
        f"{report.tasks} tasks, {report.human_runs:.1f} human and {report.simulated_runs:.1f} simulated runs each.",
        *report.notes,
    )
    found = [Section("Calibration", says, ("figure", "value"), rows)]
    if strata:
        heads = ("success rate elsewhere", "tasks", "people", "simulated", "simulated - people")
        found.append(Section("Success by difficulty", ["Strata are fixed beforehand."], heads, strata))
    return found


def effort_sections(found: Mapping[str, Effort], patience: Mapping[str, Patience | None]) -> list[Section]:
    rows = [
        [
            name,
            str(one.conversations),
            *(shown(e, 1) for e in (one.messages, one.user_words)),
            *(shown(e) for e in (one.first, one.final, one.gain, one.relative_gain, *one.drop)),
        ]
        for name, one in found.items()
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
            _courses(found),
        )
    ]
    known = {name: one for name, one in patience.items() if one}
    if known:
        sections.append(_patience(known))
    return sections


def _courses(found: Mapping[str, Effort]) -> str:
    by_words = [(n, f"c{i % 6}", one.by_words) for i, (n, one) in enumerate(found.items())]
    budgets = [str(budget) for budget in WORD_BUDGETS]
    words = course("utility by user words", budgets, ("user words", "utility"), by_words)
    longest = max(len(one.by_message) for one in found.values())
    by_message: list[Named] = [
        (n, f"c{i % 6}", _padded(one.by_message, longest)) for i, (n, one) in enumerate(found.items())
    ]
    steps = [str(step) for step in range(1, longest + 1)]
    messages = course("utility by user messages", steps, ("user messages", "utility"), by_message)
    return key(list(found)) + figures([("By messages", messages), ("By user words", words)])


def _padded(values: Sequence[Estimate], length: int) -> list[Estimate | None]:
    return [*values, *[None] * (length - len(values))]


def _patience(found: Mapping[str, Patience]) -> Section:
    rows = [
        [
            name,
            str(one.conversations),
            NOTHING if one.patience is None else str(one.patience),
            f"{one.before:.2f}",
            _number(one.after),
            f"{one.gain:.1f}",
            f"{one.chosen['none' if one.patience is None else str(one.patience)]:.0%}",
            *(shown(hazard) for hazard in one.hazard[:4]),
        ]
        for name, one in found.items()
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
    says = [
        f"The same base model as assistants of known order: {order}. {left_out} Intervals resample goals, the same "
        "for a user and its null.",
        "A null user does not listen: it says again what the user said at this goal to one of the assistants. A better "
        "assistant serves more of any words, so only what is beyond the null is the user's. An interval of the "
        "difference with 0 in it: that the user's listening adds to the ranking is not shown.",
        "The user named reference says the whole goal at once and listens to nobody either: it shows what score and "
        "base model can tell apart.",
        *(f"{name}: {what}." for name, what in SCORES.items()),
        *notes,
    ]
    heads = ("user", "score", "goals", "pairs right", "null", "difference")
    rows = [
        [
            *(user.user, ranking.score, str(over.difference.n)),
            *(shown(over.agreement), shown(over.null), shown(over.difference)),
        ]
        for user in users
        for ranking in user.rankings
        if (over := ranking.over_null)
    ]
    sections = [
        Section("Pairs in the planted order, minus a user that does not listen", says, heads, rows),
        _each_ranking(users),
    ]
    for user in users:
        sections += _user_sections(user)
    patience = {user.user: user.patience for user in users}
    effort = {f"{u.user} with {a}": found for u in users for a, found in u.effort.items()}
    table, *rest = effort_sections(effort, patience)
    return [*sections, Section(table.title, table.says, table.heads, table.rows), *rest]


def _each_ranking(users: Sequence[PlantedUser]) -> Section:
    rows = []
    for user in users:
        for ranking in user.rankings:
            seen = Counter(pair.seen for pair in ranking.pairs)
            rows.append(
                [
                    *(user.user, ranking.score, str(ranking.agreement.n), shown(ranking.tau)),
                    *(f"{ranking.largest_tau:.2f}", shown(ranking.agreement)),
                    *(str(seen[kind]) for kind in ("as planted", "unclear", "reversed")),
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
    rows = [[name, *(shown(ranking.means.get(name)) for ranking in user.rankings)] for name in names]
    pictures = [
        (ranking.score, bars(ranking.score, names, [(user.user, "c0", list(ranking.means.values()))]))
        for ranking in user.rankings
    ]
    wrong = [
        f"{ranking.score}: {p.better} over {p.worse} {shown(p.gap)} {p.seen}"
        for ranking in user.rankings
        for p in ranking.pairs
        if p.seen == "reversed"
    ]
    says = [f"Reversed: {'; '.join(wrong)}." if wrong else "No pair is reversed."]
    says += [f"Left out, {why}: {count} scores." for why, count in user.left_out.items()]
    heads = ("assistant", *(ranking.score for ranking in user.rankings))
    return [Section(f"Scores under {user.user}", says, heads, rows, figures(pictures))]
