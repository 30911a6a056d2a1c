"""Targets ("aims") for measured numbers, read from a TOML table of key → rule, and their check."""

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
"""Grammar of a rule: `<= 0.88` (value), `low > 0` (end of the interval), `abs <= 0.1` (absolute value)."""


class Aim(Record):
    """A measured number of a model version, with its target."""

    value: float | None = None
    """None: not measured."""
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Number of clusters of the interval: people, conversations or pairs."""
    aim: str | None = None
    """Rule; None: reported without a target."""
    met: bool | None = None


def written(aim: Aim) -> str:
    """Returns value and interval in words, for tables."""
    if aim.value is None:
        return "not measured"
    return f"{aim.value:.3f} [{aim.low:.3f}, {aim.high:.3f}]"


def read_aims(path: Path) -> dict[str, str]:
    """Reads the table `[aims]` of a TOML file; returns rules by key.

    Raises:
        ConfigError: The file cannot be read, or a rule does not follow the grammar.
    """
    try:
        rules = tomllib.loads(path.read_text(encoding="utf-8"))["aims"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise ConfigError(f"{path}: the table [aims] of key = rule cannot be read ({error})") from error
    for key, rule in rules.items():
        if not isinstance(rule, str) or not RULE.fullmatch(rule):
            raise ConfigError(
                f"{path}: {key} = {rule!r} is not a rule; write `<= 0.88`, `low > 0` or `abs <= 0.1`"
            )
    return dict(rules)


def check_aims(numbers: Mapping[str, Estimate], rules: Mapping[str, str]) -> dict[str, Aim]:
    """Returns every number with its target and the verdict; targets without a number come last, as not measured."""
    measured = {
        key: Aim(
            **{name: round(getattr(number, name), 5) for name in ("value", "low", "high")},
            n=number.n,
            aim=rules.get(key),
            met=is_met(number, rules[key]) if key in rules else None,
        )
        for key, number in numbers.items()
    }
    return measured | {key: Aim(aim=rule) for key, rule in rules.items() if key not in numbers}


def is_met(number: Estimate, rule: str) -> bool:
    """Returns True if the number satisfies the rule (grammar: `RULE`)."""
    match = RULE.fullmatch(rule)
    if match is None:
        raise ConfigError(f"{rule!r} is not a rule; write `<= 0.88`, `low > 0` or `abs <= 0.1`")
    part, bound = match["part"] or "value", float(match["bound"])
    measured = abs(number.value) if part == "abs" else float(getattr(number, part))
    return {
        "<=": measured <= bound,
        ">=": measured >= bound,
        "<": measured < bound,
        ">": measured > bound,
    }[match["sign"]]


def ratio(numerator: Estimate, denominator: Estimate, offset: float = 0.0) -> Estimate:
    """Returns (numerator - offset) / (denominator - offset), with an interval by the delta method.

    Both are treated as independent. Measured at the same prefixes they are correlated; then the interval is too wide.

    Raises:
        ConfigError: The denominator minus the offset is not positive.
    """
    above, below = numerator.value - offset, denominator.value - offset
    if below <= 0:
        raise ConfigError(f"the denominator of a ratio is {below:.3g}; it must be positive")
    errors = [(number.high - number.low) / 2 / Z95 for number in (numerator, denominator)]
    value = above / below
    half = Z95 * math.hypot(errors[0] / below, value * errors[1] / below)
    return Estimate(value=value, low=value - half, high=value + half, n=min(numerator.n, denominator.n))
