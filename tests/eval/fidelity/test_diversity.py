import numpy as np
import pytest

from eval.fidelity.metrics.texts.diversity import (
    Contents,
    Diversity,
    distinct_2,
    ngram_similarity,
    passage,
    within_goals,
    word_pairs,
)
from eval.fidelity.metrics.texts.variety import log_vendi, log_vendi_near, mean_similarity, rarefied, vendi
from eval.fidelity.samples.features import Sample
from eval.fidelity.samples.invented import invented
from usersim.stats.estimates import Draws, Split, resamples, rng_for
from usersim.types import Conversation, Goal, Turn, UserProfile


def said(*texts: str, id_: str = "x", goal: str | None = None) -> Conversation:
    turns = [t for text in texts for t in (Turn(role="user", text=text), Turn(role="assistant", text="Ok."))]
    profile = UserProfile(goal=Goal(summary=goal) if goal else None)
    return Conversation(id=id_, origin="human", source="t", turns=tuple(turns), profile=profile)


def once(simulated: Sample, human: Sample) -> Draws:
    return Draws(np.ones((1, len(simulated))), np.ones((1, len(human))))


def figures(simulated, human, metric=None) -> dict[str, float]:
    ours, theirs = Sample.of(simulated), Sample.of(human)
    found = (metric or Diversity()).measure(ours, theirs, pool=theirs, draws=once(ours, theirs))
    return {key: measured.value for key, measured in found.items()}


def test_rarefaction_is_the_mean_over_all_truncations():
    # Two of A and one of B; of the three ways to keep two, one shows A alone and two show both: (1 + 2 + 2) / 3.
    assert rarefied(np.array([2.0, 1.0, 0.0]), 2) == pytest.approx(5 / 3)
    assert rarefied(np.array([2.0, 1.0]), 3) == pytest.approx(2)
    assert rarefied(np.array([5.0, 7.0, 1.0]), 1) == pytest.approx(1)


def test_vendi_by_hand():
    assert vendi(np.eye(4)) == pytest.approx(4)
    assert vendi(np.ones((4, 4))) == pytest.approx(1)
    # Eigenvalues of K/2 are 0.8 and 0.2.
    similar = np.array([[1.0, 0.6], [0.6, 1.0]])
    assert vendi(similar) == pytest.approx(np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2))))
    # Weights 3 and 1 of unlike items: shares 3/4 and 1/4.
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert log_vendi(np.eye(2), np.array([[3.0, 1.0]]))[0] == pytest.approx(expected)


def test_the_first_order_score_touches_the_exact_one():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar, even, tilt = rows @ rows.T, np.ones((1, 12)), rng.normal(size=(1, 12))
    assert log_vendi_near(similar, even)[0] == pytest.approx(log_vendi(similar, even)[0])
    exact, near = (
        (f(similar, even + 1e-4 * tilt) - f(similar, even))[0] for f in (log_vendi, log_vendi_near)
    )
    assert abs(exact) > 1e-6
    assert near == pytest.approx(exact, rel=1e-2)


def test_a_copy_of_itself_is_no_pair():
    similar = np.array([[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]])
    assert mean_similarity(similar, np.ones((1, 3)))[0] == pytest.approx(0.3)
    # Weights 2, 1, 1: the pairs 01 and 02 count twice: (2 * 0.5 + 2 * 0.1 + 0.3) / 5.
    assert mean_similarity(similar, np.array([[2.0, 1.0, 1.0]]))[0] == pytest.approx(0.3)
    assert mean_similarity(similar, np.array([[2.0, 1.0, 0.0]]))[0] == pytest.approx(0.5)
    assert np.isnan(mean_similarity(similar, np.array([[4.0, 0.0, 0.0]]))[0])


def test_a_passage_is_a_run_of_words_that_follows_from_the_text():
    long = said(*(f"Word{i} and more" for i in range(30)))
    found = passage(long, 8, seed=1)
    words = [w for i in range(30) for w in (f"word{i}", "and", "more")]
    assert any(words[i : i + 8] == found for i in range(len(words)))
    assert passage(long.model_copy(update={"id": "y"}), 8, seed=1) == found
    assert passage(said("Two words"), 8, seed=1) == ["two", "words"]
    assert passage(said("???"), 8, seed=1) == ["???"]


def test_distinct_pairs_at_the_same_budget_on_both_sides():
    contents = Contents(word_pairs([["a", "b", "a", "b"], ["c"]]), {}, {})
    # Pairs ab, ba, ab: two kinds of three; among any two of them 5/3 kinds.
    every = np.ones((1, 2))
    assert distinct_2(contents, every, np.array([3.0]))[0] == pytest.approx(2 / 3)
    assert distinct_2(contents, every, np.array([2.0]))[0] == pytest.approx(5 / 6)
    assert np.isnan(distinct_2(contents, np.array([[0.0, 1.0]]), np.array([0.0]))[0])


def test_longer_conversations_of_the_same_people_are_not_more_diverse():
    short, long = invented(40, 1, words=4.0, leave=0.8), invented(40, 2, words=8.0, leave=0.8)
    assert figures(long, short)["distinct_2"] < 0.1


def test_identical_sets_are_at_no_distance_and_collapse_is_far():
    people = invented(40, 1)
    same = figures(people, people)
    assert set(same) == {"distinct_2", "vendi_text", "similarity_text"}
    assert list(same.values()) == pytest.approx([0.0] * 3)
    few = figures(people[:2] * 20, people)
    assert min(few["distinct_2"], few["vendi_text"]) > 1.5
    # Two-sided: the other way round is just as far.
    assert figures(people, people[:2] * 20)["vendi_text"] == pytest.approx(few["vendi_text"])


def goals(similarity: float, count: int) -> Contents:
    """Two conversations of each goal, this similar."""
    similar = np.kron(np.eye(count), np.array([[1.0, similarity], [similarity, 1.0]]))
    members = {f"g{i}": np.array([2 * i, 2 * i + 1]) for i in range(count)}
    return Contents(word_pairs([["a", "b"]] * 2 * count), {"text": similar}, members)


def test_within_goal_spread_pairs_the_goals():
    even = np.ones((1, 12))
    assert within_goals(goals(0.9, 6), even, goals(0.4, 6), even, "text")[0] == pytest.approx(0.5)
    # A resample without one conversation of the first goal tells nothing of it; five goals are left, then four.
    weights = np.ones((2, 12))
    weights[0, 0] = weights[1, [0, 2]] = 0
    found = within_goals(goals(0.9, 6), weights, goals(0.4, 6), np.ones((2, 12)), "text")
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])


def test_without_shared_goals_the_figure_is_left_out():
    goal = [said("book a train", f"to {i}", goal=f"trip {i % 5}", id_=f"{i}") for i in range(10)]
    assert "within_goal_text" in figures(goal, goal)
    assert "within_goal_text" not in figures(goal, invented(10, 1))


def test_texts_without_letters_or_of_any_script_have_a_similarity():
    similar = ngram_similarity(["", "", "你好", "hi"])
    assert similar.diagonal() == pytest.approx([1.0] * 4)
    assert similar[0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert vendi(ngram_similarity(["", ""])) == pytest.approx(1)


def test_floor_is_the_measure_between_halves():
    people = invented(40, 3)
    pool = Sample.of(people)
    split = Split(np.arange(20), np.arange(20, 40))
    floor = Diversity().floor(pool, [split])
    between = figures(people[:20], people[20:])
    assert {key: value[0] for key, value in floor.items() if key in between} == pytest.approx(between)
    assert np.isnan(floor["within_goal_text"][0])


def test_replicates_scatter_about_the_value():
    ours, theirs = Sample.of(invented(40, 1)), Sample.of(invented(40, 2, words=0.3))
    rng = rng_for(0, "test")
    draws = Draws(resamples(40, 100, rng), resamples(40, 100, rng))
    found = Diversity().measure(ours, theirs, pool=theirs, draws=draws)["vendi_text"]
    assert found.value > 0.3
    assert np.median(found.replicates) == pytest.approx(found.value, abs=0.15)
    assert 0.01 < found.replicates.std() < 0.3


def test_the_curve_says_which_way():
    people = invented(40, 1)
    ours, theirs = Sample.of(people[:2] * 20), Sample.of(people)
    (curve,) = Diversity().curves(ours, theirs, draws=Draws(np.ones((4, 40)), np.ones((4, 40))))
    assert [point.value for point in curve.human] == pytest.approx([1.0, 1.0])
    assert all(point.value < 0.3 for point in curve.simulated)
