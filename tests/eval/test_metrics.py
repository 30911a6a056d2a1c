import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.features import FEATURES, Sample
from eval.metrics.classifier import auc, auc_rows, grouped_folds, out_of_fold
from eval.metrics.coverage import coverage, density, distances, in_ball
from eval.metrics.gates import run_gates
from eval.metrics.marginals import average, histogram, jensen_shannon, wasserstein
from usersim.types import Conversation, Goal, Turn, UserProfile


def said(*texts: str, origin="human", goal: str | None = None, id_: str = "x") -> Conversation:
    turns = [
        t for text in texts for t in (Turn(role="user", text=text), Turn(role="assistant", text="Sure."))
    ]
    profile = UserProfile(goal=Goal(summary=goal) if goal else None)
    return Conversation(
        id=id_, origin=origin, source="t", turns=tuple(turns), profile=profile, ended_by="user"
    )


def test_wasserstein_by_hand():
    support = np.array([0.0, 1.0, 3.0])
    # Half the mass travels from 0 to 1, a quarter of it on to 3: 0.5 * 1 + 0.25 * 2.
    assert wasserstein(support, np.array([[1.0, 0, 0]]), np.array([[0.5, 0.25, 0.25]]))[0] == pytest.approx(
        1.0
    )
    assert wasserstein(support, np.array([[0, 1.0, 0]]), np.array([[0, 0, 1.0]]))[0] == pytest.approx(2.0)


def test_jensen_shannon_by_hand():
    assert jensen_shannon(np.array([[1.0, 0]]), np.array([[0, 1.0]]))[0] == pytest.approx(1.0)
    # p = (1, 0), q = (½, ½), m = (¾, ¼): ½ log2(4/3) + ½ (½ log2(2/3) + ½ log2 2)
    worked = 0.5 * np.log2(4 / 3) + 0.5 * (0.5 * np.log2(2 / 3) + 0.5)
    assert jensen_shannon(np.array([[1.0, 0]]), np.array([[0.5, 0.5]]))[0] == pytest.approx(worked)


@given(
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.lists(st.floats(0.01, 1), min_size=3, max_size=3)
)
def test_distances_are_symmetric_and_bounded(a, b):
    p, q = (np.array([x]) / sum(x) for x in (a, b))
    support = np.array([0.0, 1.0, 2.0])
    assert wasserstein(support, p, q)[0] == pytest.approx(wasserstein(support, q, p)[0])
    assert 0 <= jensen_shannon(p, q)[0] <= 1
    assert jensen_shannon(p, q)[0] == pytest.approx(jensen_shannon(q, p)[0])


def test_auc_by_hand():
    # Pairs: 3>1, 3>2, 2>1 won, 2=2 a half: 3.5 of 4.
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)
    twice_the_tie = auc_rows(
        np.array([3.0, 2.0]), np.array([1.0, 2.0]), np.array([[0.0, 2.0]]), np.ones((1, 2))
    )
    assert twice_the_tie[0] == pytest.approx(0.75)


def test_a_group_never_lies_on_both_sides_of_a_fold():
    groups = [f"g{i % 7}" for i in range(40)]
    folds = grouped_folds(groups, 5, np.random.default_rng(0))
    assert all(len({f for f, g in zip(folds, groups, strict=True) if g == name}) == 1 for name in set(groups))
    assert set(folds.tolist()) == set(range(5))


def test_out_of_fold_never_scores_what_it_was_trained_on():
    rows, labels, fold = np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2])

    def fit(trained, _):
        return lambda held: np.array([float(row in trained) for row in held])

    assert out_of_fold(rows, labels, fold, fit).tolist() == [0.0] * 6


def test_coverage_and_density_by_hand():
    human = np.array([[0.0], [1.0], [10.0], [11.0]])
    simulated = np.array([[0.5], [0.6]])
    inside = in_ball(distances(human, human), distances(human, simulated), 1)
    one = np.ones((1, 4)), np.ones((1, 2))
    # Radius 1 everywhere: both simulated points lie in the balls of 0 and 1, none near 10.
    assert inside.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert coverage(inside, *one)[0] == pytest.approx(0.5)
    assert density(inside, *one, 1)[0] == pytest.approx(2.0)
    assert coverage(inside, np.array([[0.0, 0, 4, 0]]), one[1])[0] == 0


def test_every_conversation_weighs_the_same():
    sample = Sample.of(
        [said("yes", "ok", "no", "go on please"), said("Could you fix this long sentence for me?")]
    )
    by_key = {feature.key: feature for feature in FEATURES}
    assert average(by_key["questions"], sample) == pytest.approx(0.5)
    assert average(by_key["short_turns"], sample) == pytest.approx(0.5)
    assert average(by_key["politeness"], sample) == pytest.approx(0.125)
    # Words per turn: 1, 1, 1, 3 with an eighth each, 8 with a half.
    words = histogram(by_key["words_per_turn"], sample)
    assert words[:5].tolist() == pytest.approx([0, 3 / 8, 1 / 8, 0, 1 / 2])
    assert by_key["words_per_turn"].bin_labels()[1:5] == ["1", "2–3", "4–7", "8–15"]  # noqa: RUF001


def test_undefined_attributes_are_left_out_not_zero():
    sample = Sample.of([said("123"), said("Yes."), said("no")])
    by_key = {feature.key: feature for feature in FEATURES}
    assert average(by_key["lowercase_starts"], sample) == pytest.approx(0.5)
    assert average(by_key["word_variation"], sample) is None


def test_gates_count_conversations():
    goal = "find out how old the bridge near the station is and who built it"
    bad = [
        said("go on", "go on", id_="a"),
        said(f"hi, i want to {goal}", goal=goal, id_="b"),
        said("Assistant: here you are", id_="c"),
        said("", id_="d"),
        said("How can I help you today?", id_="e"),
    ]
    results = {
        gate.key: gate for gate in run_gates(bad, [said("how old is the bridge", goal=goal)], turn_cap=2)
    }
    shares = {key: gate.simulated.value for key, gate in results.items()}
    assert shares == pytest.approx(
        {
            "empty_turn": 0.2,
            "repeat": 0.2,
            "role_label": 0.2,
            "assistant_speak": 0.2,
            "goal_copy": 1.0,
            "one_turn": 0.8,
            "at_turn_cap": 0.2,
        }
    )
    assert results["goal_copy"].simulated.n == 1
    assert {gate.verdict for gate in results.values()} == {"too few"}


def test_no_goal_means_not_applicable():
    results = {gate.key: gate for gate in run_gates([said("hi")], [said("hi")], None)}
    assert results["goal_copy"].verdict == "not applicable"
    assert "at_turn_cap" not in results
