import numpy as np
import pytest

from eval.fidelity.metrics.endings.hazard import Hazard, horizon, log_rank, survival, tally
from eval.fidelity.metrics.interaction.disclosure import TURNS, FacetDisclosure, disclosed
from eval.fidelity.metrics.interaction.dynamics import RESPONSES, Dynamics
from eval.fidelity.metrics.interaction.entrainment import Entrainment, replies
from eval.fidelity.metrics.interaction.grounding import Grounding
from eval.fidelity.metrics.interaction.tallies import Tallies, weighted_mean
from eval.fidelity.metrics.metric_protocol import Curves
from eval.fidelity.metrics.texts.lexical import stem, stems
from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, Split
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile

REFUSES, PLAIN = "I'm sorry, but I can't help with that.", "Bake it for forty minutes."


def talk(*texts: str, ended_by="user", id_="x", facets=()) -> Conversation:
    turns = [Turn(role="assistant" if index % 2 else "user", text=text) for index, text in enumerate(texts)]
    goal = Goal(summary="cook", facets=tuple(Facet(text=f) for f in facets)) if facets else None
    return Conversation(
        id=id_,
        origin="human",
        source="t",
        turns=tuple(turns),
        ended_by=ended_by,
        profile=UserProfile(goal=goal),
    )


def many(n: int, *texts: str, **fields) -> list[Conversation]:
    return [talk(*texts, id_=f"{texts[-1]}{i}", **fields) for i in range(n)]


def ones(n: int, repeats: int = 2) -> Draws:
    return Draws(np.ones((repeats, n)), np.ones((repeats, n)))


def turns(n: int, ended_by="user", id_="x") -> Conversation:
    return talk(*["and then?", PLAIN] * n, ended_by=ended_by, id_=id_)


def test_dynamics_by_hand():
    # After a refusal humans leave; the simulated object in four words. Of the answers' attributes, "leaves" and
    # "objects" cannot both be known of one exchange, so that only "leaves" is known on both sides.
    human = Sample.of(many(12, "open the lock", REFUSES) + many(12, "cook lasagne", PLAIN))
    stays = Sample.of(
        many(12, "open the lock", REFUSES, "no, you are wrong", PLAIN, ended_by="turn_cap")
        + many(12, "cook lasagne", PLAIN)
    )
    found = Dynamics().measure(stays, human, pool=human, draws=ones(24))
    assert found["dynamics.refuses"].value == pytest.approx(1.0)
    assert found["dynamics"].value == pytest.approx(1.0)
    assert found["dynamics"].replicates.tolist() == pytest.approx([1.0, 1.0])
    # Both leave after a plain answer, so all of the difference is a contrast.
    assert found["dynamics.contrast"].value == pytest.approx(1.0)
    # No person was asked or offered anything.
    assert "dynamics.asks" not in found
    assert "dynamics.offers" not in found


def test_each_response_counts_once_in_the_mean():
    # A polite question of four words against an order of four words: three of seven attributes differ.
    human = Sample.of(many(12, "open the lock", REFUSES, "why not please now?", PLAIN))
    other = Sample.of(many(12, "open the lock", REFUSES, "write it down now", PLAIN))
    found = Dynamics().measure(other, human, pool=human, draws=ones(12))
    assert len(RESPONSES) == 7
    assert found["dynamics.refuses"].value == pytest.approx(3 / 7)


def test_survival_by_hand():
    # Of four people one leaves after turn 1, one is cut at turn 2, one leaves at 3, one speaks on.
    sample = Sample.of([turns(1), turns(2, "cut"), turns(3), turns(4)])
    tallies = tally(sample, 3)
    rates = tallies.rates(np.ones((1, 4)))
    assert tallies.trials_NK.sum(0).tolist() == [4, 2, 2]
    assert rates[0].tolist() == pytest.approx([1 / 4, 0, 1 / 2])
    assert survival(rates)[0].tolist() == pytest.approx([3 / 4, 3 / 4, 3 / 8])


def test_log_rank_by_hand():
    # Turn 1: 2 of 4 leave, both in the first group (2 of its 2). Expected 1, variance 2·2·2·2 / (16·3) = 1/3.
    first, second = tally(Sample.of([turns(1), turns(1)]), 1), tally(Sample.of([turns(2), turns(2)]), 1)
    one = np.ones((1, 2))
    assert log_rank(first, second, one, one)[0] == pytest.approx(1 / np.sqrt(1 / 3))
    assert np.isnan(log_rank(second, second, one, one)[0])


def leavers(*after: int, ended_by="user") -> Sample:
    return Sample.of([turns(n, ended_by, str(i)) for i, n in enumerate(after)])


def test_hazard_measures_the_gap_of_the_survival_curves():
    human, early = leavers(*[1] * 10, *[3] * 10), leavers(*[1] * 20)
    found = Hazard().measure(early, human, pool=human, draws=ones(20))
    # Still there after turns 1, 2, 3: people ½ ½ 0, simulated 0 0 0.
    assert found["hazard.largest"].value == pytest.approx(1 / 2)
    assert found["hazard.mean"].value == pytest.approx(1 / 3)
    assert found["hazard.log_rank"].value > 3


def test_turns_from_the_smallest_cap_on_are_left_out():
    human = leavers(*[1] * 10, *[4] * 10)
    assert horizon(human) == 4
    capped = Sample.of([turns(3, "turn_cap", str(i)) for i in range(20)])
    found = Hazard().measure(capped, human, pool=human, draws=ones(20))
    # Turns 1 and 2: people ½ ½, simulated 1 1.
    assert found["hazard.mean"].value == pytest.approx(0.5)
    assert horizon(capped) == 2


def test_unknown_ends_give_no_hazard():
    human, unknown = leavers(*[1] * 10, *[3] * 10), leavers(*[2] * 20, ended_by="unknown")
    assert Hazard().measure(unknown, human, pool=human, draws=ones(20)) == {}
    assert Hazard().curves(unknown, human, draws=ones(20)) == []
    floor = Hazard().floor(unknown, [Split(np.arange(10), np.arange(10, 20))])
    assert np.isnan(floor["hazard.largest"]).all()


def test_facets_come_out_by_turn():
    conversation = talk(
        "plan a dinner", PLAIN, "vegetarian guests", PLAIN, facets=("dinner plan", "guests are vegetarian")
    )
    assert disclosed(conversation).tolist() == [0.5] + [1.0] * (TURNS - 1)
    assert disclosed(talk("plan a dinner", PLAIN)) is None


def test_disclosure_by_hand():
    facets = ("dinner plan", "guests are vegetarian")
    human = Sample.of(many(12, "plan a dinner", PLAIN, "vegetarian guests", PLAIN, facets=facets))
    dumps = Sample.of(many(12, "plan a dinner for vegetarian guests", PLAIN, facets=facets))
    found = FacetDisclosure().measure(dumps, human, pool=human, draws=ones(12))
    assert found["disclosure.first"].value == pytest.approx(0.5)
    assert found["disclosure.end"].value == pytest.approx(0.0)
    assert found["disclosure.curve"].value == pytest.approx(0.5 / TURNS)
    bare = Sample.of(many(12, "plan a dinner", PLAIN))
    assert FacetDisclosure().measure(bare, human, pool=human, draws=ones(12)) == {}


def test_stems_bring_forms_together():
    assert stem("plans") == stem("plan") == "plan"
    assert stems("The garden and the gardens") == {"garden"}


def test_replies_know_which_words_are_new():
    conversation = talk("plant tomatoes", "Tomatoes like sunny walls.", "which walls for tomatoes?", PLAIN)
    ((own, new, answer),) = replies(conversation)
    assert own == stems("walls tomatoes")
    assert new == stems("walls")
    assert answer == stems("tomatoes like sunny walls")


def test_entrainment_falls_when_turns_are_swapped():
    things = [
        "tomato",
        "piano",
        "rocket",
        "ladder",
        "bicycle",
        "violin",
        "harbour",
        "candle",
        "tractor",
        "pillow",
    ]
    answers = [f"A {thing} costs little." for thing in things]
    own = [talk("help", a, f"{t} colour?", PLAIN, id_=t) for t, a in zip(things, answers, strict=True)]
    swapped = [
        talk("help", a, f"{t} colour?", PLAIN, id_=t)
        for t, a in zip(things[1:] + things[:1], answers, strict=True)
    ]
    human, shuffled = Sample.of(own), Sample.of(swapped)
    found = Entrainment().measure(shuffled, human, pool=human, draws=ones(10))
    # One of the two content words of every reply is the answer's; by chance none, as no two answers share one.
    tallied = Entrainment().tally(human).rates(np.ones((1, 10)))[0]
    assert tallied[0] == pytest.approx(0.5)
    assert found["entrainment"].value == pytest.approx(0.5, abs=0.15)
    assert (
        Entrainment().measure(shuffled, human, pool=human, draws=ones(10))["entrainment"].value
        == found["entrainment"].value
    )


def test_rates_over_nothing_are_not_zero():
    tallies = Tallies(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0]]))
    rates = tallies.rates(np.array([[1.0], [0.0]]))
    assert rates[0][0] == 0.5
    assert np.isnan(rates[0][1])
    assert np.isnan(rates[1]).all()
    mean = weighted_mean(np.array([[0.2, 0.8]]), np.array([[True, False]]), np.array([1.0, 3.0]))
    assert mean.tolist() == [0.2]


METRICS = [Dynamics(), Hazard(), FacetDisclosure(), Entrainment(), Grounding()]


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
def test_identical_sides_are_no_distance_apart(metric):
    conversations = [
        talk("plan a dinner", PLAIN, f"a {word} dinner please", REFUSES, id_=word, facets=("dinner plan",))
        for word in map(str, range(1000, 1024))
    ]
    sample = Sample.of(conversations)
    found = metric.measure(sample, sample, pool=sample, draws=ones(24))
    assert found
    assert all(figure.value == pytest.approx(0, abs=1e-12) for figure in found.values())
    floor = metric.floor(sample, [Split(np.arange(12), np.arange(12, 24))])
    assert set(floor) == {spec.key for spec in metric.specs}
    assert isinstance(metric, Curves)
    assert metric.curves(sample, sample, draws=ones(24))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
def test_an_empty_side_gives_no_figure(metric):
    one = Sample.of([talk("hello")])
    assert metric.measure(one, one, pool=one, draws=ones(1)) == {}
    assert metric.curves(one, one, draws=ones(1)) == []
