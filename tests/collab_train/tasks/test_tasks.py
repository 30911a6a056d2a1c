"""The embedded task, tasks from files, contexts from files, and pairs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from collab_train.contexts import Context, read_contexts
from collab_train.rewards import EXTRINSIC, Episode, check
from collab_train.rollout.accounting.results import CandidateMR, ContextMR
from collab_train.tasks import get_task, names
from collab_train.trainers.pairs import build_pairs
from usersim.errors import ConfigError, DataError
from usersim.text.facets import serves
from usersim.types import Conversation, Facet, Goal, Turn

CONTEXTS = get_task("hidden_facets").contexts()
GENERIC = (
    "I'd be happy to help you with that! Here are some tips that may be useful for you.",
    "That sounds like a great idea, thank you for sharing it with me, I really appreciate it.",
    "There are many options to choose from, and the best one will depend on your budget, your time and your taste.",
    "It is best to start small, keep it simple and take your time; over time you will see progress.",
    "First, think about what you want. Second, make a list. Third, set a date and stick to it.",
    "You may also look online or ask your friends and your family together, or look for a friendly local group.",
    "Make sure to plan in advance and ahead of time, and remember to have fun and enjoy the moment.",
    "Every person is different, so it is a good idea to talk to a professional first.",
    "Here is a simple step by step plan: do some research, compare prices, read reviews, and choose what suits you.",
    "Try it for an hour in the morning or in the evening, on a weekday or at the weekend, at home or outside.",
    "If you run into trouble, do not worry, you can always try again with a fresh mind and a plain, calm approach.",
    "I am sorry to hear that; it must be hard for you, and I hope that things get better soon.",
    "Good quality costs a little more, but it lasts longer and is worth the money in the long run.",
    "Use your phone or a notebook to write things down, and look at the best way to handle each of them.",
    "Keep the area clean and dry, use the right tools, wear gloves and a mask, and follow the instructions.",
    "A short and clear message with a polite tone works best: Dear Sir or Madam, I hope you are well. Kind regards.",
    "Set a realistic goal, break it down into small pieces, and reward yourself every day or every week.",
    "Be patient, stay positive, drink plenty of water, eat well, rest and get enough sleep.",
    "You can use a computer, a tablet or a mobile phone, or you can do it by hand on paper.",
    "Consider the size, the weight, the colour, the price and the features, and read the manual before you begin.",
    "It is important to be safe, so ask for help if you are not sure, and see an expert where there is a problem.",
    "There is a wide range of styles: classic, modern, traditional, elegant, casual, formal and creative.",
    "Sure, I can do that! Please give me some more information so that I can give you the best answer.",
    "As a large language model I do not have personal experience, but I can give you general information.",
    "Overall, it is a matter of practice, patience and good communication between the people involved.",
    "You could also watch videos, take a class, join a club, read a book or visit a shop in your area.",
    "Bring snacks and drinks, invite people early, decorate the room and prepare some music and games.",
    "I have some good news: it is easier than you think, and it will not take long, two or three days at most.",
    "It used to be difficult, but these days there is an app or a website for nearly everything.",
    "For example, you could begin with a warm-up, then move on to the main part, and finish with a short break.",
)
"""Replies that could stand in any conversation."""


def facets(context: Context) -> tuple[Facet, ...]:
    assert context.profile.goal is not None
    return context.profile.goal.facets


def test_the_embedded_task_has_over_two_hundred_goals_of_three_or_four_facets() -> None:
    assert len(CONTEXTS) >= 200
    assert len({c.id for c in CONTEXTS}) == len(CONTEXTS)
    assert len({c.turns[0].text for c in CONTEXTS}) == len(CONTEXTS)
    assert len({c.topic for c in CONTEXTS}) >= 12
    assert all(3 <= len(facets(c)) <= 4 for c in CONTEXTS)


def test_whole_topics_are_held_out() -> None:
    train, heldout = ({c.topic for c in CONTEXTS if c.split == split} for split in ("train", "heldout"))
    assert len(train) >= 12
    assert len(heldout) >= 4
    assert not train & heldout
    assert sum(c.split == "heldout" for c in CONTEXTS) >= 50


@pytest.mark.parametrize("topic", sorted({c.topic for c in CONTEXTS}))
def test_facets_are_hidden_until_said_and_recognised_when_served(topic: str) -> None:
    for context in (c for c in CONTEXTS if c.topic == topic):
        goal = context.profile.goal
        assert goal is not None
        for facet, phrases in zip(facets(context), context.phrases, strict=True):
            where = f"{context.id}: {facet.text}"
            # Neither the summary nor the opening gives a facet away, in whatever form.
            assert not serves(goal.summary + ".", facet, phrases), where
            assert not serves(context.turns[0].text.replace("?", "") + " .", facet, phrases), where
            given = [f"Here it is: {phrase.rstrip('*')}." for phrase in phrases]
            assert all(serves(text, facet, phrases) for text in given), where
            assert not any(serves(text[:-1] + "?", facet, phrases) for text in given), where


def coverage_of(context: Context, *texts: str) -> float:
    turns = [
        *context.turns,
        *(Turn(role="user" if at % 2 else "assistant", text=text) for at, text in enumerate(texts)),
    ]
    made = Conversation(id="f", origin="simulated", source="t", turns=tuple(turns))
    return EXTRINSIC["facet_coverage"].score(Episode(context, made))  # type: ignore[no-any-return]


@pytest.mark.parametrize("reply", GENERIC, ids=range(len(GENERIC)))
def test_advice_that_fits_everything_earns_nothing(reply: str) -> None:
    assert not [c.id for c in CONTEXTS if coverage_of(c, reply)]


def test_asking_restating_and_saying_back_earn_nothing_and_serving_earns_everything() -> None:
    for context in CONTEXTS:
        wishes = [facet.text for facet in facets(context)]
        phrases = [listed[0].rstrip("*") for listed in context.phrases]
        told = ", ".join(phrases) + ", " + ", ".join(wishes)
        asked = " ".join(f"Is it {phrase}?" for phrase in phrases)
        assert coverage_of(context, asked) == 0, context.id
        back = [f"So you want {phrase}." for phrase in phrases]
        assert coverage_of(context, "What matters to you?", told, "\n".join(back)) == 0, context.id
        parroted = "\n".join(f"Okay, {phrase}." for phrase in phrases)
        assert coverage_of(context, "What matters to you?", told, parroted) == 0, context.id
        served = "\n".join(f"Choose one with {phrase} beforehand." for phrase in phrases)
        assert coverage_of(context, "What matters to you?", told, served) == 1, context.id


def test_an_unknown_task_is_refused_by_name() -> None:
    assert "hidden_facets" in names()
    with pytest.raises(ConfigError, match=r"unknown task 'nosuch'; choose one of .*hidden_facets"):
        get_task("nosuch")


def test_a_path_is_for_tasks_that_read_one(tmp_path: Path) -> None:
    own = lines(
        tmp_path / "goals.jsonl",
        {
            "id": "a",
            "topic": "tea",
            "summary": "buy tea",
            "opening": "which tea",
            "split": "heldout",
            "facets": [{"text": "no caffeine", "phrases": ["rooibos"]}],
        },
    )
    (context,) = get_task("hidden_facets", str(own)).contexts()
    assert (context.split, context.phrases) == ("heldout", (("rooibos",),))
    with pytest.raises(DataError, match=r"bad\.jsonl:1: needs id, topic"):
        get_task("hidden_facets", str(lines(tmp_path / "bad.jsonl", {"id": "a"}))).contexts()


@pytest.mark.parametrize("name", [name for name in names() if name != "hidden_facets"])
def test_a_task_of_others_data_says_what_to_do_without_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"task {name}: set task_path=FILE"):
        get_task(name).contexts()
    with pytest.raises(ConfigError, match="no such file"):
        get_task(name, str(tmp_path / "missing.jsonl")).contexts()
    with pytest.raises(DataError, match="no rows in it"):
        get_task(name, str(lines(tmp_path / "empty.jsonl"))).contexts()
    if name not in ("document_editing", "simulatorarena_documents", "simulatorarena_math"):
        bad = str(lines(tmp_path / "bad.jsonl", {"colour": "red"}, {"colour": "blue"}))
        with pytest.raises(DataError, match=r"bad\.jsonl: row 0 has no"):
            get_task(name, bad).contexts()


ROWS: dict[str, dict[str, object]] = {
    "gsm8k": {
        "question": "Ann has 3 eggs. She buys 4. How many are there?",
        "answer": "3+4=<<3+4=7>>7\n#### 7",
    },
    "math_hard": {
        "problem": "Let $x=3$. What is $x^2$?",
        "level": "Level 5",
        "type": "Algebra",
        "solution": r"It is $\boxed{9}$.",
    },
    "bigcodebench": {
        "task_id": "B/0",
        "instruct_prompt": "Adds one. Raises nothing.\nYou should write self-contained code starting with:\n```x```",
        "code_prompt": "import math\ndef task_func(x):\n",
        "test": "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n",
        "entry_point": "task_func",
        "libs": "['math']",
    },
    "document_editing": {
        "title": "On tea",
        "text": "Tea is old. It is drunk.\n\nMilk came later.\n\nSo it is" + " so" * 50,
    },
    "abg_coqa": {
        "id": "s",
        "story": "A red book and a green book.",
        "history_turns": [{"question": "what is there?", "answer": "books"}],
        "target_turn": {"question": "what colour?", "answer": "green"},
        "ambiguity": "ambiguous",
        "clarification_turn": {
            "question": "Which?",
            "answers": [
                {"clr_ans": "the first", "org_ans": "red"},
                {"clr_ans": "the second", "org_ans": "green"},
            ],
        },
    },
    "simulatorarena_math": {
        "user_queries": ["how do i maximise it"],
        "turk_final_answer": "There are 4 of them",
        "problem_1_correctness": "correct",
        "type": "Algebra",
        "math_expertise": "undergrad",
    },
    "simulatorarena_documents": {
        "user_queries": ["i need a letter"],
        "intent": "Apology: Write a letter.",
        "document_type": "email",
        "bullet_points_responses": ["to Susan", " "],
        "document_history": ["Dear", "Dear Susan, I am sorry."],
    },
}


def from_row(name: str, path: Path) -> Context:
    task = get_task(name, str(lines(path / "rows.jsonl", ROWS[name])))
    (context,) = task.contexts()
    check([context], task.rewards)
    return context


def test_every_task_that_reads_files_makes_contexts_its_rewards_can_score(tmp_path: Path) -> None:
    assert sorted(ROWS) == [name for name in names() if name != "hidden_facets"]
    made = {name: from_row(name, tmp_path) for name in ROWS}
    told = {name: [facet.text for facet in facets(context)] for name, context in made.items()}
    assert told["gsm8k"] == ["Ann has 3 eggs.", "She buys 4.", "How many are there?"]
    assert (made["gsm8k"].metadata, made["math_hard"].metadata) == ({"answer": "7"}, {"answer": "9"})
    assert told["bigcodebench"] == ["Adds one.", "Raises nothing."]
    assert "def task_func(x):" in made["bigcodebench"].turns[0].text
    assert told["document_editing"][:2] == ["Tea is old.", "Milk came later."]
    assert told["abg_coqa"] == ["the second"]
    assert [turn.role for turn in made["abg_coqa"].turns] == ["user", "assistant", "user"]
    assert made["abg_coqa"].metadata == {"ambiguous": "yes", "answer": "green"}
    assert made["simulatorarena_math"].metadata == {"answer": "4"}
    assert (told["simulatorarena_documents"], made["simulatorarena_documents"].reference) == (
        ["to Susan"],
        "Dear Susan, I am sorry.",
    )


def test_openings_of_problems_give_no_figure_away(tmp_path: Path) -> None:
    for name in ("gsm8k", "math_hard"):
        assert not any(character.isdigit() for character in from_row(name, tmp_path).turns[0].text)


def test_rows_come_in_json_gzip_and_parquet_alike(tmp_path: Path) -> None:
    row = ROWS["gsm8k"]
    whole, packed, columns = (tmp_path / name for name in ("a.json", "a.jsonl.gz", "a.parquet"))
    whole.write_text(json.dumps({"version": "1", "data": [row, row]}), encoding="utf-8")
    packed.write_bytes(gzip.compress(f"{json.dumps(row)}\n{json.dumps(row)}\n".encode()))
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet.write_table(pyarrow.Table.from_pylist([row, row]), columns)
    made = [get_task("gsm8k", str(path)).contexts() for path in (whole, packed, columns)]
    assert len(made[0]) == 2
    assert made[0] == made[1] == made[2]


def lines(path: Path, *rows: Mapping[str, object]) -> Path:
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
    (pair,) = pairs.pairs
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("reply 2", "reply 3")
    assert [(m.role, m.content) for m in pair.prompt] == [("system", "Be brief."), ("user", "hi")]
    assert (pair.mr_chosen, pair.mr_rejected) == (0.5, 0.0)
    assert not build_pairs([context], [scored(0.5, 0.25)], margin=0.375).pairs


def test_ties_and_single_candidates_make_no_pair_even_without_a_margin() -> None:
    context = Context(id="a", turns=(Turn(role="user", text="hi"),))
    tied = build_pairs([context], [scored(0.5, 0.5)], margin=0.0)
    assert (tied.pairs, dict(tied.left_out)) == ([], {"rewards too close": 1})
    alone = build_pairs([context], [scored(0.5, None)], margin=0.0)
    assert dict(alone.left_out) == {"fewer than two scored candidates": 1}
