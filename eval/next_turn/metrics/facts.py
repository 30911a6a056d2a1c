"""Facts: numbers and names of a turn, their support in goal or history, and contradictions of the goal.

English, by rules, on the prose of a turn. A name is a capitalised word inside a sentence that is not all in
capitals, or a word with letters and digits or with inner capitals ("GPT-4", "JavaScript").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eval.fidelity.metrics.texts.lexical import REMEMBERED, stem
from eval.next_turn.metrics.discriminator_features import goal_text
from eval.next_turn.metrics.values import MetricSpec, TurnMetric, Values
from eval.next_turn.prefixes import Prefix
from usersim.text.code_blocks import split
from usersim.text.spelling import dictionary, word_set

SPECS = (
    MetricSpec(
        key="facts.supported",
        group="facts",
        label="numbers and names of later turns that goal or history holds",
        unit="share of numbers and names",
        is_share=True,
        is_ratio=True,
        positions="2+",
    ),
    MetricSpec(
        key="facts.introduced",
        group="facts",
        label="new numbers and names in later turns",
        unit="a turn",
        positions="2+",
    ),
    MetricSpec(
        key="facts.contradicted",
        group="facts",
        label="states another number for a quantity that the goal fixes",
        unit="share of turns",
        is_share=True,
    ),
)
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
UNIT_WORDS = {word: n for n, word in enumerate(f"{UNITS} seventeen eighteen nineteen".split())}
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
TEN_WORDS = {word: 10 * n for n, word in enumerate(TENS.split(), start=2)}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
SUFFIXES = {"k": 1e3, "m": 1e6, "bn": 1e9, "b": 1e9}
CURRENCIES = {
    "$": "money",
    "€": "money",
    "£": "money",
    "₹": "money",
    **dict.fromkeys(["dollar", "usd", "euro", "eur", "pound", "gbp", "buck", "rupe", "inr"], "money"),
    "%": "percent",
    "percent": "percent",
    "pct": "percent",
}
SAME_UNIT = {
    "min": "minute",
    "hr": "hour",
    "sec": "second",
    "wk": "week",
    "yr": "year",
    "mo": "month",
    "kg": "kilo",
}
TOKEN = re.compile(
    r"(?P<list>^[ \t]*\(?\d{1,3}[.):](?=\s))"
    r"|(?P<number>(?P<sign>[$€£₹]\s?)?(?<![\w.])(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?P<suffix>(?:k|m|bn|b)\b)?(?P<percent>\s?%)?(?:st|nd|rd|th)?(?![^\W_]))"
    r"|(?P<word>[^\W_]+(?:['’.&-](?=[^\W_])[^\W_]+)*)"  # noqa: RUF001
    r"|(?P<end>[.!?:;\n\"“”(]|[-*•] )",
    re.MULTILINE,
)
ADDRESS = re.compile(r"\S*(?:://|www\.|@)\S*")
NO_UNIT = word_set(
    "a an and any are as at be but by can do does each every for from had has have if in into is it its least "
    "less more most new of on or other out over per that the then these this those to too under until up very "
    "was when which while will with you your i he she we they so not no also only main different more key same "
    "single additional further extra following separate "
    "north south east west left right ago later earlier before after times"
)
"""Words after a number that are not a counted noun."""
NO_NAMES = word_set(
    "i i'm i've i'd i'll im ok okay please thanks thank hi hello hey yes no the a an mr mrs ms dr am pm tv id "
    "english monday tuesday wednesday thursday friday saturday sunday"
)
STRESSED = word_set("not all any and but the you now one out use why how who its it is if or no do in on to")
"""Short words that people write in capitals; longer ones are in the dictionary."""
LEAST_OF_TITLE = 4
TITLE_SHARE = 0.6
"""Minimum share of capitalised words at which a sentence of at least four words is a title, without names."""


@dataclass(frozen=True)
class Quantity:
    """Number with the noun or unit that directly follows, if any."""

    value: float
    unit: str | None


@dataclass(frozen=True)
class TextFacts:
    quantities: tuple[Quantity, ...]
    names: frozenset[str]
    """Lowercase names."""

    @property
    def numbers(self) -> frozenset[float]:
        return frozenset(quantity.value for quantity in self.quantities)


@lru_cache(maxsize=REMEMBERED)
def facts_of(prose: str) -> TextFacts:
    """Returns numbers and names of a text, numbers in order. List markers and "one" are not numbers."""
    quantities, names = list[Quantity](), set[str]()
    for sentence in _sentences(ADDRESS.sub(" ", prose)):
        quantities += _quantities(sentence)
        names.update(_names(sentence))
    return TextFacts(tuple(quantities), frozenset(names))


class FactSupport(TurnMetric):
    """Shares of supported and contradicting facts in the prose of a turn, given the whole goal and history."""

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return SPECS

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        shares: list[tuple[float, float]] = []
        introduced: list[float | None] = []
        contradicted: list[float | None] = []
        for prefix, text in zip(prefixes, texts, strict=True):
            later = prefix.position >= 2
            supported, total = support(prefix, text) if later else (0, 0)
            shares.append((supported, total))
            introduced.append(float(total - supported) if later else None)
            contradicted.append(None if prefix.goal is None else float(bool(contradictions(prefix, text))))
        return {
            SPECS[0].key: Values.of_ratios(shares),
            SPECS[1].key: Values.of(introduced),
            SPECS[2].key: Values.of(contradicted),
        }


def support(prefix: Prefix, text: str) -> tuple[int, int]:
    """Returns (facts of the text that goal or history contain, all facts of the text), each counted once."""
    own = facts_of(split(text).prose)
    if not own.numbers and not own.names:
        return 0, 0
    sources = [_numbers_and_words(part) for part in _sources(prefix)]
    numbers = frozenset[float]().union(*(n for n, _ in sources))
    words = frozenset[str]().union(*(w for _, w in sources))
    supported = len(own.numbers & numbers) + sum(_is_among(name, words) for name in own.names)
    return supported, len(own.numbers) + len(own.names)


def contradictions(prefix: Prefix, text: str) -> list[tuple[Quantity, Quantity]]:
    """Returns pairs (quantity of the goal, quantity of the text) with the same unit and different values.

    Only units for which the goal has a single value count. A number in goal or history is never a contradiction.
    """
    if prefix.goal is None:
        return []
    values_by_unit: dict[str, set[float]] = {}
    for quantity in facts_of(goal_text(prefix.goal)).quantities:
        if quantity.unit:
            values_by_unit.setdefault(quantity.unit, set()).add(quantity.value)
    if not values_by_unit:
        return []
    context_values = frozenset[float]().union(*(_numbers_and_words(part)[0] for part in _sources(prefix)))
    return [
        (Quantity(next(iter(values_by_unit[quantity.unit])), quantity.unit), quantity)
        for quantity in facts_of(split(text).prose).quantities
        if quantity.unit
        and len(values_by_unit.get(quantity.unit, ())) == 1
        and quantity.value not in context_values
    ]


def _sources(prefix: Prefix) -> list[str]:
    return [turn.text for turn in prefix.history] + ([goal_text(prefix.goal)] if prefix.goal else [])


@lru_cache(maxsize=REMEMBERED)
def _numbers_and_words(text: str) -> tuple[frozenset[float], frozenset[str]]:
    """All numbers and lowercase words of a text, code and lists included."""
    tokens = list(TOKEN.finditer(text))
    numbers = {quantity.value for quantity in _quantities(tokens)}
    numbers |= {float(digits) for match in tokens if match["list"] for digits in re.findall(r"\d+", match[0])}
    numbers |= {float(n) for n in re.findall(r"\d+(?:\.\d+)?", text.replace(",", "")) if len(n) < 16}
    return frozenset(numbers), frozenset(
        part for match in tokens if match["word"] for part in _parts(match[0])
    )


def _parts(word: str) -> Iterator[str]:
    lower = word.lower().replace("’", "'")  # noqa: RUF001
    yield lower
    yield lower.removesuffix("'s")
    yield from re.split(r"['.&-]", lower)


def _is_among(name: str, words: frozenset[str]) -> bool:
    return name in words or name.removesuffix("s") in words or f"{name}s" in words


def _sentences(text: str) -> Iterator[list[re.Match[str]]]:
    """Tokens by sentence or clause; the first word of a clause may be capitalised without being a name."""
    sentence: list[re.Match[str]] = []
    for match in TOKEN.finditer(text):
        if match["end"] or match["list"]:
            yield sentence
            sentence = []
        else:
            sentence.append(match)
    yield sentence


def _quantities(tokens: Sequence[re.Match[str]]) -> list[Quantity]:
    quantities, index = [], 0
    while index < len(tokens):
        match = tokens[index]
        value, used = (_digits(match), 1) if match["number"] else _spelled(tokens[index:])
        if value is None:
            quantities += _hyphenated(match)
            index += 1
            continue
        index += used
        sign = (match["sign"] or match["percent"] or "").strip() if match["number"] else ""
        following = tokens[index] if index < len(tokens) else None
        if match["number"] and following is not None and following[0].lower() in SCALES:
            value *= SCALES[following[0].lower()]
            index += 1
            following = tokens[index] if index < len(tokens) else None
        unit = CURRENCIES[sign] if sign else _unit(following["word"] if following is not None else None)
        quantities.append(Quantity(value, unit))
    return quantities


def _digits(match: re.Match[str]) -> float:
    suffix = (match["suffix"] or "").lower()
    # "12m" is a length more often than a sum; with a currency before it, it is none.
    scale = SUFFIXES.get(suffix, 1.0) if match["sign"] or suffix == "k" else 1.0
    return float(match["digits"].replace(",", "")) * scale


def _spelled(tokens: Sequence[re.Match[str]]) -> tuple[float | None, int]:
    """Value of the leading number words, and their number of tokens; "one" alone is not a number."""
    total, current, used = 0.0, 0.0, 0
    for match in tokens:
        parts = match[0].lower().split("-") if match["word"] else []
        if not parts or not all(p in UNIT_WORDS or p in TEN_WORDS or (used and p in SCALES) for p in parts):
            break
        for part in parts:
            if part in SCALES:
                current = max(current, 1.0) * SCALES[part]
                if SCALES[part] > 100:
                    total, current = total + current, 0.0
            else:
                current += UNIT_WORDS.get(part, TEN_WORDS.get(part, 0))
        used += 1
    if not used or (used == 1 and tokens[0][0].lower() == "one"):
        return None, 0
    return total + current, used


def _hyphenated(match: re.Match[str]) -> list[Quantity]:
    """Quantity of a compound: "500-word" is 500 words; "five-day" 5 days; "10km" 10 km."""
    if not match["word"]:
        return []
    parts = re.fullmatch(r"(\d+(?:\.\d+)?|[a-z]+)(-?)([a-z]+)(?:-[a-z]+)*", match[0].lower())
    if parts is None or (parts[1].isalpha() and not parts[2]):
        return []
    number = UNIT_WORDS.get(parts[1], TEN_WORDS.get(parts[1])) if parts[1].isalpha() else float(parts[1])
    if number is None or parts[1] == "one" or parts[3] in ("st", "nd", "rd", "th"):
        return []
    return [Quantity(float(number), _unit(parts[3]))]


def _unit(word: str | None) -> str | None:
    lower = (word or "").lower()
    if not lower or lower in NO_UNIT or not lower.isalpha() or len(lower) < 2:
        return None
    base = stem(lower)
    return CURRENCIES.get(base) or CURRENCIES.get(lower) or stem(SAME_UNIT.get(base, base))


def _names(sentence: Sequence[re.Match[str]]) -> Iterator[str]:
    tokens = [match[0] for match in sentence if match["word"]]
    inside = [token for token in tokens[1:] if token != "I"]
    capitalised = sum(token[0].isupper() for token in inside)
    is_title = len(tokens) >= LEAST_OF_TITLE and capitalised >= TITLE_SHARE * len(inside)
    for place, token in enumerate(tokens):
        bare = token.replace("’", "'").removesuffix("'s")  # noqa: RUF001
        lower = bare.lower()
        if len(bare) < 2 or lower in NO_NAMES or _hyphenated_number(lower):
            continue
        inner = any(c.isupper() for c in bare[1:]) and not bare.isupper()
        coded = any(map(str.isdigit, bare)) and any(map(str.isalpha, bare))
        plain = bare[0].isupper() and place > 0 and not is_title and not _is_common_in_capitals(bare)
        if inner or coded or plain:
            yield lower


def _hyphenated_number(lower: str) -> bool:
    return re.fullmatch(r"\d+(?:\.\d+)?(?:st|nd|rd|th|s)?|\d+-?[a-z]+(?:-[a-z]+)*", lower) is not None


def _is_common_in_capitals(bare: str) -> bool:
    """True for an ordinary word in capitals for emphasis ("NOT", "MUST"). The dictionary has no acronyms."""
    loaded = dictionary()
    return bare.isupper() and loaded is not None and (bare.lower() in loaded[1] or bare.lower() in STRESSED)
