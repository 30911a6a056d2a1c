"""The embedded task, contexts from files, and pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collab_train.contexts import Context, read_contexts
from collab_train.pairs import build_pairs
from collab_train.results import CandidateMR, ContextMR
from collab_train.served import serves
from collab_train.tasks import get_task, names
from usersim.errors import ConfigError, DataError
from usersim.types import Facet, Goal, Turn

CONTEXTS = get_task("hidden_facets").contexts()


def facets(context: Context) -> tuple[Facet, ...]:
    assert context.profile.goal is not None
    return context.profile.goal.facets


def test_the_embedded_task_has_goals_of_three_or_four_facets_on_eight_topics() -> None:
    assert len(CONTEXTS) >= 60
    assert len({c.id for c in CONTEXTS}) == len(CONTEXTS)
    assert len({c.topic for c in CONTEXTS}) == 8
    assert all(3 <= len(facets(c)) <= 4 for c in CONTEXTS)


def test_whole_topics_are_held_out() -> None:
    train, heldout = ({c.topic for c in CONTEXTS if c.split == split} for split in ("train", "heldout"))
    assert train
    assert heldout
    assert not train & heldout


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda c: c.id)
def test_facets_are_hidden_until_said_and_recognised_when_served(context: Context) -> None:
    goal = context.profile.goal
    assert goal is not None
    for facet, phrases in zip(facets(context), context.phrases, strict=True):
        # Neither the summary nor the opening gives a facet away, in whatever form.
        assert not serves(goal.summary + ".", facet, phrases)
        assert not serves(context.turns[0].text.replace("?", "") + " .", facet, phrases)
        given = [f"Here it is: {phrase.rstrip('*')}." for phrase in phrases]
        assert all(serves(text, facet, phrases) for text in given)
        assert not any(serves(text[:-1] + "?", facet, phrases) for text in given)


def test_an_unknown_task_is_refused_by_name() -> None:
    assert "hidden_facets" in names()
    with pytest.raises(ConfigError, match=r"no task 'nosuch'; there are .*hidden_facets"):
        get_task("nosuch")


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_contexts_from_a_file_take_plain_goals_and_chat_messages(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "messages": [{"role": "user", "content": "hi"}],
        "goal": {"summary": "plan a trip", "facets": [{"text": "by train"}]},
        "persona": "terse",
        "candidates": ["Where to?"],
    }
    (context,) = read_contexts(lines(tmp_path / "c.jsonl", row))
    assert context.turns == (Turn(role="user", text="hi"),)
    assert context.profile.goal == Goal(summary="plan a trip", facets=(Facet(text="by train"),))
    assert context.profile.persona is not None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"turns": [{"role": "assistant", "text": "hi"}]}, "must end with the user's turn"),
        ({"turns": []}, "must end with the user's turn"),
        ({"candidates": [" "]}, "candidates"),
        ({"colour": "red"}, "colour"),
        ({"turns": ["hi"]}, "needs an object"),
        ({"phrases": [["a"], ["b"]]}, "2 lists of phrases for 0 facets"),
    ],
)
def test_a_bad_context_is_named_by_file_and_line(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    good = {"id": "a", "turns": [{"role": "user", "text": "hi"}]}
    path = lines(tmp_path / "c.jsonl", good, {**good, "id": "b", **change})
    with pytest.raises(DataError, match=rf"c\.jsonl:2: .*{complaint}"):
        read_contexts(path)


def scored(*rewards: float | None) -> ContextMR:
    return ContextMR(
        id="a", candidates=tuple(CandidateMR(text=f"reply {i}", mr=mr, n=2) for i, mr in enumerate(rewards))
    )


def test_pairs_are_best_against_worst_from_the_margin_on() -> None:
    context = Context(id="a", turns=(Turn(role="user", text="hi"),), system="Be brief.")
    pairs = build_pairs([context], [scored(0.25, None, 0.5, 0.0)], margin=0.5)
    (pair,) = pairs.made
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("reply 2", "reply 3")
    assert [(m.role, m.content) for m in pair.prompt] == [("system", "Be brief."), ("user", "hi")]
    assert (pair.mr_chosen, pair.mr_rejected) == (0.5, 0.0)
    assert not build_pairs([context], [scored(0.5, 0.25)], margin=0.375).made


def test_ties_and_single_candidates_make_no_pair_even_without_a_margin() -> None:
    context = Context(id="a", turns=(Turn(role="user", text="hi"),))
    tied = build_pairs([context], [scored(0.5, 0.5)], margin=0.0)
    assert (tied.made, dict(tied.left_out)) == ([], {"rewards too close": 1})
    alone = build_pairs([context], [scored(0.5, None)], margin=0.0)
    assert dict(alone.left_out) == {"fewer than two scored candidates": 1}
