"""Personas that give the goal away, found out and masked, with embeddings that are bags of words."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data_prep.personas import goal_leak as persona_leak
from data_prep.personas.goal_leak import (
    distractors,
    expected_hits,
    lexical_retrieval,
    mask_personas,
    mean_with_interval,
    retrieval,
)
from data_prep.personas.masking import candidates, without
from usersim.errors import DataError
from usersim.text import embeddings as embedding
from usersim.text.embeddings import Vectors

TOPICS = (
    "bread",
    "guitar",
    "taxes",
    "roses",
    "chess",
    "soup",
    "bikes",
    "stars",
    "maps",
    "boats",
    "bees",
    "kites",
)
MANNERS = ("terse", "polite", "verbose", "hasty")


def bags(texts: Sequence[str]) -> Vectors:
    """Each word a fixed random direction; the mean, normalised."""
    out = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in candidates(text):
            out[row] += direction(word)
        out[row] += 1e-3
    unit: Vectors = out / np.linalg.norm(out, axis=1, keepdims=True)
    return unit


@cache
def direction(word: str) -> Vectors:
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=256).astype(np.float32)


def people(n: int) -> dict[str, tuple[str, str]]:
    """Every second persona names the topic of its goal."""
    rng = random.Random(3)
    by_id = {}
    for number in range(n):
        topic, manner = f"{rng.choice(TOPICS)}{number % 40}", rng.choice(MANNERS)
        persona = f"fan of {topic}; {manner}" if number % 2 else f"student; {manner}"
        by_id[f"c{number}"] = (persona, f"learn about {topic}")
    return by_id


def test_distractors_are_nine_others() -> None:
    choices = distractors(30, seed=1)
    assert choices.shape == (30, 9)
    for row, others in enumerate(choices):
        assert row not in others
        assert len(set(others)) == 9
    assert (choices == distractors(30, seed=1)).all()
    assert sorted(distractors(3, seed=0)[1]) == [0, 2]


def test_a_persona_that_is_the_goal_is_found_and_an_empty_one_is_a_guess() -> None:
    goals = [f"learn {topic}" for topic in TOPICS]
    assert retrieval(goals, goals, seed=0, embed=bags).rate == 1
    assert retrieval([""] * 12, goals, seed=0, embed=bags).rate == pytest.approx(0.1)


def test_equal_personas_find_at_chance() -> None:
    goals = [f"learn {topic}{number}" for topic in TOPICS for number in range(50)]
    measured = retrieval(["somebody"] * 600, goals, seed=0, embed=bags)
    assert measured.low < 0.1 < measured.high
    assert measured.n == 600


def test_ties_share_the_find() -> None:
    scores = persona_leak._top_scores(
        np.array([1.0, 1.0, 0.5]), np.array([[0.2, 1.0], [0.1, 0.2], [0.5, 0.6]])
    )
    assert list(scores) == [0.5, 1, 0]


def test_the_interval_holds_the_mean_and_narrows_with_n() -> None:
    few = mean_with_interval(np.array([0.0, 1.0] * 20), seed=0)
    many = mean_with_interval(np.array([0.0, 1.0] * 2000), seed=0)
    assert few.low < 0.5 < few.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_expected_is_the_chance_that_no_nearer_goal_is_drawn() -> None:
    """Eleven goals, one other nearer than the own: drawn with probability 9 of 10."""
    goals = np.zeros((11, 2), dtype=np.float32)
    goals[0], goals[1] = (0.5, 0), (0.9, 0)
    persona = np.array([[1, 0]], dtype=np.float32)
    assert expected_hits(persona, np.array([0]), goals) == pytest.approx([0.1])
    assert expected_hits(persona, np.array([1]), goals) == pytest.approx([1.0])


def test_masking_takes_the_topic_and_leaves_the_manner() -> None:
    pairs = people(400)
    masked = mask_personas(pairs, target=0.25, embed=bags)
    assert masked.before.rate > 0.5
    assert masked.after.rate <= 0.25
    assert masked.words_masked > 0
    ids = sorted(pairs)
    goals = [pairs[id_][1] for id_ in ids]
    for seed in (1, 2, 3):
        texts = [masked.personas[id_] for id_ in ids]
        assert retrieval(texts, goals, seed=seed, embed=bags).rate <= 0.25
    assert lexical_retrieval([pairs[id_][0] for id_ in ids], goals, seed=5).rate > 0.5
    assert lexical_retrieval(texts, goals, seed=5).rate <= 0.25
    untouched = [id_ for number, id_ in enumerate(pairs) if number % 2 == 0]
    assert sum(masked.personas[id_] == pairs[id_][0] for id_ in untouched) > 0.8 * len(untouched)
    assert set(masked.personas) == set(pairs)


def test_masking_is_deterministic_and_takes_nothing_below_the_target() -> None:
    pairs = people(120)
    assert mask_personas(pairs, embed=bags) == mask_personas(dict(reversed(pairs.items())), embed=bags)
    harmless = {id_: ("terse", goal) for id_, (_, goal) in pairs.items()}
    unmasked = mask_personas(harmless, embed=bags)
    assert unmasked.personas == dict.fromkeys(pairs, "terse")
    assert (unmasked.words_masked, unmasked.dropped) == (0, 0)


def test_a_persona_of_nothing_but_the_topic_is_emptied() -> None:
    pairs = {f"c{n}": (topic, f"about {topic}") for n, topic in enumerate(TOPICS)}
    masked = mask_personas(pairs, embed=bags)
    assert masked.before.rate == 1
    assert masked.after.rate <= 0.25
    assert masked.dropped >= 9
    assert "" in masked.personas.values()


def test_personas_without_words_stay_and_do_not_count() -> None:
    masked = mask_personas({**people(100), "none": ("  ", "learn about owls")}, embed=bags)
    assert masked.personas["none"] == "  "
    assert masked.before.n == 100


def test_one_persona_is_too_few() -> None:
    with pytest.raises(DataError, match="two or more"):
        mask_personas({"a": ("terse", "bake")}, embed=bags)


def test_masks_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(embedding, "wheel_folder", lambda: tmp_path)
    monkeypatch.setattr(embedding, "embed", bags)
    first = mask_personas(people(60))
    monkeypatch.setattr(embedding, "embed", None)
    assert mask_personas(people(60)) == first
    with pytest.raises(TypeError):
        mask_personas(people(61))


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("student of chemistry; terse", "chemistry", "student; terse"),
        ("training course reviewer; polite", "course", "training reviewer; polite"),
        ("Java programmer or tester; short", "tester", "Java programmer; short"),
        ("Java programmer or tester; short", "programmer", "Java or tester; short"),
        ("moving from Excel to Python; lower case", "excel", "moving to Python; lower case"),
        ("moving from Excel to Python; lower case", "python", "moving from Excel; lower case"),
        ("beekeeper; short, blunt", "beekeeper", "short, blunt"),
        ("short, about bees, blunt", "bees", "short, blunt"),
        ("a fan of the C++ world (old)", "c++", "a fan of the world (old)"),
        ("bees", "bees", ""),
        ("Node.js learner. Terse.", "node.js", "learner. Terse"),
        ("polite; loves bees.", "wasps", "polite; loves bees"),
    ],
)
def test_text_without_a_word_reads_on(text: str, gone: str, left: str) -> None:
    assert without(text, {gone}) == left


def test_words_that_say_nothing_are_no_candidates() -> None:
    assert candidates("The owner of a bakery, and of a bakery") == ["owner", "bakery"]
