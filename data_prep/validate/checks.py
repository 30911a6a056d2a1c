"""Validation of conversation files: each line against the schema, and files against each other.

Memory is at most 80 bytes a conversation: 16 each for its id, group, person, opening and beginning.
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
from data_prep.dedup.hash_index import HashIndex, Place
from data_prep.dedup.signatures import READ_CHARS, front, normalise
from usersim.errors import DataError
from usersim.storage.records import explain
from usersim.types import Conversation

PROBLEMS_SHOWN = 20
LONGEST_LINE = 1 << 28
"""Longest line in bytes; a longer one is rejected without being read into memory."""
PIECE = 1 << 20
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")
LONE = "a lone surrogate: half of a character, escaped as \\ud8…"
TIES = ("group", "person", "opening", "beginning")
"""Properties that keep conversations in one split. The beginning is the first 200 characters, words only."""


class LineError(NamedTuple):
    kind: str
    """Name of the kind, equal for every line of that kind."""
    what: str


class ValidationIssue(NamedTuple):
    place: Place
    what: str


def validate(*paths: Path) -> dict[str, Any]:
    """Checks conversation files; a blank line is skipped.

    `problems` concern single lines. `crossings` are values that occur in several files, so that one leaks into another.
    A conversation with a repeated id is bad, but its turns, goal and end are counted.

    Returns:
        Counts over all files and the first issues, as `path:line: text`.
    """
    check_names(paths)
    check = Check(len(paths))
    for number, path in enumerate(paths):
        check.read(number, path)
        if not check.lines[number]:
            raise DataError(f"{path}: empty, no conversation in it")
    problems = nsmallest(PROBLEMS_SHOWN, chain(check.problems, check.repeated_ids()))
    crossings = nsmallest(PROBLEMS_SHOWN, check.crossings(paths))

    def messages(issues: list[ValidationIssue]) -> list[str]:
        # Keys and values of an unknown file are untrusted text.
        return [f"{paths[place.file]}:{place.line}: {one_line(what)}" for place, what in issues]

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
        "problems": messages(problems),
        "crossing": dict(check.crossing),
        "crossings": messages(crossings),
    }


def check_names(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if sum(path.samefile(other) for other in paths) > 1:
            raise DataError(f"{path}: given twice; name each file once")


def _lines_of(lines: int, bad: int) -> dict[str, int]:
    return {"lines": lines, "bad": bad, "conversations": lines - bad}


class Check:
    """Running counts over all files."""

    def __init__(self, files: int) -> None:
        self.lines, self.bad = Counter[int](), Counter[int]()
        """Lines and bad lines by file."""
        self.counts, self.ended_by, self.reasons = Counter[str](), Counter[str](), Counter[str]()
        self.problems: list[ValidationIssue] = []
        self.crossing: dict[str, int] = dict.fromkeys(("id", *TIES), 0) if files > 1 else {}
        self._ids, self._ties = HashIndex(), {name: HashIndex() for name in TIES}

    def read(self, number: int, path: Path) -> None:
        for line_number, line in lines_of(path):
            place = Place(number, line_number)
            self.lines[number] += 1
            parsed = parse(line)
            if isinstance(parsed, Conversation):
                self._count(parsed, place)
                continue
            self._count_bad(place, parsed.kind)
            if len(self.problems) < PROBLEMS_SHOWN:
                self.problems.append(ValidationIssue(place, parsed.what))

    def repeated_ids(self) -> Iterator[ValidationIssue]:
        """Yields ids that occur twice in one file for the same source."""
        for first, place in self._ids.repeated():
            self._count_bad(place, "repeated id")
            yield ValidationIssue(place, f"its id is already in line {first.line}")

    def crossings(self, paths: tuple[Path, ...]) -> Iterator[ValidationIssue]:
        for name in self.crossing:
            for first, place in self._ids.crossing() if name == "id" else self._ties[name].crossing():
                self.crossing[name] += 1
                yield ValidationIssue(place, f"its {name} is also in {paths[first.file]}:{first.line}")

    def _count_bad(self, place: Place, reason: str) -> None:
        self.bad[place.file] += 1
        self.reasons[reason] += 1

    def _count(self, conversation: Conversation, place: Place) -> None:
        user_texts = [turn.text for turn in conversation.turns if turn.role == "user"]
        self.counts["user_turns"] += len(user_texts)
        self.counts["without_user_turn"] += not user_texts
        self.counts["with_goal"] += conversation.profile.goal is not None
        self.ended_by[conversation.ended_by] += 1
        # Ids and digests of people are unique only within their corpus.
        source = conversation.source
        self._ids.add(f"{source}\x1f{conversation.id}", place)
        if not self.crossing:
            return
        if conversation.group is not None:
            self._ties["group"].add(conversation.group, place)
        if conversation.user is not None:
            self._ties["person"].add(f"{source}\x1f{conversation.user}", place)
        if user_texts:
            self._ties["opening"].add(normalise(user_texts[0][:READ_CHARS]), place)
        if beginning := front(user_texts):
            self._ties["beginning"].add(str(beginning), place)


def parse(line: bytes) -> Conversation | LineError:
    if len(line) > LONGEST_LINE:
        return LineError("too long", f"longer than {LONGEST_LINE >> 20} MiB")
    if line.startswith(BOM):
        return LineError(
            "byte order mark", "begins with a byte order mark; save the file as UTF-8 without one"
        )
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return LineError(
            "not UTF-8", f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
        )
    try:
        conversation = Conversation.model_validate_json(line)
    except ValidationError as error:
        return _line_error(line, error)
    return _facet_error(conversation) or conversation


def _line_error(line: bytes, error: ValidationError) -> LineError:
    kind = error.errors(include_url=False, include_input=False)[0]["type"]
    what = explain(error)
    if kind != "json_invalid":
        return LineError(f"schema: {kind.replace('_', ' ')}", what)
    if "EOF" in what:
        return LineError("truncated JSON", f"truncated: {what}")
    return LineError("lone surrogate", LONE) if _has_lone_surrogate(line) else LineError("not JSON", what)


def _has_lone_surrogate(line: bytes) -> bool:
    r"""Returns whether JSON has a lone surrogate escape ("\ud83d" with nothing after it), which json accepts."""
    try:
        return SURROGATE.search(json.dumps(json.loads(line), ensure_ascii=False)) is not None
    except (ValueError, RecursionError):
        return False


def _facet_error(conversation: Conversation) -> LineError | None:
    goal, user_turns = conversation.profile.goal, sum(turn.role == "user" for turn in conversation.turns)
    for index, facet in enumerate(goal.facets if goal else ()):
        if facet.turn is not None and facet.turn > user_turns:
            what = f"profile.goal.facets.{index}.turn: {facet.turn}, but there are {user_turns} user turns"
            return LineError("facet beyond the last user turn", what)
    return None


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields numbered lines as bytes, so that a line that is not UTF-8 is one bad line and reading goes on."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    _skip_rest(stream, line)
                if not line.isspace():
                    # With a line break, JSON cut off inside a string would not parse as truncated.
                    yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error})") from error


def _skip_rest(stream: gzip.GzipFile | BufferedReader, piece: bytes) -> None:
    while piece and not piece.endswith(b"\n"):
        piece = stream.readline(PIECE)
