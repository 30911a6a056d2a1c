"""Rows of a source: files, folders of shards, or a `datasets` name such as owner/name@config:split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.raw_chats import SourceReport, well_formed
from data_prep.sources.jsonrows import Row, json_rows, line_rows, record_break
from usersim.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Description files beside the shards of a dataset; they hold no rows."""
UNREAD = frozenset(
    ("header", "usage", "categories", "category_scores", "timestamp", "created", "detoxify_moderation")
)
"""Parquet columns, at any depth, that are large or slow to convert and never read."""


def check(where: str) -> None:
    """Raises DataError at once for a missing path, instead of at the first row."""
    if not is_hub_name(where):
        expand(Path(where))


def is_hub_name(where: str) -> bool:
    if Path(where).exists() or where.endswith(SUFFIXES):
        return False
    return HUB_NAME.fullmatch(where) is not None


def expand(path: Path) -> list[Path]:
    """Returns a file itself, or the data files of a folder in name order."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_data(file, path))
        if not files:
            raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in it")
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: expected one of {', '.join(SUFFIXES)}")
    return [path]


def _is_data(file: Path, directory: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(directory).parts)
    return file.name.endswith(SUFFIXES) and file.name not in DESCRIPTIONS and not hidden and file.is_file()


def read_rows(
    where: str,
    report: SourceReport,
    *,
    unit: str = "rows",
    config: str | None = None,
    name: str | None = None,
) -> Iterator[Row]:
    """Yields the rows of a source.

    Args:
        where: path or `datasets` name.
        report: counts of records; updated in place.
        unit: name of the count.
        config: default config of a `datasets` name.
        name: file name in error messages.
    """
    if is_hub_name(where):
        yield from _hub_rows(where, report, unit, config)
        return
    for file in expand(Path(where)):
        yield from _file_rows(file, name or well_formed(str(file)), report, unit)


def _file_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    if file.suffix == ".parquet":
        return _parquet_rows(file, name, report, unit)
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        return line_rows(file, name, report, unit)
    return json_rows(file, name, report, unit)


def _hub_rows(where: str, report: SourceReport, unit: str, config: str | None) -> Iterator[Row]:
    from datasets import load_dataset  # type: ignore[import-untyped]

    match = HUB_NAME.fullmatch(where)
    assert match is not None
    name, config, split = match["name"], match["config"] or config, match["split"] or "train"
    try:
        for row in load_dataset(name, config, split=split, streaming=True):
            report.counts[unit] += 1
            yield f"{where}:{report.counts[unit]}", row
    except Exception as error:
        # datasets raises half a dozen unrelated classes for a missing dataset or no network.
        reason = str(error).split("\n", 1)[0]
        raise DataError(
            f"{where}: no such path, and datasets cannot load it ({type(error).__name__}: {reason})"
        ) from error


def _parquet_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    """Yields the rows of a Parquet file; where it cannot be read further, earlier rows are kept."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=256, columns=_columns(table)):
                for row in batch.to_pylist():
                    number += 1
                    report.counts[unit] += 1
                    yield f"{name}:{number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n", 1)[0]
        report.reject("not a readable Parquet file", f"{name}:{number + 1}" if number else name)
        record_break(report, name, reason, records=number)


def _columns(table: Any) -> list[str]:
    paths = [table.schema.column(index).path for index in range(len(table.schema))]
    return [path for path in paths if UNREAD.isdisjoint(path.split("."))]
