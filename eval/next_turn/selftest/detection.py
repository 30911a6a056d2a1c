"""Self-test of the next-turn metrics: planted users must be detected by the metric meant for them, people by none.

The metrics are passed in (`Instruments`); this module does not depend on their implementation. The table of metrics
meant for each planted user was fixed beforehand: `eval.next_turn.selftest.planted_table`.
"""

from __future__ import annotations

import time
from collections import Counter

from eval.fidelity.report_record import versions
from eval.next_turn.selftest.instruments import Instruments, Progress, expected_only
from eval.next_turn.selftest.planted_material import PlantedTurns
from eval.next_turn.selftest.planted_table import TABLE, row
from eval.next_turn.selftest.planted_users import plant
from eval.next_turn.selftest.selftest_record import (
    SelfTestConfig,
    SelfTestReport,
    UserResult,
)
from eval.next_turn.selftest.selftest_run import SelfTestRun, unmeasured_result
from eval.next_turn.selftest.selftest_sample import SelfTestSample
from usersim.errors import DataError

COVERED = (0.92, 0.98)
QUICK = SelfTestConfig(
    n=60,
    users=(
        "gibberish_words",
        "gibberish_characters",
        "shuffled_words",
        "deaf",
        "replay",
        "goal_read_out",
        "thanks_added",
        "near_copies",
        "never_leaves",
    ),
    meant_only=True,
    splits=100,
    resamples=1_000,
)
"""Settings of --quick: 60 conversations, and the planted users that so few can show."""


def self_test(
    people_sample: SelfTestSample,
    instruments: Instruments,
    config: SelfTestConfig,
    progress: Progress | None = None,
) -> SelfTestReport:
    """Measures all planted users and people with all metrics."""
    start, step = time.monotonic(), progress or (lambda _: None)
    run = SelfTestRun(people_sample, expected_only(instruments, config), config)
    users = [user for user in TABLE if config.users is None or user.name in config.users]
    planted, results = dict[str, PlantedTurns](), dict[str, UserResult]()
    for user in users:
        try:
            planted[user.name] = plant(user.name, people_sample.prefixes, people_sample.material, config.seed)
        except DataError as error:
            results[user.name] = unmeasured_result(user, left_out=str(error))
    run.prepare([one for user in users if (one := planted.get(user.name)) and user.changes == "text"], step)
    for user in users:
        if user.name in planted:
            step(user.label)
            results[user.name] = run.user(user, planted[user.name])
    step("people against people")
    people = run.people()
    step("coverage of intervals")
    covered, uncovered = run.coverage(planted)
    rows = [results[user.name] for user in users]
    judged = {row.name: row for row in rows if row.is_caught is not None}
    by_form = {result.form: result.share for result in people}
    conversations = {p.conversation: p for p in people_sample.prefixes}
    return SelfTestReport(
        planted_caught={name: bool(row.is_caught) for name, row in judged.items()},
        planted_needed_n={name: row.needed_n for name, row in judged.items() if not row.is_caught},
        planted_left_out={row.name: row.left_out or "" for row in rows if row.is_caught is None},
        human_false_positives=by_form.get("halves"),
        human_false_positives_paired=by_form.get("pairs"),
        coverage=covered,
        coverage_outside=tuple(
            key for key, share in covered.items() if not COVERED[0] <= share <= COVERED[1]
        ),
        coverage_undefined=uncovered,
        conversations=len(conversations),
        clusters=len({p.cluster for p in people_sample.prefixes}),
        turns=len(run.texts),
        with_goal=sum(p.goal is not None for p in conversations.values()),
        with_known_end=sum(p.has_left for p in people_sample.prefixes),
        sources=dict(Counter(p.source for p in conversations.values())),
        excluded=dict(people_sample.excluded),
        people=tuple(people),
        users=tuple(rows),
        specs=tuple(run.instruments.specs),
        notes=(*people_sample.notes, *instruments.notes),
        config=config,
        versions=versions(),
        seconds=time.monotonic() - start,
    )


def one_simulator(
    people_sample: SelfTestSample, instruments: Instruments, config: SelfTestConfig
) -> tuple[UserResult, ...]:
    """Measures people and one simulator with all metrics, and times it; the cost of a report on a simulator.

    The deaf user stands in for the simulator's text, the user that never leaves for its P(end).
    """
    run, results = SelfTestRun(people_sample, instruments, config), []
    for name in ("deaf", "never_leaves"):
        planted = plant(name, people_sample.prefixes, people_sample.material, config.seed)
        if row(name).changes == "text":
            run.prepare([planted], lambda _: None)
        results.append(run.user(row(name), planted))
    return tuple(results)
