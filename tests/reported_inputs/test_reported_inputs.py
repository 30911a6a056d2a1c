"""Every reported input gives its right result. Ids that still fail are listed here, and only here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reported_inputs.cases import CASES
from tests.reported_inputs.run_cases import KINDS


@pytest.mark.parametrize(
    ("kind", "given", "right"),
    [pytest.param(kind, given, right, id=name) for name, kind, given, _, right in CASES],
)
def test_the_reported_input_gives_the_right_result(kind: str, given: Any, right: Any) -> None:
    assert KINDS[kind](given) == right
