"""Removal of words from a persona text, which stays readable."""

from __future__ import annotations

import re
from collections.abc import Collection

from usersim.text.spelling import word_set

WORD = re.compile(r"[^\W_]+(?:['’./+#&-]*[^\W_]+)*[+#]*")  # noqa: RUF001
BETWEEN_CLAUSES = re.compile(r"([;,:()]\s*|\.(?=\s|$)\s*)")
JOINS = word_set(
    "a an the of in on at for with to from by about into over under as or and nor but via per like than "
    "towards toward between against through across within without around"
)
"""Prepositions and conjunctions; removed when the words they lead to are removed."""
EMPTY = JOINS | word_set(
    "i my me his her their them they it its is are was be been who that which this these those some any not no "
    "very quite rather more most less also then so both own one his' one's while when after before"
)
"""Function words that carry no content by themselves."""


def candidates(text: str) -> list[str]:
    """Returns the distinct content words in lower case, in order."""
    return list(dict.fromkeys(word for word in map(str.lower, WORD.findall(text)) if word not in EMPTY))


def without(text: str, gone: Collection[str]) -> str:
    """Returns `text` without these words (lower case), dangling joins and clauses left without content."""
    pieces = BETWEEN_CLAUSES.split(text)
    pieces[::2] = [_clause(piece, gone) for piece in pieces[::2]]
    return _tidy("".join(pieces))


def _clause(clause: str, gone: Collection[str]) -> str:
    tokens = clause.split()
    is_kept = [_core(token) not in gone for token in tokens]
    if all(is_kept):
        return clause
    for index in range(len(tokens) - 1, -1, -1):
        if is_kept[index] and tokens[index].lower() in JOINS and _leads_nowhere(tokens, is_kept, index):
            is_kept[index] = False
    remaining = [token for token, keep in zip(tokens, is_kept, strict=True) if keep]
    while not is_kept[0] and remaining and remaining[0].lower() in JOINS:
        remaining.pop(0)
    has_content = any(word.lower() not in EMPTY for token in remaining for word in WORD.findall(token))
    before, after = clause[: len(clause) - len(clause.lstrip())], clause[len(clause.rstrip()) :]
    return before + " ".join(remaining) + after if has_content else ""


def _leads_nowhere(tokens: list[str], is_kept: list[bool], at: int) -> bool:
    """Returns whether the join at `at` is followed by a removed word and then by another join or the end."""
    if at + 1 < len(tokens) and is_kept[at + 1]:
        return False
    following = next((index for index in range(at + 1, len(tokens)) if is_kept[index]), None)
    return following is None or tokens[following].lower() in JOINS


def _core(token: str) -> str:
    match = WORD.search(token)
    return match.group().lower() if match else token.lower()


def _tidy(text: str) -> str:
    text = re.sub(r"\(\s*[;,.:]*\s*\)", "", text)
    text = re.sub(r"(?:\s*[;,.:])+\s*([;,.:])", r"\1", re.sub(r"\s+", " ", text))
    text = re.sub(r"\s+([;,.:)])", r"\1", text)
    return text.strip(" ;,.:") if text.strip(" ;,.:()") else ""
