import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.fidelity.metrics.gates import run_gates
from eval.fidelity.metrics.texts import embedded
from eval.fidelity.metrics.texts.classifier import Classifier, ridge_on, telling_ngrams
from eval.fidelity.metrics.texts.coverage import Coverage, coverage, density, distances, in_ball
from eval.fidelity.metrics.texts.diversity import Diversity
from eval.fidelity.metrics.texts.folds import auc, auc_rows, grouped_folds, matters, out_of_fold, people
from eval.fidelity.metrics.texts.marginals import Marginals, average, histogram, jensen_shannon, wasserstein
from eval.fidelity.samples.features import FEATURES, Sample
from eval.fidelity.samples.invented import invented
from usersim.errors import DataError
from usersim.stats.estimates import Draws, Split
from usersim.types import Conversation, Goal, Turn, UserProfile
from usersim.users.guards import Guards


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


def test_who_was_held_out_is_not_trained_on_elsewhere():
    fold, labels = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    authors = np.array([[7, -1], [-1, -1], [7, -1], [-1, -1], [-1, 3], [-1, 3]])
    trained: dict[int, list[int]] = {}

    def fit(rows, _):
        def score(held):
            trained.update(dict.fromkeys(held.tolist(), sorted(rows.tolist())))
            return np.zeros(len(held))

        return score

    out_of_fold(np.arange(6), labels, fold, fit, people_NP=authors)
    # Person 7 wrote 0 and 2: when fold 0 is held out, 2 is not trained on. No person of fold 2 is in another fold.
    assert trained == {
        0: [3, 4, 5],
        1: [3, 4, 5],
        2: [1, 4, 5],
        3: [1, 4, 5],
        4: [0, 1, 2, 3],
        5: [0, 1, 2, 3],
    }


def test_what_no_classifier_can_score_is_unknown_and_left_out():
    def fit(rows, labels):
        raise AssertionError("one class only")

    assert np.isnan(out_of_fold(np.arange(4), np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]), fit)).all()
    # The unknown one is left out: 3 > 1, 3 > 2.
    assert auc(np.array([3.0, np.nan]), np.array([1.0, 2.0])) == 1
    assert np.isnan(auc(np.array([3.0, np.nan, np.nan]), np.array([1.0, 2.0])))


def test_a_matter_is_a_task_or_the_same_words_and_chains_count():
    found = matters(
        [
            said("hello", goal="a", id_="1"),
            said("hello", goal="b", id_="2"),
            said("bye", goal="b", id_="3"),
            said("bye", "so", goal="c", id_="4"),
            said("else", id_="5"),
            said("other", id_="6"),
        ]
    )
    assert found[0] == found[1] == found[2]
    assert len({found[0], *found[3:]}) == 4


def test_people_are_numbered_and_unknown_ones_are_minus_one():
    known = said("a").model_copy(update={"user": "u", "group": "g"})
    assert people([known, said("b"), known]).tolist() == [[0, 1], [-1, -1], [0, 1]]


def test_ridge_by_hand():
    # Rows 1 and -1, inner products plus one: K = 2 I. Weights (2 + 2)^-1 (1, -1); the row 1 scores 2 / 4.
    score = ridge_on(np.array([[2.0, 0.0], [0.0, 2.0]]), 2.0)(np.array([0, 1]), np.array([1, 0]))
    assert score(np.array([0, 1])) == pytest.approx([0.5, -0.5])


def test_repeated_conversations_do_not_leak_into_their_own_scores():
    some = invented(44, 1)
    human, copies = Sample.of(some[4:]), Sample.of([c for c in some[:4] for _ in range(10)])
    text = Classifier("text")
    # Were copies on both sides of a fold, each would be known by heart: AUC 1.
    leaky = text.scores(Sample.of(_renamed(copies.conversations)), human, human)
    assert auc(*text.scores(copies, human, human)) < 0.9 < auc(*leaky)


def _renamed(copies):
    """Each in a fold of its own: other goals, and a word of difference."""
    return [
        said(*(f"{t.text} {i}" for t in c.turns if t.role == "user"), id_=str(i))
        for i, c in enumerate(copies)
    ]


def test_telling_ngrams_say_for_whom_they_speak():
    loud = [said(f"WHY {c}?", id_=c) for c in "abcdefgh"]
    calm = [said(f"because {c}", id_=c) for c in "ijklmnop"]
    simulated, human = telling_ngrams(Sample.of(loud), Sample.of(calm), top=6)
    assert "WHY" in " ".join(simulated)
    assert "bec" in " ".join(human)


@pytest.fixture
def counted_embeddings(monkeypatch):
    """A vector per text from its letters, and the list of what was read."""
    read: list[str] = []

    def embed(texts):
        read.extend(texts)
        rows = np.array([[text.lower().count(letter) for letter in "aeiou"] for text in texts], dtype=float)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    monkeypatch.setattr("usersim.text.embeddings.embed", embed)
    monkeypatch.setattr(embedded, "_known", {})
    for module in ("embedded", "classifier", "coverage", "diversity"):
        monkeypatch.setattr(f"eval.fidelity.metrics.texts.{module}.unavailable", lambda: None)
    return read


def test_embeddings_are_means_over_turns_read_once_and_carried(counted_embeddings):
    sample = Sample.of([said("aaa", "eee"), said("aaa")])
    assert embedded.turn_means(sample).tolist() == [[0.5, 0.5, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert counted_embeddings == ["aaa", "eee"]
    embedded._known.clear()
    again = pickle.loads(pickle.dumps(sample))
    assert embedded.turn_means(again)[0, 0] == 0.5
    assert embedded.turn_means(embedded.joined(again, sample)).shape == (4, 5)
    assert len(counted_embeddings) == 2


def test_the_embedding_space_tells_apart_what_the_features_cannot(counted_embeddings):
    ours = Sample.of([said("ba na ra", f"ta {'la ' * i}so", id_=f"s{i}") for i in range(20)])
    theirs = Sample.of([said("bi ni ri", f"ti {'li ' * i}so", id_=f"h{i}") for i in range(20)])
    draws = Draws(np.ones((3, 20)), np.ones((3, 20)))
    found: dict = {}
    for metric in (
        Classifier("embeddings"),
        Coverage(spaces=("behaviour", "embeddings")),
        Diversity(spaces=("embeddings",)),
    ):
        found |= metric.measure(ours, theirs, pool=theirs, draws=draws)
        assert set(metric.floor(theirs, [Split(np.arange(10), np.arange(10, 20))])) == {
            spec.key for spec in metric.specs
        }
    assert found["auc_embeddings"].value > 0.99
    assert (found["coverage"].value, found["coverage_embeddings"].value) == (1, 0)
    # No neighbour at all: half a hit among 5 · 20 pairs.
    assert found["density_gap_embeddings"].value == pytest.approx(np.log2(200))
    assert "vendi_embeddings" in found


def test_without_a_model_the_embedding_figures_are_left_out(monkeypatch):
    for module in ("classifier", "coverage", "diversity"):
        monkeypatch.setattr(f"eval.fidelity.metrics.texts.{module}.unavailable", lambda: "no model")
    sample = Sample.of(invented(12, 1))
    draws, split = Draws(np.ones((1, 12)), np.ones((1, 12))), Split(np.arange(6), np.arange(6, 12))
    for metric in (
        Classifier("embeddings"),
        Coverage(neighbours=2, spaces=("embeddings",)),
        Diversity(spaces=("embeddings",)),
    ):
        assert not any("embeddings" in k for k in metric.measure(sample, sample, pool=sample, draws=draws))
        floor = metric.floor(sample, [split])
        assert all(np.isnan(values).all() for key, values in floor.items() if "embeddings" in key)


def test_more_neighbours_than_people_are_refused():
    with pytest.raises(DataError, match=r"3 human conversations have no 3-th"):
        in_ball(np.zeros((3, 3)), np.zeros((3, 1)), 3)


def test_a_feature_without_values_is_unknown_and_not_equal():
    sample = Sample.of([said("one"), said("two")])
    draws, split = Draws(np.ones((1, 2)), np.ones((1, 2))), Split(np.array([0]), np.array([1]))
    measured = Marginals().measure(sample, sample, pool=sample, draws=draws)
    assert "word_variation.w1" not in measured
    assert measured["questions.w1"].value == 0
    assert np.isnan(Marginals().floor(sample, [split])["word_variation.jsd"]).all()


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


@pytest.mark.parametrize(
    ("guards", "verdict"),
    [
        (None, "guarded"),
        (Guards(), "guarded"),
        (Guards(repeat=False), "different"),
        (Guards.off(), "different"),
    ],
)
def test_what_a_guard_forbids_is_no_finding_of_the_gate(guards, verdict):
    people = [said("go on", "go on", id_=f"p{i}") for i in range(60)]
    simulated = [said("go on", "and then", id_=f"s{i}") for i in range(60)]
    results = {gate.key: gate for gate in run_gates(simulated, people, None, guards)}
    assert results["repeat"].verdict == verdict
    # More than people is a finding under any guards, and so is what no guard forbids.
    turned = {gate.key: gate for gate in run_gates(people, simulated, None, guards)}
    assert turned["repeat"].verdict == "different"
    short = {gate.key: gate for gate in run_gates([said("hi")] * 60, people, None, guards)}
    assert short["one_turn"].verdict == "different"


def test_no_goal_means_not_applicable():
    results = {gate.key: gate for gate in run_gates([said("hi")], [said("hi")], None)}
    assert results["goal_copy"].verdict == "not applicable"
    assert "at_turn_cap" not in results
