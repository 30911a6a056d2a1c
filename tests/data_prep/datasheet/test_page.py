"""Datasheet page: one HTML page that fetches nothing; without text, no words of people."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from data_prep.datasheet.page import render_datasheet, without_folders
from data_prep.datasheet.page_plots import bars, number, overlaid, steps
from data_prep.datasheet.page_splits import by_chance, distance, sizes, summed
from data_prep.datasheet.profile import Profile, across
from usersim.types import Conversation, Facet, Goal, Persona, Style, Turn, UserProfile

VOID = {"meta", "br"}


class Tags(HTMLParser):
    """Fails on a tag that is closed by another."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [
            f"{name}={value}" for name, value in attrs if name in ("src", "href", "onclick", "onload")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def conversation(id_: str, text: str = "SAID <b>hi</b>", **changes: Any) -> Conversation:
    turns = (Turn(role="user", text=text), Turn(role="assistant", text="REPLIED & left"))
    goal = Goal(
        summary=f"WANTED <i>{id_}</i>", facets=(Facet(text="FACETED", turn=1),), provenance="goals_file"
    )
    persona = Persona(description="PERSONAL", style=Style(questions=0.25, typos=1.5))
    fields = {"id": id_, "origin": "human", "source": "corpus_a", "turns": turns, "ended_by": "user"}
    fields |= {"profile": UserProfile(goal=goal, persona=persona), "group": id_, "system": "SYSTEMATIC"}
    return Conversation.model_validate(fields | changes)


@pytest.fixture
def profiles() -> dict[str, Profile]:
    by_split = {name: Profile(examples=3) for name in ("train", "dev", "test")}
    for at in range(6):
        by_split["train"].add(conversation(f"t{at}"))
    by_split["test"].add(conversation("x", satisfied="no", flags=("toxic",)))
    return by_split


@pytest.fixture
def sheet(profiles: dict[str, Profile]) -> dict[str, Any]:
    source = {
        "name": "corpus_a",
        "spec": "messages:/srv/private/logs/a.jsonl",
        "counts": {"rows": 12},
        "malformed": {"not JSON": 2},
        "malformed_examples": ["/srv/private/logs/a.jsonl:3: MALFORMED"],
        "stopped": {"byte": 120, "error": "the file ends inside the JSON"},
    }
    return {
        "sources": [source],
        "held_out": [{**source, "name": "corpus_b", "malformed": {}}],
        "source_notes": {"corpus_a": "CC0, by <us>"},
        "steps": [
            {"step": "role repair", "in": 10, "kept": 9, "rejected": {"turns do not alternate": 1}},
            {"step": "duplicates", "in": 9, "kept": 7, "rejected": {"near-duplicate": 2}},
        ],
        "changed": {"personal data": {"EMAIL": 4, "PHONE": 1}},
        "duplicates": {"chats": 9, "templates": {"OPENING of a template": 5}},
        "goals": {"joined": 7, "provenance": {"goals_file": 7}, "example": "GOALTEXT"},
        "personas": {
            "before": {"rate": 0.6, "low": 0.5, "high": 0.7, "n": 7},
            "words_masked": 31,
            "masked": {"MASKED": 3},
            "kept": ["LISTED"],
        },
        "splits": {name: profile.summary() for name, profile in profiles.items()},
        "across_splits": across(profiles),
        "seed": 0,
        "settings": {"out": "/srv/private/out", "goals": ["/srv/private/goals.jsonl"]},
        "versions": {"python": "3.11"},
        "seconds": 12.5,
        "command": "usersim prep /srv/private/logs/a.jsonl --out out",
    }


WRITTEN = (
    *("SAID", "REPLIED", "WANTED", "FACETED", "PERSONAL", "SYSTEMATIC", "MALFORMED", "OPENING", "GOALTEXT"),
    *("MASKED", "LISTED", "/srv", "private"),
)


def examples(profiles: dict[str, Profile]) -> dict[str, list[Conversation]]:
    return {name: profile.examples for name, profile in profiles.items()}


def test_the_page_is_whole_and_fetches_nothing(sheet: dict[str, Any], profiles: dict[str, Profile]) -> None:
    for text in (True, False):
        page = render_datasheet(sheet, examples(profiles), text=text)
        tags = parsed(page)
        assert "script" not in tags.seen
        assert tags.links == []
        assert not {"http", "@import", "url("} & {
            word for word in ("http", "@import", "url(") if word in page
        }


def test_it_says_what_was_kept_and_why_the_rest_was_not(sheet: dict[str, Any]) -> None:
    page = render_datasheet(sheet, None, text=True)
    for phrase in (
        "7 of 10 conversations",
        "1 turns do not alternate",
        "2 near-duplicate",
        "2 not JSON",
        "the file breaks off",
        "CC0, by &lt;us&gt;",
        "corpus_b: not stated",
        "EMAIL",
        "0 groups and 0 users in more than one split",
        "usersim prep",
        "Typos",
        "goals_file",
    ):
        assert phrase in page


def test_text_is_escaped_and_on_the_page(sheet: dict[str, Any], profiles: dict[str, Profile]) -> None:
    page = render_datasheet(sheet, examples(profiles), text=True)
    assert all(
        word in page for word in ("SAID &lt;b&gt;hi", "REPLIED &amp; left", "WANTED &lt;i&gt;", "FACETED")
    )
    assert all(word in page for word in ("PERSONAL", "SYSTEMATIC", "MALFORMED"))
    assert "<b>hi" not in page


def test_without_text_nothing_that_anybody_wrote_is_there(
    sheet: dict[str, Any], profiles: dict[str, Profile]
) -> None:
    page = render_datasheet(sheet, examples(profiles), text=False)
    assert [word for word in WRITTEN if word in page] == []
    assert "made with <code>--no-text</code>" in page
    assert all(
        word in page for word in ("a.jsonl", "near-duplicate", "goals_file", "<b>0.60</b> [0.50, 0.70]", "31")
    )


def test_a_crossing_group_is_in_red(sheet: dict[str, Any], profiles: dict[str, Profile]) -> None:
    profiles["test"].add(conversation("t1"))
    page = render_datasheet(sheet | {"across_splits": across(profiles)}, None, text=False)
    assert '<b class="different">1 groups and 0 users in more than one split' in page


@pytest.mark.parametrize(
    "missing", [None, "sources", "steps", "splits", "settings", "goals", "changed", "held_out"]
)
def test_missing_keys_leave_a_page(sheet: dict[str, Any], missing: str | None) -> None:
    remaining = {} if missing is None else {name: value for name, value in sheet.items() if name != missing}
    parsed(render_datasheet(remaining, None, text=True))
    parsed(render_datasheet(remaining, {}, text=False))


def test_a_sheet_of_before_profiles_is_still_shown() -> None:
    old = {
        "source": {"name": "corpus_a", "spec": "a.jsonl", "counts": {}, "malformed": {}},
        "splits": {"train": {"conversations": 3, "user_turns": 9, "with_goal": 1, "groups": 3}},
    }
    assert "corpus_a: datasheet" in render_datasheet(old, None, text=True)


def test_folders_of_the_machine_are_left_out() -> None:
    settings = {
        "out": "/srv/me/out",
        "specs": ["messages:/srv/me/a.jsonl", "data/b.jsonl", "../c/d"],
        "seed": 3,
    }
    assert without_folders(settings) == {
        "out": "out",
        "specs": ["messages:a.jsonl", "data/b.jsonl", "../c/d"],
        "seed": 3,
    }
    assert without_folders("usersim prep ~/logs/a.jsonl --goals='/srv/g.jsonl'") == (
        "usersim prep a.jsonl --goals='g.jsonl'"
    )


def shape(*counts: int) -> dict[str, Any]:
    return {
        "bins": [str(n) for n in range(len(counts))],
        "counts": list(counts),
        "n": sum(counts),
        "median": 1,
    }


def test_distance_is_the_largest_difference_of_the_sums() -> None:
    # 0.5, 0.75, 1 against 0.25, 0.75, 1.
    assert distance(shape(2, 1, 1), shape(1, 2, 1)) == pytest.approx(0.25)
    assert distance(shape(2, 4), shape(1, 2)) == 0
    assert by_chance(100, 100) == pytest.approx(0.192, abs=0.001)


def test_splits_further_apart_than_chance_are_in_red() -> None:
    def section(*test: int) -> str:
        turns = {"train": shape(100, 100), "test": shape(*test)}
        return sizes(
            {}, {name: {"conversations": 1, "user_turns_per_conversation": s} for name, s in turns.items()}
        )

    # By chance 0.19: 1.358 · sqrt(300 / 20,000) for 200 and 100.
    assert "different" not in section(60, 40)
    assert '<b class="different">30 %</b>' in section(80, 20)


def test_what_is_hidden_in_the_rest_of_one_split_is_in_the_rest_of_all() -> None:
    splits = {"train": {"x": {"en": 9, "de": 5, "other": 3}}, "dev": {"x": {"en": 1, "fr": 2}}, "test": {}}
    assert summed(splits, "x") == {"en": 10, "de": 5, "other": 5}
    assert summed({"train": {"x": {"en": 9}}, "dev": {"x": {"fr": 2}}}, "x") == {"en": 9, "fr": 2}


def test_plots_of_little() -> None:
    assert "None." in overlaid("x", {"train": shape(0, 0, 0)})
    for counts in ((0, 0, 5), (5, 0, 0), (0, 5, 0)):
        plot = overlaid("x", {"train": shape(*counts), "test": shape(0, 0, 0)})
        assert (plot.count("<polyline"), plot.count("<title>")) == (1, 2)
    # The second split keeps its colour when the first is empty.
    assert 'class="c1"' in overlaid("x", {"train": shape(0, 0), "test": shape(1, 2)})
    assert "width:50.0%" in bars({"a": 4, "b": 2})
    assert "width:25.0%" in bars({"b": 2}, of=8)
    parsed(steps([{"step": "none", "in": 0, "kept": 0, "rejected": {}}]))


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234, "1,234"), (0.25, "0.25"), (3.0, "3"), (4467.75, "4,468"), (0.0012, "0.0012"), ("<", "&lt;")],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert number(value) == text
