"""Ledger beside a User LM's weights: the training data of each run, and the row where each run stopped.

Only committed files are shared between machines. A run that continues from an adapter reads there the windows of the
pass that were trained on (`skip = "ledger"`). A model card reads there the trained share of a pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.errors import ConfigError
from usersim.storage.records import explain, write_json
from usersim.types import Record

LEDGER = "ledger.json"


class Stretch(Record):
    """Training data of one run: windows `first` to `last` (exclusive) of a pass over its rows.

    Fields are None for runs before the ledger existed, where the model card has no value.
    """

    run: str
    rows_sha256: str | None = None
    """Hash of all tokens and labels of the pass, in order."""
    pass_windows: int | None = None
    pass_tokens: int | None = None
    first: int | None = None
    last: int | None = None
    tokens: int
    supervised_tokens: int | None = None
    steps: int
    batch: int
    lr: float
    schedule: str
    emphasis: tuple[float, float]
    """Emphasis at the first step and at the last."""
    averaged: int = 1
    """Number of checkpoints averaged."""
    eval_loss: float | None = None


@dataclass
class RowCounter:
    """Counter and hash of all rows passed through `count`, including those skipped later."""

    windows: int = 0
    tokens: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def count(self, rows: Iterable[dict[str, list[int]]]) -> Iterator[dict[str, list[int]]]:
        for row in rows:
            self.windows += 1
            self.tokens += len(row["input_ids"])
            self._digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
            yield row

    @property
    def sha256(self) -> str:
        return str(self._digest.hexdigest())


def read_ledger(folder: Path) -> tuple[Stretch, ...]:
    """Reads the ledger; empty if `folder` has none. Raises ConfigError for a damaged one."""
    file = folder / LEDGER
    if not file.is_file():
        return ()
    try:
        return tuple(Stretch.model_validate(entry) for entry in json.loads(file.read_bytes()))
    except ValidationError as error:
        raise ConfigError(
            f"{file}: damaged ({explain(error)}); copy it again from the adapter's source"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: damaged ({error}); copy it again from the adapter's source") from error


def write_ledger(folder: Path, stretches: Iterable[Stretch]) -> None:
    write_json(folder / LEDGER, [stretch.model_dump(mode="json") for stretch in stretches])


def refuse_other_rows(ledger: tuple[Stretch, ...], rows: RowCounter, *, where: Path) -> None:
    """Raises ConfigError if the last run of the ledger had other rows."""
    if ledger[-1].rows_sha256 != rows.sha256:
        raise ConfigError(
            f"skip=ledger: {where / LEDGER} stopped at window {ledger[-1].last} of {ledger[-1].pass_windows} in "
            f"other rows than these {rows.windows} (data, config or version differ); restore them or give skip=N"
        )
