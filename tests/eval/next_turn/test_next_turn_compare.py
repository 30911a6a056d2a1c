import numpy as np

from eval.next_turn.comparison import Measurement, against_null, claims, compare, margin_of, with_readings
from eval.next_turn.metrics.values import MetricSpec, Values
from eval.next_turn.prefixes import Prefix


def spec(key: str, **fields: object) -> MetricSpec:
    group = "coherence" if key.startswith("coherence") else "acts"
    return MetricSpec.model_validate({"key": key, "group": group, "label": key, "unit": "share", **fields})


def prefixes(n: int) -> list[Prefix]:
    return [
        Prefix(
            id=f"c{i}@2",
            conversation=f"c{i}",
            cluster=f"c{i}",
            source="s",
            position=2,
            history=(),
            goal=None,
            text="x",
        )
        for i in range(n)
    ]


def measured(key: str, ours: list[float], theirs: list[float], **fields: object) -> Measurement:
    found = compare(spec(key, **fields), Values.of(ours), Values.of(theirs), prefixes(len(ours)), seed=0)
    assert isinstance(found, Measurement)
    return found


def test_readings_more_less_like_people_and_not_told() -> None:
    people = [0.0, 1.0] * 100
    (more,) = with_readings([measured("acts.thanks", [1.0] * 200, people, is_share=True)])
    (less,) = with_readings([measured("acts.thanks", [0.0] * 200, people, is_share=True)])
    (same,) = with_readings([measured("acts.thanks", people, people, is_share=True)])
    (few,) = with_readings([measured("acts.thanks", [1.0, 0.0, 1.0], [0.0, 1.0, 0.0], is_share=True)])
    assert [more.reading, less.reading, same.reading, few.reading] == [
        "more",
        "less",
        "like people",
        "not told",
    ]


def test_holm_counts_all_metrics_of_the_simulator() -> None:
    one = measured("acts.thanks", [1.0] * 12, [0.0, 1.0] * 6, is_share=True)
    alone, together = with_readings([one])[0], with_readings([one] * 20)[0]
    assert together.p_holm == min(1.0, 20 * alone.p)


def test_two_scorers_that_disagree_claim_nothing() -> None:
    people = list(np.tile([10.0, 20.0], 50))
    lm = measured("coherence.answer.lm", [0.0] * 100, people, scorer="lm")
    embedding = measured("coherence.answer.embedding", people, people, scorer="embedding")
    (claim,) = claims(with_readings([lm, embedding]))
    assert (claim.key, claim.reading, claim.disagree) == ("coherence.answer", "not told", True)
    (claim,) = claims(with_readings([lm]))
    assert (claim.reading, claim.disagree) == ("less", False)


def test_prefixes_where_one_side_is_undefined_are_left_out_of_both() -> None:
    found = compare(
        spec("acts.answers", is_share=True),
        Values.of([1.0, None, 1.0, 0.0]),
        Values.of([0.0, 1.0, None, 1.0]),
        prefixes(4),
        seed=0,
    )
    assert isinstance(found, Measurement)
    assert (found.prefixes, found.simulated.value, found.people and found.people.value) == (2, 0.5, 0.5)


def test_what_is_defined_nowhere_says_so() -> None:
    assert (
        compare(spec("acts.x"), Values.of([None]), Values.of([1.0]), prefixes(1), 0) == "defined at no prefix"
    )


def test_a_forced_choice_is_read_against_one_half() -> None:
    found = against_null(
        spec("told_apart.a.all", group="indistinguishability", is_share=True),
        Values.of([1.0] * 60),
        0.5,
        prefixes(60),
        0,
    )
    assert isinstance(found, Measurement)
    assert found.people is None
    assert found.null == 0.5
    assert found.difference.value == 0.5
    assert found.p < 0.001


def test_margins_are_in_the_metrics_own_unit() -> None:
    assert margin_of(spec("coherence.answer.lm", scorer="lm")) == 3.0
    assert margin_of(spec("coherence.answer.embedding", scorer="embedding")) == 0.03
    assert margin_of(spec("told_apart.a.all", group="indistinguishability")) == 0.05
    assert margin_of(spec("acts.thanks")) == 0.03
