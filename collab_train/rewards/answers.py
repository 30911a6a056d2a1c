r"""The final answer in a text, and whether two answers are the same mathematics.

Found, from the strongest form on: the last \boxed{…}, "#### …", "the answer is …", the last number. The same: equal
after normalising LaTeX, equal as exact fractions, equal part by part (tuples, intervals, sets), or equal by sympy in
a process of its own (`collab_train.rewards.algebra`). Units, degrees, dollar and percent signs are dropped on both
sides, as the answer keys of GSM8K and MATH do.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

from collab_train.rewards.algebra import equal

PHRASE = re.compile(
    r"(?:answer|result)\s*(?:is|:|=)\s*:?\s*([^\n]+?)(?=\.\s|\.?\s*$|\n)", re.IGNORECASE | re.MULTILINE
)
HASHES = re.compile(r"####\s*([^\n]+)")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
CLAIM = re.compile(
    r"\b(?:i (?:got|get)|is it)\s+(?:about\s+)?\$?(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)", re.IGNORECASE
)
EXACT = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
LONGEST = 200
"""Characters of an answer that are compared as mathematics."""


def stated(text: str) -> str | None:
    """The answer that `text` marks as one, or None."""
    if (boxed := _boxed(text)) is not None:
        return boxed
    found = HASHES.findall(text) or PHRASE.findall(text)
    return found[-1].strip(" *`") if found else None


def claimed(text: str) -> str | None:
    """An answer that a user gives away: marked, or "I got 12", "is it 12?"."""
    found = CLAIM.findall(text)
    return stated(text) or (found[-1] if found else None)


def last_number(text: str) -> str | None:
    found = NUMBER.findall(text)
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at].strip()
    return None


@cache
def same(given: str, wanted: str) -> bool:
    """Whether `given` is the answer `wanted`. A numeric key is also met by a phrase that ends in its number."""
    left, right = _normal(given), _normal(wanted)
    if left == right:
        return bool(right)
    parts, others = _parts(left), _parts(right)
    if len(parts) > 1 or len(others) > 1:
        return _same_parts(left, right, parts, others)
    exact = _fraction(right)
    if exact is not None:
        value = _fraction(left)
        if value is None and re.search(r"[a-z]{2}|=", left) and "\\" not in left:
            value = _fraction(_normal(last_number(given.rpartition("=")[2]) or ""))
        if value is not None:
            return value == exact
    if max(len(left), len(right)) > LONGEST:
        return False
    return equal(_plain(left), _plain(right))


def _same_parts(left: str, right: str, parts: list[str], others: list[str]) -> bool:
    if len(parts) != len(others):
        return False
    opens = left[0] + right[0]
    if opens[0] in "([" or opens[1] in "([":  # a point or an interval: order and brackets count
        ends = (left[0], left[-1]) == (right[0], right[-1])
        return ends and all(same(a, b) for a, b in zip(parts, others, strict=True))
    left_over = list(others)
    for part in parts:
        met = next((other for other in left_over if same(part, other)), None)
        if met is None:
            return False
        left_over.remove(met)
    return True


def _normal(text: str) -> str:
    """One spelling for one answer; no spaces."""
    text = re.sub(r"\\(?:left|right|displaystyle|[!,;: ])", "", text.strip().strip("."))
    text = re.sub(r"\\[()\[\]]|\\?\$|\\?%|\^\{?\\circ\}?|\\degree\b|[*`]{2}", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf)\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"\\frac\s*(\w)\s*(\w)(?!\w*})", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text)
    text = text.replace("\\{", "{").replace("\\}", "}").replace("−", "-")  # noqa: RUF001 - people type the minus sign
    text = re.sub(r"^\s*[a-zA-Z]\s*(?:=|\\in)\s*", "", text).strip()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text) if text[:1] not in "([{" else text
    text = re.sub(r"(?<=[\d)}])\s+[a-zA-Z]{2}[a-zA-Z /]*(?:\^\{?\d\}?)?$", "", text)  # units
    return "".join(text.split()).lower()


def _parts(text: str) -> list[str]:
    """What stands between the commas of the outermost level, without the brackets around them."""
    inner = text[1:-1] if text[:1] in "([{" and text[-1:] in ")]}" else text
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(inner):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(inner[begin:at])
            begin = at + 1
    return [*parts, inner[begin:]]


def _fraction(text: str) -> Fraction | None:
    plain = re.sub(r"^(-?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", text)
    try:
        return Fraction(plain) if EXACT.fullmatch(plain) and len(plain) <= LONGEST else None
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    """LaTeX as sympy reads it: fractions, roots, powers."""
    text = re.sub(r"(\d)(?=\\frac\{\d+\}\{\d+\})", r"\1+", text)  # 3\frac{1}{2} is a mixed number
    before = None
    while before != text:
        before = text
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", text)
        text = re.sub(r"\\sqrt\[(\w+)\]\{([^{}]*)\}", r"((\2)**(1/(\1)))", text)
        text = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\^\{([^{}]*)\}", r"**(\1)", text)
    text = re.sub(r"\\(?:cdot|times)", "*", text).replace("^", "**").replace("\\infty", "oo")
    return text.replace("\\", "").replace("{", "(").replace("}", ")")
