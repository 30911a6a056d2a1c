"""Every reported input gives its right result. Ids that still fail are listed here, and only here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reported_inputs.cases import CASES
from tests.reported_inputs.run_cases import KINDS

FAILING = frozenset(
    [
        *("P01", "P02", "P03", "P03b", "P04", "P05", "V01", "V02", "V03"),
        *("D01a", "D01b", "D01c", "D01d", "D02", "D03", "D04"),
    ]
)
"""Strict: an id that passes has to leave this list."""


@pytest.mark.parametrize(
    ("kind", "given", "right"),
    [
        pytest.param(
            kind,
            given,
            right,
            id=name,
            marks=[pytest.mark.xfail(reason="not mended yet", strict=True)] if name in FAILING else [],
        )
        for name, kind, given, _, right in CASES
    ],
)
def test_the_reported_input_gives_the_right_result(kind: str, given: Any, right: Any) -> None:
    assert KINDS[kind](given) == right


def test_the_failing_ids_are_cases() -> None:
    assert {case[0] for case in CASES} >= FAILING
