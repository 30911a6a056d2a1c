"""`population.json`: a fitted population as a record, and where a model keeps it."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

from pydantic import ValidationError

from usersim.errors import ConfigError, DataError
from usersim.storage.records import atomic_writer, explain
from usersim.types import Record, Style
from usersim.weights.default_model import POPULATION_FILE, own_folder

ATTRIBUTES = tuple(Style.model_fields)
STATED, TRAIT = "stated:", "trait:"
"""Prefixes of columns with two values: whether a style attribute is stated; whether a person has a trait."""
LEVELS = 254
"""Steps of the unit interval in which training people's ranks are kept; one byte an attribute."""
NOT_STATED = 255


class Stratum(Record):
    """People of similar patience: a Gaussian copula over their marginals."""

    first_turns: int
    """Fewest user turns of its people."""
    last_turns: int | None
    """Most user turns of its people; None: no limit."""
    share: float
    """Share of the population."""
    people: int
    marginals: dict[str, tuple[float, ...]]
    """Attribute → values at the quantile levels (i + 0.5) / k, over the people who state it."""
    shares: dict[str, float]
    """Column with two values → share of people who have it."""
    columns: tuple[str, ...]
    """Columns that vary, in the order of `correlation`."""
    correlation: tuple[float, ...]
    """Latent correlations: the lower triangle without its diagonal, row by row."""


class Scale(Record):
    """Piecewise linear map of an attribute's values to ranks between 0 and 1."""

    values: tuple[float, ...]
    ranks: tuple[float, ...]


class PopulationRecord(Record):
    """What a population file holds: numbers only, no text of a chat or of a persona."""

    version: int = 1
    people: int
    """People it was fitted to, one conversation each."""
    described: int
    """People whose persona has a description."""
    ends: int
    """People whose conversation ended by their own leaving; without enough of them, patience is not stated."""
    states_patience: bool
    sources: dict[str, int]
    """People of each corpus."""
    strata: tuple[Stratum, ...]
    scales: dict[str, Scale]
    """The units of `distance`: an attribute's ranks among all people it was fitted to."""
    distance: float
    """A drawn user differs from every person of the fit by more than this, in the attribute that differs most."""
    styles: str
    """Ranks of the people of the fit in 254 steps, distinct rows sorted; one byte an attribute, zlib, base64."""

    def style_rows(self) -> list[bytes]:
        """One row of bytes a distinct style; `NOT_STATED` where it has no value."""
        raw = zlib.decompress(base64.b64decode(self.styles))
        height = len(raw) // len(ATTRIBUTES)
        columns = [raw[i * height : (i + 1) * height] for i in range(len(ATTRIBUTES))]
        return [bytes(row) for row in zip(*columns, strict=True)]


def pack_rows(rows: set[bytes]) -> str:
    """Inverse of `PopulationRecord.style_rows`: by columns, which compresses best."""
    ordered = sorted(rows)
    columns = b"".join(bytes(row[i] for row in ordered) for i in range(len(ATTRIBUTES)))
    return base64.b64encode(zlib.compress(columns, 9)).decode("ascii")


def population_file(model: str | Path | None = None) -> Path:
    """Where the population of a model is kept; the file may not be there.

    Args:
        model: As for `usersim.load`: None or the shipped name, a run directory, an adapter or a model folder; or the
            population file itself.
    """
    if model is not None and Path(model).suffix == ".json":
        return Path(model)
    return own_folder(model) / POPULATION_FILE


def read_population(file: Path) -> PopulationRecord:
    """Raises ConfigError where it is missing or damaged."""
    try:
        record = PopulationRecord.model_validate_json(file.read_text(encoding="utf-8"))
        record.style_rows()
    except OSError as error:
        raise ConfigError(
            f"{file}: no population there; fit one with `usersim population fit CONVERSATIONS --out MODEL`"
        ) from error
    except ValidationError as error:
        raise ConfigError(f"{file}: not a population: {explain(error)}") from error
    except (ValueError, zlib.error) as error:
        raise ConfigError(f"{file}: damaged ({error}); copy it again") from error
    return record


def write_population(record: PopulationRecord, file: Path) -> None:
    """Writes the file, whole or not at all; raises DataError where its folder does not exist."""
    if not file.parent.is_dir():
        raise DataError(f"{file.parent}: no such folder; give a model folder, or a path that ends in .json")
    with atomic_writer(file) as stream:
        stream.write(record.model_dump_json() + "\n")
