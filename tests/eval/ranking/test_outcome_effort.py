import numpy as np
import pytest

from eval.ranking.effort import Judgement, Trajectory, kept_steps, measure_effort, rate, trajectories
from eval.ranking.patience import bad_runs, fit_patience
from usersim.errors import DataError
from usersim.text.facet_matching import by_words, content_words, served_tables, statements
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile


def talk(*texts, facets=("goes by train", "costs 350 euros"), ended_by="user", name="c", first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    goal = Goal(summary="plan a trip", facets=tuple(Facet(text=facet) for facet in facets))
    return Conversation(
        id=name,
        origin="simulated",
        source="s",
        turns=tuple(Turn(role=roles[i % 2], text=text) for i, text in enumerate(texts)),
        profile=UserProfile(goal=goal),
        ended_by=ended_by,
    )


def path(utility, ratings=None, *, words=None, left=None, name="c"):
    steps = len(utility)
    return Trajectory(
        id=name,
        words=tuple(words or range(1, steps + 1)),
        utility=tuple(utility),
        ratings=tuple(ratings or [5] * steps),
        left=left,
    )


def test_questions_and_echoes_give_nothing():
    said = "Take the night train.\nIs it cheap? So you want a train. You need a ticket! Then sleep."
    assert statements(said) == ["Take the night train.", "Then sleep."]


def test_half_of_the_content_words_serve_a_facet():
    assert content_words("It costs 350 euros") == {"cost", "350", "euro"}
    sentences = ["It is 350 euro in all.", "It costs little.", "Nothing here."]
    assert by_words(["costs 350 euros", "to it"], sentences).tolist() == [[True, False, False], [False] * 3]


def test_once_served_a_facet_stays_served():
    tables = served_tables(
        [talk("hi", "Take the train, it goes daily.", "price?", "That is 350 euros."), talk("hi")], by_words
    )
    assert tables[0].tolist() == [[True, True], [False, True]]
    assert tables[1].shape == (2, 0)


def test_steps_are_rated_by_what_is_new():
    served = np.array([[0, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=np.bool_)
    assert rate(served, [False, True, False, True, False]) == [2, 4, 2, 1, 5]


def test_sessions_are_cut_before_the_run_of_bad_steps():
    ratings = [4, 2, 5, 2, 1, 4]
    assert [kept_steps(ratings, n) for n in (1, 2, 3)] == [1, 3, 6]
    assert kept_steps([1, 1], 2) == 0
    assert bad_runs(ratings) == [0, 1, 0, 1, 2, 0]


def test_a_conversation_as_steps():
    said = ("trip please", "When?", "no, i said by train", "Take the train, it goes daily.")
    (found,) = trajectories([talk(*said)], by_words)
    assert (found.words, found.utility, found.ratings, found.left) == ((2, 7), (0.0, 0.5), (1, 4), True)
    (cut,) = trajectories([talk(*said, ended_by="turn_cap")], by_words)
    assert cut.left is False
    (unanswered,) = trajectories([talk(*said, "ok")], by_words)
    assert (unanswered.left, len(unanswered.words)) == (None, 2)
    (greeted,) = trajectories(
        [talk("Hello!", "trip please", "Take the train, it goes.", first="a")], by_words
    )
    assert (greeted.words, greeted.utility) == ((2,), (0.5,))


def test_without_facets_or_reply_there_is_no_utility():
    assert trajectories([talk("hi", "Hello.", facets=()), talk("hi")], by_words) == []
    with pytest.raises(DataError, match="nothing to measure"):
        measure_effort([])


def test_a_judges_word_goes_before_the_rule():
    judged = {"c": Judgement(id="c", ratings=(None, 2), utility=(0.2, 0.1))}
    (found,) = trajectories([talk("a", "b", "c", "d", facets=())], by_words, judged)
    assert (found.ratings, found.utility) == ((5, 2), (0.2, 0.1))
    with pytest.raises(DataError, match="c: 1 replies"):
        trajectories([talk("a", "b")], by_words, judged)


def test_effort_by_hand():
    found = measure_effort(
        [path([0.0, 0.5, 1.0], [2, 4, 5], words=(4, 12, 50)), path([0.5], words=(9,))], bootstrap=50
    )
    assert (found.messages.value, found.user_words.value) == (2.0, 29.5)
    assert (found.first.value, found.final.value, found.gain.value) == (0.25, 0.75, 0.5)
    assert [e.value for e in found.by_message] == [0.25, 0.5, 0.75]
    assert [e.value for e in found.by_words] == [
        0.0,
        0.25,
        0.5,
        0.5,
        0.75,
        0.75,
        0.75,
    ]  # 5 10 20 40 80 160 320
    # Patience 1 leaves the first before its first step (utility 0, 1 at its end): (0 - 1 + 0) / 2.
    assert [e.value for e in found.drop] == [-0.5, 0.0, 0.0]
    assert found.relative_gain is None  # in some resamples nothing is served at first


def simulated_leavers(patience, n=400):
    """Useless replies; leaves with .05 before `patience` of them and .6 from then on, at most 8."""
    rng, found = np.random.default_rng(0), []
    for index in range(n):
        steps, left = 0, False
        while steps < 8 and not left:
            steps += 1
            left = bool(rng.random() < (0.6 if steps >= patience else 0.05))
        found.append(path([0.0] * steps, [2] * steps, left=left, name=str(index)))
    return found


@pytest.mark.parametrize("patience", [2, 4])
def test_a_planted_patience_is_found(patience):
    found = fit_patience(simulated_leavers(patience), bootstrap=50)
    assert found.patience == patience
    assert found.chosen[str(patience)] > 0.9
    assert (found.before, found.after) == pytest.approx((0.05, 0.6), abs=0.06)
    assert found.gain > 20
    assert found.hazard[0] is None  # every reply is useless


def test_leaving_by_chance_is_no_patience():
    found = fit_patience(simulated_leavers(99), bootstrap=50)
    assert found.gain < 3
    assert found.before == pytest.approx(0.05, abs=0.02)
    with pytest.raises(DataError, match="no conversation says"):
        fit_patience([path([0.0])])


def test_the_last_reply_before_a_cap_has_no_known_leaving():
    # Two at risk with no bad run behind them; the one who left; the one who was cut counts once.
    found = fit_patience([path([1.0, 1.0], left=False), path([1.0], left=True), path([1.0])], bootstrap=20)
    assert (found.before, found.patience, found.conversations, found.left_out) == (0.5, None, 2, 1)
