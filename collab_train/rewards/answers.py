r"""Extraction of the final answer from a text, and mathematical equality of two answers.

Forms of an answer, strongest first: the last \boxed{…}, "#### …", "the answer is …", the last number. Two answers are
equal if they are equal after normalising LaTeX, as exact fractions, or by `math-verify` in its own process
(`collab_train.rewards.algebra`). Units, degrees, dollar and percent signs are dropped on both sides, as in the answer
keys of GSM8K and MATH. A hedge ("16 or 17", "not 18") equals no number.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

from collab_train.rewards.algebra import equal

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(\w+))")
PHRASE = re.compile(
    r"(?:answer|result)\s*(?:is|:|=)\s*:?\s*([^\n]+?)(?=\.\s|\.?\s*$|\n)", re.IGNORECASE | re.MULTILINE
)
HASHES = re.compile(r"^[ \t]*####(?!#)[ \t]*([^\n]+)", re.MULTILINE)
HEADING = re.compile(r"(?:\d+\s*[.):]\s*)?\**[A-Za-z]{2}|\d+\s*[.)]\s*$")
"""Text after "####" that makes it a Markdown heading: "Step 1", "2. Add"."""
MATHEMATICAL = re.compile(r"[\d\\π√∞]|^\W*[A-Za-z](?:\W|$)")
"""Text with a digit or symbol, or with a single letter first ("(B)", "x + y"): an answer, not a remark."""
RUN_ON = re.compile(r"^\W*(?:question|problem|q|user|human|student)\s*\d*\s*:", re.IGNORECASE | re.MULTILINE)
NUMBER = re.compile(
    r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:(?<=\d)|(?<!\d)(?=\.\d))(?:\.\d+)?(?:\s*/\s*\d+)?"
)
CLAIM = re.compile(
    r"\b(?:i (?:got|get)|is it)\s+(?:about\s+)?\$?(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)(?P<more>[^\n.!?]*)(?P<end>[.!?\n]|$)",
    re.IGNORECASE,
)
CONFIRMATION = re.compile(r"\b(?:right|correct|true|ok|okay|yes|answer|total|altogether)\b", re.IGNORECASE)
EXACT = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:/\d+)?")
DENIED = re.compile(r"\b(?:not|neither|nor|maybe|perhaps|unclear|unknown)\b|n't\b", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z']+")
UNITS = frozenset(
    {
        "a",
        "an",
        "in",
        "is",
        "of",
        "to",
        "at",
        "he",
        "it",
        "we",
        "so",
        "by",
        "my",
        "be",
        "as",
        "on",
        "if",
        "per",
    }
    | {
        "m",
        "s",
        "h",
        "g",
        "l",
        "kg",
        "mg",
        "km",
        "cm",
        "mm",
        "ft",
        "yd",
        "mi",
        "hr",
        "hrs",
        "lb",
        "lbs",
        "oz",
    }
    | {
        "sq",
        "ml",
        "mph",
        "kmh",
        "kph",
        "am",
        "pm",
        "the",
        "she",
        "cubed",
        "squared",
        "usd",
        "dollars",
        "cents",
    }
)
"""Short words allowed beside a number. Longer words are allowed if they have a vowel."""
MATHEMATICS = frozenset(
    {
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "infinity",
        "inf",
        "frac",
        "times",
    }
)
GLUED = re.compile(r"\d(?!(?:kg|km|cm|mm|mph|ft|am|pm|m|g|s|h)\b)[A-Za-z]|[A-Za-z]\d")
"""A digit beside a letter that is not a unit, as in "3x"."""
SIGNS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": "\\times ",
        "·": "\\cdot ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
    }
)
LONGEST = 200
"""Maximum characters of an answer for mathematical comparison."""


def stated_answer(text: str) -> str | None:
    """Returns the answer that `text` states explicitly, or None."""
    return explicit_answer(text) or worded_answer(text)


def explicit_answer(text: str) -> str | None:
    """Returns the answer in a box, after "####", or after "the answer is" if it has a digit or symbol."""
    if (boxed := _boxed(text)) is not None:
        return boxed
    hashes = [line.strip(" *`") for line in HASHES.findall(text) if not HEADING.match(line.strip())]
    phrases = [phrase for phrase in PHRASE.findall(text) if MATHEMATICAL.search(phrase)]
    answers = hashes or phrases
    return answers[-1].strip(" *`") if answers else None


def worded_answer(text: str) -> str | None:
    """Returns the text after "the answer is", also if it is only words: a name, or "unclear"."""
    phrases = PHRASE.findall(text)
    return phrases[-1].strip(" *`") if phrases else None


def first_speaker_part(text: str) -> str:
    """Cuts `text` where it continues as another speaker ("Question: Tom has …") after an explicit answer."""
    for match in RUN_ON.finditer(text):
        if stated_answer(text[: match.start()]) is not None:
            return text[: match.start()]
    return text


def revealed_answer(text: str) -> str | None:
    """Returns the answer that a user reveals: explicitly, or as "I got 12" or "is it 12?".

    "i get 18 eggs a day" belongs to the problem, but "i get 18 eggs, right?" reveals an answer.
    """
    claims = [
        match[1]
        for match in CLAIM.finditer(text)
        if not WORD.search(match["more"]) or match["end"] == "?" or CONFIRMATION.search(match["more"])
    ]
    return stated_answer(text) or (claims[-1] if claims else None)


def last_number(text: str) -> str | None:
    numbers = [number for number in NUMBER.findall(text) if number]
    return numbers[-1] if numbers else None


def _boxed(text: str) -> str | None:
    """Returns the content of the last box that is not empty."""
    for match in reversed(list(BOX.finditer(text))):
        if match[1]:
            return match[1]
        depth, begin = 1, match.end()
        for at in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                if content := text[begin:at].strip():
                    return content
                break
    return None


@cache
def same(answer: str, reference: str) -> bool:
    """True if `answer` equals `reference`. A numeric reference also equals a phrase with that number and no other."""
    answer, reference = (_boxed(text) or text for text in (answer, reference))
    left, right = _latex(answer), _latex(reference)
    if _without_spaces(left) == _without_spaces(right):
        return bool(_without_spaces(right))
    if DENIED.search(left):
        return False
    exact, value = (_fraction(_number_alone(text)) for text in (right, left))
    if exact is not None and value is None and "=" in left:
        value = _fraction(_number_alone(left.rpartition("=")[2]))
    if exact is not None and value is not None:
        return value == exact
    if max(len(left), len(right)) > LONGEST or _is_words(left) or _is_words(right) or not (left and right):
        return False
    return equal(_number_alone(left), _number_alone(right))


def _latex(text: str) -> str:
    """Normalises signs, spaces, fractions and roots; keeps words."""
    text = re.sub(
        r"(?<!\\)\\(?:(?:left|right|displaystyle|limits)(?![A-Za-z])|[!,;:])", "", text.strip().rstrip(".")
    )
    text = re.sub(r"(?<!\\)\\[()\[\] ]|\\?\$|\\?%|\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°|[*`]{2}|~", " ", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text.translate(SIGNS))
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf|textrm|mathbf)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"√\s*(\w+|\([^()]*\))|(?<!\\)\bsqrt\s*(\([^()]*\))", lambda m: _root(m[1] or m[2]), text)
    text = re.sub(r"\\sqrt\s*(\w)(?![{\[])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac\s*(\w)\s*(\w)(?!\w*})", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\w)\s*\{", r"\\frac{\1}{", text)
    text = (
        re.sub(r"(?<!\\)\bpi\b", r"\\pi ", text)
        .replace("**", "^")
        .replace("\\geq", "\\ge")
        .replace("\\leq", "\\le")
    )
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    text = re.sub(r"^\s*[a-zA-Z]\s*(?:=|\\in(?![a-z]))\s*", "", text)
    text = re.sub(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3})", "", text)
    if text.lstrip()[:1] not in ("(", "[", "\\", "{"):
        text = (
            re.sub(r"(?<=\d),\s?(?=\d{3}(?!\d))", "", text) if re.fullmatch(THOUSANDS, text.strip()) else text
        )
        text = re.sub(r"(?<![\d,])(\d{1,3}),(\d{3})(?![\d,])", r"\1\2", text)
    text = re.sub(r"^\s*(-?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)(?=\s|$)", r"\1\2\\frac{\3}{\4}", text)
    return " ".join(text.split())


THOUSANDS = r"-?\d{1,3}(?:,\s?\d{3})+(?:\.\d+)?\D*"


def _root(inside: str) -> str:
    return "\\sqrt{" + inside.removeprefix("(").removesuffix(")") + "}"


def _without_spaces(text: str) -> str:
    return "".join(text.split()).lower()


def _number_alone(text: str) -> str:
    """Returns the number of a phrase of words with one number: "72 clips, altogether" gives 72. Else the text."""
    numbers = [match for match in NUMBER.finditer(text) if match[0]]
    if len(numbers) != 1 or re.search(r"\bor\b", text, re.IGNORECASE):
        return text
    rest = text[: numbers[0].start()] + " " + text[numbers[0].end() :]
    rest = re.sub(r"\^\s*\{?\s*[23]\s*\}?", "", rest)
    words = WORD.findall(rest)
    is_prose = re.fullmatch(r"[A-Za-z'\s,.:;!?/()&-]*", rest) is not None

    if not words or not is_prose or GLUED.search(text) or not all(map(_is_word, words)):
        return text
    return str(numbers[0][0]).replace(",", "")


def _is_word(word: str) -> bool:
    if word.lower() in MATHEMATICS:
        return False
    return (
        word in UNITS
        or word.lower() in UNITS
        or (len(word) > 2 and re.search(r"[aeiou]", word.lower()) is not None)
    )


def _is_words(text: str) -> bool:
    """True if the text is words, which must match exactly: sympy would read them as products of symbols."""
    plain = re.sub(r"\\[A-Za-z]+", " ", text)
    return not re.search(r"\d", plain) and any(
        len(word) > 2 and word.lower() not in MATHEMATICS for word in WORD.findall(plain)
    )


def _fraction(text: str) -> Fraction | None:
    plain = "".join(text.split())
    if mixed := re.fullmatch(r"(-?)(\d+)\\frac\{(\d+)\}\{(\d+)\}", plain):
        sign, integer, above, below = mixed.groups()
        plain = f"{sign}{int(integer) * int(below) + int(above)}/{below}" if len(plain) <= LONGEST else ""
    plain = re.sub(r"^(-?)\\frac\{(-?\d+)\}\{(\d+)\}$", r"\1\2/\3", plain).replace("--", "")
    try:
        return Fraction(plain) if EXACT.fullmatch(plain) and len(plain) <= LONGEST else None
    except (ValueError, ZeroDivisionError):
        return None
