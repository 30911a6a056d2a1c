"""Aims: numbers with intervals, each beside what it was meant to reach, from a TOML table of key → rule."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from usersim.errors import ConfigError
from usersim.stats.estimates import Z95, Estimate
from usersim.types import Record

RULE = re.compile(r"(?P<part>value|low|high|abs)? ?(?P<sign><=|>=|<|>) ?(?P<bound>-?\d+(?:\.\d+)?)")
"""`<= 0.88` (of the value), `low > 0` (of an end of the interval), `abs <= 0.1` (of the value's size)."""


class Aim(Record):
    """One number of a version of a model."""

    value: float
    low: float
    high: float
    n: int
    """People, or conversations, or pairs: the clusters of the interval."""
    aim: str | None = None
    """None: reported without an aim."""
    met: bool | None = None


def read_aims(path: Path) -> dict[str, str]:
    """Rules by key.

    Raises:
        ConfigError: The file cannot be read, or a rule is none.
    """
    try:
        rules = tomllib.loads(path.read_text(encoding="utf-8"))["aims"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise ConfigError(f"{path}: no table [aims] of key = rule ({error})") from error
    for key, rule in rules.items():
        if not isinstance(rule, str) or not RULE.fullmatch(rule):
            raise ConfigError(
                f"{path}: {key} = {rule!r} is no rule; write `<= 0.88`, `low > 0` or `abs <= 0.1`"
            )
    return dict(rules)


def judged(numbers: Mapping[str, Estimate], rules: Mapping[str, str]) -> dict[str, Aim]:
    """Every number beside its aim. Raises ConfigError for an aim whose number was not measured."""
    missing = [key for key in rules if key not in numbers]
    if missing:
        raise ConfigError(f"aims without a number: {', '.join(missing)}; measured are {', '.join(numbers)}")
    return {
        key: Aim(
            **{name: round(getattr(number, name), 5) for name in ("value", "low", "high")},
            n=number.n,
            aim=rules.get(key),
            met=is_met(number, rules[key]) if key in rules else None,
        )
        for key, number in numbers.items()
    }


def is_met(number: Estimate, rule: str) -> bool:
    """Whether a number fulfils a rule of `RULE`."""
    match = RULE.fullmatch(rule)
    if match is None:
        raise ConfigError(f"{rule!r} is no rule")
    part, bound = match["part"] or "value", float(match["bound"])
    measured = abs(number.value) if part == "abs" else float(getattr(number, part))
    return {
        "<=": measured <= bound,
        ">=": measured >= bound,
        "<": measured < bound,
        ">": measured > bound,
    }[match["sign"]]


def ratio(numerator: Estimate, denominator: Estimate, offset: float = 0.0) -> Estimate:
    """(numerator - offset) / (denominator - offset), with an interval by the delta method.

    Both are taken for independent. Measured at the same prefixes they rise and fall together: the interval is too wide.
    """
    above, below = numerator.value - offset, denominator.value - offset
    if below <= 0:
        raise ConfigError(f"a ratio over {below:.3g} says nothing")
    errors = [(number.high - number.low) / 2 / Z95 for number in (numerator, denominator)]
    value = above / below
    half = Z95 * math.hypot(errors[0] / below, value * errors[1] / below)
    return Estimate(value=value, low=value - half, high=value + half, n=min(numerator.n, denominator.n))
