import math

import numpy as np
import pytest

from eval.next_turn.metrics.goal_conditions import counting_gain, under_condition
from eval.next_turn.metrics.leaving import BOUND, LeavingMetrics, known_ends, leaving_tests, p_above, p_below
from eval.next_turn.metrics.values import ClusterSums, estimate
from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from tests.eval.next_turn.metrics.content_control import content_control
from usersim.stats.estimates import rng_for
from usersim.types import Goal, Turn


def prefix(name, position, *, left=False, source="s", facets=None, answer="an answer"):
    history = (Turn(role="user", text="q"), Turn(role="assistant", text=answer)) * (position - 1)
    goal = None if facets is None else Goal("buy a bike", facets=[f"facet {i}" for i in range(facets)])
    text = None if left else "more"
    return Prefix(
        id=f"{name}@{position}",
        conversation=name,
        cluster=name,
        source=source,
        position=position,
        history=history,
        goal=goal,
        text=text,
    )


def simulated(prefixes, probability, *, tells=True, seed=0):
    turns = {}
    for p in prefixes:
        ends = bool(rng_for(seed, f"simulated {p.id}").random() < probability(p))
        turns[p.id] = NextTurn(
            prefix=p.id, text="x", ends=ends, end_probability=probability(p) if tells else None
        )
    return SimulatedTurns("simulated", turns)


def people(count=200, seed=0):
    """Each leaves with probability 0.3 after the first answer, 0.5 later; the goal has a facet for every turn."""
    found = []
    for i in range(count):
        rng, position = rng_for(seed, f"person {i}"), 2
        while rng.random() > (0.3 if position == 2 else 0.5) and position < 8:
            position += 1
        facets = position - 1
        answers = ["word " * int(rng.integers(1, 1000)) for _ in range(position + 1)]
        found += [
            prefix(f"c{i}", n, left=n == position, facets=facets, answer=answers[n])
            for n in range(1, position + 1)
        ]
    return found


def value(metrics, simulator, key):
    return estimate(metrics.sums(metrics.values(simulator)[key]))


def test_sources_without_known_ends_are_undefined_with_a_reason():
    prefixes = [prefix(f"a{i}", 2, left=True) for i in range(5)] + [prefix("b", 2, source="cut")]
    kept, reasons = known_ends([*prefixes, prefix("a0", 1)])
    assert [p.source for p in kept] == ["s"] * 5
    assert reasons == {"cut": "undefined: 0 known ends, 5 are the least"}
    assert LeavingMetrics([prefix("b", 2)]).values(SimulatedTurns("x", {})) == {}


def test_rate_of_people_and_simulator():
    prefixes = [prefix(f"a{i}", 2, left=i < 5) for i in range(20)]
    metrics = LeavingMetrics(prefixes)
    assert metrics.sums(metrics.people()["leaving.rate"]).ratio == 0.25
    assert value(metrics, simulated(prefixes, lambda p: 0.4), "leaving.rate").value == pytest.approx(0.4)


def test_skill_of_one_who_knows_and_one_who_never_leaves():
    prefixes = [prefix(f"a{i}", 2, left=i < 10) for i in range(20)]
    metrics = LeavingMetrics(prefixes)
    knows = simulated(prefixes, lambda p: float(p.has_left))
    assert value(metrics, knows, "leaving.skill.constant").value == 1.0
    base = metrics.baselines["constant"]
    loss = -np.log(np.where(metrics.left_P > 0, base, 1 - base)).sum()
    expected = 1 - 20 * -math.log(0.999) / loss
    assert value(metrics, knows, "leaving.logloss.constant").value == pytest.approx(expected)
    never = value(metrics, simulated(prefixes, lambda p: 0.0), "leaving.skill.constant").value
    assert never == pytest.approx(1 - 10 / ((base - metrics.left_P) ** 2).sum())


def test_a_constant_is_the_share_in_the_other_folds():
    prefixes = [prefix(f"a{i}", 2, left=i < 10) for i in range(20)]
    base, left = LeavingMetrics(prefixes).baselines["constant"], np.array([p.has_left for p in prefixes])
    # Ten folds of two people: of 18 others 8, 9 or 10 left, fewer where the own fold left.
    assert set(np.round(base * 18, 3)) <= {8.0, 9.0, 10.0}
    assert base[left].mean() < base[~left].mean()


def test_prefixes_without_a_turn_are_left_out():
    prefixes = [prefix(f"a{i}", 2, left=i < 10) for i in range(20)]
    whole = simulated(prefixes, lambda p: 0.5)
    part = SimulatedTurns("part", {name: turn for name, turn in whole.turns.items() if name != "a3@2"})
    values = LeavingMetrics(prefixes).values(part)
    assert {key: int((v.denominator_P > 0).sum()) for key, v in values.items()} == dict.fromkeys(values, 19)


def test_clocks_gain_nothing_over_their_own_baseline():
    prefixes = people()
    metrics = LeavingMetrics(prefixes)
    clock = simulated(prefixes, lambda p: 0.3 if p.position == 2 else 0.5)
    counter = simulated(prefixes, lambda p: 0.9 if p.position > len(p.goal.facets) else 0.1)
    for simulator, baseline in ((clock, "turn"), (counter, "facets"), (counter, "both")):
        gain = metrics.sums(metrics.values(simulator)[f"leaving.gain.{baseline}"])
        assert estimate(gain).high < BOUND
        assert leaving_tests(gain, rng_for(0, "t")).below_bound < 0.01
    assert value(metrics, counter, "leaving.gain.turn").low > 0.2  # here facets give every end away


def test_a_user_who_knows_why_people_leave_is_above_every_clock():
    prefixes, knows = content_control(people(), seed=0)
    metrics = LeavingMetrics(prefixes)
    gain = metrics.sums(metrics.values(knows)["leaving.gain.both"])
    assert estimate(gain).low > BOUND
    assert leaving_tests(gain, rng_for(0, "t")).above_zero < 0.01


def test_planted_ends_close_their_conversations():
    prefixes, knows = content_control(people(30), seed=1)
    last = {p.conversation: p for p in prefixes}
    left = [p for p in prefixes if p.has_left]
    assert left
    assert all(last[p.conversation] is p for p in left)
    assert {knows.turns[p.id].end_probability for p in left} <= {0.5, 0.05}


def test_facets_give_ends_away_and_count_neutral_goals_do_not(monkeypatch):
    monkeypatch.setattr(
        "eval.next_turn.metrics.goal_conditions.embed", lambda texts: np.ones((len(texts), 1))
    )
    metrics, gain = counting_gain(people())
    assert estimate(metrics.sums(gain)).low > 0.2
    unsaid = {f"c{i}": ["red", "cheap", "light"] for i in range(200)}
    neutral = under_condition(people(), "count_neutral", unsaid=unsaid)
    metrics, gain = counting_gain(neutral)
    assert estimate(metrics.sums(gain)).high < BOUND


def test_slope_and_intercept_by_hand():
    prefixes = [prefix(f"a{i}", 2, left=i % 10 < (4 if i < 50 else 6)) for i in range(100)]
    found = LeavingMetrics(prefixes).calibration(
        simulated(prefixes, lambda p: 0.2 if int(p.conversation[1:]) < 50 else 0.8)
    )
    # 40 % left where 20 % was told, 60 % where 80 % was: logit 0.6 / logit 0.8 = 0.4055 / 1.3863.
    assert found.slope.value == pytest.approx(0.2925, abs=1e-4)
    assert found.intercept.value == pytest.approx(0.0, abs=1e-9)
    assert found.slope.low < found.slope.value < found.slope.high < 1
    assert [(b.predicted, b.observed.value, b.prefixes) for b in found.bins] == [
        (pytest.approx(0.2), 0.4, 50),
        (pytest.approx(0.8), 0.6, 50),
    ]


@pytest.mark.parametrize(
    ("probability", "tells", "reason"),
    [
        (lambda p: 0.0, True, "the same everywhere"),
        (lambda p: float(p.has_left), True, "separates"),
        (lambda p: 0.5, False, "no P(end) was told"),
    ],
)
def test_calibration_that_is_undefined_says_why(probability, tells, reason):
    prefixes = [prefix(f"a{i}", 2, left=i < 10) for i in range(20)]
    found = LeavingMetrics(prefixes).calibration(simulated(prefixes, probability, tells=tells))
    assert found.slope is None
    assert reason in found.undefined


def test_one_sided_tests_by_hand():
    sums = ClusterSums(np.array([1.0, 2.0, 3.0]), np.array([10.0, 10.0, 10.0]))
    # ratio 0.2, error 1 / sqrt(300), t = 0.18 sqrt(300) with 2 degrees of freedom: 0.5 + t / (2 sqrt(2 + t²)).
    t = 0.18 * math.sqrt(300)
    assert p_below(sums) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))
    # One of the eight ways to choose three signs is as large.
    assert p_above(sums, 0.0, rng_for(0, "t")) == pytest.approx(1 / 8, abs=0.01)
    assert p_above(sums, 0.5, rng_for(0, "t")) == pytest.approx(7 / 8, abs=0.01)


def test_another_goal_condition_is_in_the_keys():
    prefixes = [prefix(f"a{i}", 2, left=i < 10) for i in range(20)]
    metrics = LeavingMetrics(prefixes, condition="count_neutral")
    assert "leaving.rate.count_neutral" in metrics.values(simulated(prefixes, lambda p: 0.5))
    assert {spec.key for spec in metrics.specs} == set(metrics.values(simulated(prefixes, lambda p: 0.5)))
