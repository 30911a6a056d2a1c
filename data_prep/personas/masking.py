"""The text of a persona less some of its words, still readable."""

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
"""Words that stand between others: where what they led to is gone, they go too."""
EMPTY = JOINS | word_set(
    "i my me his her their them they it its is are was be been who that which this these those some any not no "
    "very quite rather more most less also then so both own one his' one's while when after before"
)
"""Words that say nothing by themselves."""


def candidates(text: str) -> list[str]:
    """The distinct words that say something, lower-cased, in order."""
    return list(dict.fromkeys(word for word in map(str.lower, WORD.findall(text)) if word not in EMPTY))


def without(text: str, gone: Collection[str]) -> str:
    """`text` without these words (lower case), the joins they leave dangling, and clauses that say nothing more."""
    pieces = BETWEEN_CLAUSES.split(text)
    pieces[::2] = [_clause(piece, gone) for piece in pieces[::2]]
    return _tidy("".join(pieces))


def _clause(clause: str, gone: Collection[str]) -> str:
    tokens = clause.split()
    stay = [_core(token) not in gone for token in tokens]
    if all(stay):
        return clause
    for at in range(len(tokens) - 1, -1, -1):
        if stay[at] and tokens[at].lower() in JOINS and _leads_nowhere(tokens, stay, at):
            stay[at] = False
    left = [token for token, keep in zip(tokens, stay, strict=True) if keep]
    while not stay[0] and left and left[0].lower() in JOINS:
        left.pop(0)
    said = any(word.lower() not in EMPTY for token in left for word in WORD.findall(token))
    before, after = clause[: len(clause) - len(clause.lstrip())], clause[len(clause.rstrip()) :]
    return before + " ".join(left) + after if said else ""


def _leads_nowhere(tokens: list[str], stay: list[bool], at: int) -> bool:
    """A removed word follows, and then another join or the end."""
    if at + 1 < len(tokens) and stay[at + 1]:
        return False
    following = next((index for index in range(at + 1, len(tokens)) if stay[index]), None)
    return following is None or tokens[following].lower() in JOINS


def _core(token: str) -> str:
    found = WORD.search(token)
    return found.group().lower() if found else token.lower()


def _tidy(text: str) -> str:
    text = re.sub(r"\(\s*[;,.:]*\s*\)", "", text)
    text = re.sub(r"(?:\s*[;,.:])+\s*([;,.:])", r"\1", re.sub(r"\s+", " ", text))
    text = re.sub(r"\s+([;,.:)])", r"\1", text)
    return text.strip(" ;,.:") if text.strip(" ;,.:()") else ""
