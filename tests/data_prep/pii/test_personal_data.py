"""Recall of personal data on invented examples, and false finds in ordinary text.

`personal_data.jsonl` was written before the rules that it measures. `⟦…⟧` marks what is personal, kind `none` has
nothing to find, and `¦` stands for nothing: it keeps key scanners from taking the file for a leak.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from data_prep.pii.scrub import find

FILE = Path(__file__).with_name("personal_data.jsonl")


def cases() -> list[tuple[str, str]]:
    rows = map(json.loads, FILE.read_text(encoding="utf-8").split("\n")[:-1])
    return [(row["kind"], row["text"].replace("¦", "")) for row in rows]


def unmarked(text: str) -> tuple[str, set[int]]:
    """Text, and the positions of its personal letters and digits."""
    plain, personal, is_inside = "", set(), False
    for character in text:
        if character in "⟦⟧":
            is_inside = character == "⟦"
            continue
        if is_inside and character.isalnum():
            personal.add(len(plain))
        plain += character
    return plain, personal


def is_right(kind: str, marked: str) -> bool:
    """Returns whether all personal data is found, and nothing in a case of kind `none`."""
    text, personal = unmarked(marked)
    covered = {place for span in find(text) for place in range(span.start, span.end)}
    return not covered if kind == "none" else covered >= personal


def shares() -> dict[str, tuple[int, int]]:
    """Right cases and all cases, by kind."""
    right, total = Counter[str](), Counter[str]()
    for kind, text in cases():
        total[kind] += 1
        right[kind] += is_right(kind, text)
    return {kind: (right[kind], total[kind]) for kind in total}


def test_four_fifths_are_found_and_two_in_a_hundred_wrongly() -> None:
    by_kind = shares()
    wrong, ordinary = by_kind["none"][1] - by_kind["none"][0], by_kind.pop("none")[1]
    hits, total = (sum(column) for column in zip(*by_kind.values(), strict=True))
    assert total >= 100
    assert ordinary >= 40
    assert hits >= 0.8 * total, by_kind
    assert wrong <= 0.02 * ordinary


if __name__ == "__main__":
    for kind, (right, total) in shares().items():
        sys.stdout.write(f"{kind}: {right} of {total}\n")
    for kind, text in cases():
        if not is_right(kind, text):
            sys.stdout.write(f"  {kind}: {text[:120]!r} {[tuple(one) for one in find(unmarked(text)[0])]}\n")
