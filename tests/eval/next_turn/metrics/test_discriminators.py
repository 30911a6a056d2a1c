"""Discriminators: forced choice, its exact test, the unpaired form, and the rows of both families."""

import numpy as np
import pytest

from eval.next_turn.metrics.discriminator_features import Embedded, Lexical, longest_run
from eval.next_turn.metrics.discriminators import Discriminator, Unpaired, told_apart, told_apart_specs
from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.stats.estimates import rng_for
from usersim.types import Goal, Turn

TOPICS = "bread soup chess music rivers bikes stars birds tents lamps coats trains".split()  # noqa: SIM905


def prefix(topic: str, position: int = 2) -> Prefix:
    history = (
        Turn(role="user", text=f"tell me about {topic}"),
        Turn(role="assistant", text=f"There are many {topic}. Most {topic} are old."),
    )
    return Prefix(
        id=f"{topic}@{position}",
        conversation=topic,
        cluster=topic,
        source="invented",
        position=position,
        history=history * (position - 1),
        goal=Goal(f"learn about {topic}"),
        text=f"which {topic} should i buy",
    )


PREFIXES = [prefix(topic) for topic in TOPICS]
PEOPLE = [p.text or "" for p in PREFIXES]
CLUSTERS = [p.cluster for p in PREFIXES]


class Letters:
    """Embedding of a text by how often it has each letter."""

    def embed(self, texts):
        counts = [[1.0 + text.lower().count(chr(ord("a") + k)) for k in range(26)] for text in texts]
        rows = np.array(counts, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_constant_difference_is_told_at_every_prefix_and_none_at_no_prefix():
    people = np.arange(6.0)[:, None]
    clusters = list("aabbcc")
    told = told_apart(people + 1, people, clusters, ridge=1.0)
    assert told.choices_P.tolist() == [1.0] * 6
    assert told_apart(people, people, clusters, ridge=1.0).choices_P.tolist() == [0.5] * 6


def test_no_pair_is_scored_by_a_fit_that_saw_its_cluster():
    # Each cluster differs in a feature of its own: telling it apart needs its own label.
    simulated = np.repeat(np.eye(5), 2, axis=0)
    told = told_apart(simulated, np.zeros_like(simulated), list("aabbccddee"), ridge=0.1)
    assert told.choices_P.tolist() == [0.5] * 10


def test_the_test_refits_under_swapped_labels():
    rng = np.random.default_rng(1)
    simulated, people = rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
    clusters = [f"person {i // 2}" for i in range(12)]
    told = told_apart(simulated, people, clusters, ridge=0.5, seed=3)
    swapped = np.isin(np.arange(12), [2, 3, 8, 9])
    one, two = np.where(swapped[:, None], people, simulated), np.where(swapped[:, None], simulated, people)
    refitted = told_apart(one, two, clusters, ridge=0.5, seed=3)
    signs = np.where(swapped, -1.0, 1.0)
    scores = signs * (told.smoother_PP @ signs)
    assert refitted.choices_P == pytest.approx((np.sign(scores) + 1) / 2)


def test_p_is_small_for_a_simulator_and_uniform_for_people():
    rng = np.random.default_rng(0)
    clusters = [str(i) for i in range(40)]
    everywhere = np.ones(40, dtype=bool)
    values = []
    for repeat in range(60):
        told = told_apart(
            rng.normal(size=(40, 4)), rng.normal(size=(40, 4)), clusters, ridge=1.0, seed=repeat
        )
        values.append(told.p(everywhere, rng, 199))
    assert np.mean(np.array(values) <= 0.1) <= 0.25
    assert 0.35 <= np.mean(values) <= 0.65
    people = rng.normal(size=(40, 4))
    told = told_apart(people + np.array([0.0, 2.0, 0.0, 0.0]), people, clusters, ridge=1.0)
    assert told.p(everywhere, rng, 999) == 0.001
    with pytest.raises(ValueError, match="no prefix"):
        told.p(~everywhere, rng)


def test_values_by_turn():
    prefixes = [prefix("bread", 1), prefix("soup", 2), prefix("chess", 3), prefix("music", 5)]
    people = np.zeros((4, 1))
    told = told_apart(people + 1, people, [p.cluster for p in prefixes], ridge=1.0)
    values = told.values("a", prefixes)
    assert list(values) == [spec.key for spec in told_apart_specs("a")]
    assert {key: v.denominator_P.sum() for key, v in values.items()} == {
        "told_apart.a.1": 1,
        "told_apart.a.2": 1,
        "told_apart.a.3+": 2,
        "told_apart.a.all": 4,
    }


def test_unpaired():
    clusters = [str(i // 2) for i in range(80)]
    is_first = np.arange(80) < 40
    pool = Unpaired(is_first[:, None] * 1.0, clusters, ridge=1.0)
    assert pool.auc(is_first) == 1.0
    assert pool.p(is_first, permutations=999) == 0.001
    same = Unpaired(np.ones((80, 1)), clusters, ridge=1.0)
    assert (same.auc(is_first), same.p(is_first, permutations=99)) == (0.5, 1.0)
    with pytest.raises(ValueError, match="both sides"):
        pool.p(np.arange(80) < 39)


def test_unpaired_p_of_people_is_uniform():
    rng = rng_for(0, "test")
    clusters = [str(i) for i in range(40)]
    pool = Unpaired(rng.normal(size=(40, 3)), clusters, ridge=1.0)
    values = [pool.p(rng.permutation(40) < 20, permutations=499) for _ in range(100)]
    assert np.mean(np.array(values) <= 0.1) <= 0.2
    assert 0.4 <= np.mean(values) <= 0.6


def test_two_people_are_needed():
    with pytest.raises(DataError, match="two people"):
        told_apart(np.ones((2, 1)), np.zeros((2, 1)), ["one", "one"], ridge=1.0)


@pytest.mark.parametrize("representation", [Lexical(), Embedded(Letters())], ids="ab")
def test_families(representation):
    """Rows do not depend on their company, and turns about something else are told apart."""
    people = representation.features(PREFIXES, PEOPLE)
    alone = representation.features(PREFIXES[3:4], PEOPLE[3:4])
    difference = people[3:4] - alone
    assert abs(difference).max() < 1e-6
    deaf = [PEOPLE[(i + 1) % len(PEOPLE)] for i in range(len(PEOPLE))]
    told = told_apart(representation.features(PREFIXES, deaf), people, CLUSTERS, ridge=representation.ridge)
    assert told.choices_P.mean() >= 0.8


def test_word_order_is_told_apart_by_the_lexical_family():
    lexical = Lexical()
    turned = [" ".join(reversed(text.split())) for text in PEOPLE]
    told = told_apart(
        lexical.features(PREFIXES, turned), lexical.features(PREFIXES, PEOPLE), CLUSTERS, ridge=lexical.ridge
    )
    assert told.choices_P.tolist() == [1.0] * len(PREFIXES)


def test_a_fitted_discriminator_scores_candidates_and_is_stored(tmp_path):
    polite = [f"Thank you! Please describe {topic}." for topic in TOPICS]
    fitted = Discriminator.fit(Lexical(), PREFIXES[:8], polite[:8], PEOPLE[:8])
    fitted.save(tmp_path / "a")
    loaded = Discriminator.load(tmp_path / "a", Lexical())
    assert (loaded.score(PREFIXES[8:], polite[8:]) > loaded.score(PREFIXES[8:], PEOPLE[8:])).all()
    with pytest.raises(DataError, match="family a, not b"):
        Discriminator.load(tmp_path / "a", Embedded(Letters()))


def test_longest_run():
    assert longest_run("Please buy the red bike now", ["sell the red bike", "a red"]) == 3
    assert longest_run("word", []) == 0
