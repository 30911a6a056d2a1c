"""Checks anybody's conversations: every line against the schema, and files against each other.

Memory is 80 bytes a conversation at the most, 16 each for its id, group, person, opening and beginning, and the line
at hand.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from data_prep.cleaning.terminal_safe import one_line
from data_prep.dedup.hash_index import Place, Places
from data_prep.dedup.signatures import READ_CHARS, front, normalise
from usersim.errors import DataError
from usersim.storage.records import explain
from usersim.types import Conversation

PROBLEMS_SHOWN = 20
LONGEST_LINE = 1 << 28
"""Bytes. A longer line is no conversation, and must not fill the memory."""
PIECE = 1 << 20
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")
LONE = "a lone surrogate: half of a character, escaped as \\ud8…"
TIES = ("group", "person", "opening", "beginning")
"""What splitting by groups keeps in one file; a beginning is the first 200 characters, words only."""


class Bad(NamedTuple):
    kind: str
    """In the same words for every line of its kind."""
    what: str


class Problem(NamedTuple):
    place: Place
    what: str


def validate(*paths: Path) -> dict[str, Any]:
    """Counts over all files, and the first complaints as `path:line: what`; a blank line is skipped.

    `problems` are of single lines, `crossings` of what stands in several files and leaks from one into another.
    A conversation whose id is repeated is bad, but its turns, goal and end are counted.
    """
    check_names(paths)
    check = Check(len(paths))
    for number, path in enumerate(paths):
        check.read(number, path)
        if not check.lines[number]:
            raise DataError(f"{path}: empty, no conversation in it")
    problems = nsmallest(PROBLEMS_SHOWN, chain(check.problems, check.repeated_ids()))
    crossings = nsmallest(PROBLEMS_SHOWN, check.crossings(paths))

    def told(found: list[Problem]) -> list[str]:
        # Keys and values of a strange file are strange text.
        return [f"{paths[place.file]}:{place.line}: {one_line(what)}" for place, what in found]

    return {
        "ok": not check.bad.total() and not any(check.crossing.values()),
        **_lines_of(check.lines.total(), check.bad.total()),
        **{name: check.counts[name] for name in ("user_turns", "without_user_turn", "with_goal")},
        "ended_by": dict(sorted(check.ended_by.items())),
        "files": [
            {"file": str(path), **_lines_of(check.lines[number], check.bad[number])}
            for number, path in enumerate(paths)
        ],
        "reasons": dict(check.reasons.most_common()),
        "problems": told(problems),
        "crossing": dict(check.crossing),
        "crossings": told(crossings),
    }


def check_names(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if sum(path.samefile(other) for other in paths) > 1:
            raise DataError(f"{path}: given twice, so all of it would be in two files")


def _lines_of(lines: int, bad: int) -> dict[str, int]:
    return {"lines": lines, "bad": bad, "conversations": lines - bad}


class Check:
    """What was seen so far, over all files."""

    def __init__(self, files: int) -> None:
        self.lines, self.bad = Counter[int](), Counter[int]()
        """By file."""
        self.counts, self.ended_by, self.reasons = Counter[str](), Counter[str](), Counter[str]()
        self.problems: list[Problem] = []
        self.crossing: dict[str, int] = dict.fromkeys(("id", *TIES), 0) if files > 1 else {}
        self._ids, self._ties = Places(), {name: Places() for name in TIES}

    def read(self, number: int, path: Path) -> None:
        for line_number, line in lines_of(path):
            place = Place(number, line_number)
            self.lines[number] += 1
            found = parse(line)
            if isinstance(found, Conversation):
                self._count(found, place)
                continue
            self._is_bad(place, found.kind)
            if len(self.problems) < PROBLEMS_SHOWN:
                self.problems.append(Problem(place, found.what))

    def repeated_ids(self) -> Iterator[Problem]:
        """Within a file: the same id of the same source."""
        for first, place in self._ids.repeated():
            self._is_bad(place, "repeated id")
            yield Problem(place, f"its id is already in line {first.line}")

    def crossings(self, paths: tuple[Path, ...]) -> Iterator[Problem]:
        for name in self.crossing:
            for first, place in self._ids.crossing() if name == "id" else self._ties[name].crossing():
                self.crossing[name] += 1
                yield Problem(place, f"its {name} is also in {paths[first.file]}:{first.line}")

    def _is_bad(self, place: Place, reason: str) -> None:
        self.bad[place.file] += 1
        self.reasons[reason] += 1

    def _count(self, conversation: Conversation, place: Place) -> None:
        said = [turn.text for turn in conversation.turns if turn.role == "user"]
        self.counts["user_turns"] += len(said)
        self.counts["without_user_turn"] += not said
        self.counts["with_goal"] += conversation.profile.goal is not None
        self.ended_by[conversation.ended_by] += 1
        # An id, and a person's digest, mean nothing outside their corpus.
        source = conversation.source
        self._ids.add(f"{source}\x1f{conversation.id}", place)
        if not self.crossing:
            return
        if conversation.group is not None:
            self._ties["group"].add(conversation.group, place)
        if conversation.user is not None:
            self._ties["person"].add(f"{source}\x1f{conversation.user}", place)
        if said:
            self._ties["opening"].add(normalise(said[0][:READ_CHARS]), place)
        if beginning := front(said):
            self._ties["beginning"].add(str(beginning), place)


def parse(line: bytes) -> Conversation | Bad:
    if len(line) > LONGEST_LINE:
        return Bad("too long", f"longer than {LONGEST_LINE >> 20} MiB")
    if line.startswith(BOM):
        return Bad("byte order mark", "begins with a byte order mark; save the file as UTF-8 without one")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Bad("not UTF-8", f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}")
    try:
        conversation = Conversation.model_validate_json(line)
    except ValidationError as error:
        return _explained(line, error)
    return _beyond(conversation) or conversation


def _explained(line: bytes, error: ValidationError) -> Bad:
    kind = error.errors(include_url=False, include_input=False)[0]["type"]
    what = explain(error)
    if kind != "json_invalid":
        return Bad(f"schema: {kind.replace('_', ' ')}", what)
    if "EOF" in what:
        return Bad("truncated JSON", f"truncated: {what}")
    return Bad("lone surrogate", LONE) if _has_lone_surrogate(line) else Bad("not JSON", what)


def _has_lone_surrogate(line: bytes) -> bool:
    r"""Half of a character, escaped: "\ud83d" with nothing after it. The standard library takes it for text."""
    try:
        return SURROGATE.search(json.dumps(json.loads(line), ensure_ascii=False)) is not None
    except (ValueError, RecursionError):
        return False


def _beyond(conversation: Conversation) -> Bad | None:
    goal, said = conversation.profile.goal, sum(turn.role == "user" for turn in conversation.turns)
    for index, facet in enumerate(goal.facets if goal else ()):
        if facet.turn is not None and facet.turn > said:
            what = f"profile.goal.facets.{index}.turn: {facet.turn}, but there are {said} user turns"
            return Bad("facet beyond the last user turn", what)
    return None


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Bytes: a line that is not UTF-8 is a bad line, not the end of the check."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    _skip_rest(stream, line)
                if not line.isspace():
                    # With its line break, JSON that is cut off inside a string would not look cut off.
                    yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error})") from error


def _skip_rest(stream: gzip.GzipFile | BufferedReader, piece: bytes) -> None:
    while piece and not piece.endswith(b"\n"):
        piece = stream.readline(PIECE)
