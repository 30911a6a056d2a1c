"""What a corpus module offers: how to recognise a row of it, and how its rows become chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.jsonrows import Row

Convert = Callable[[dict[str, Any], str, SourceReport], RawChat | str]
"""A row, its place and the report (for the name and the count so far) → the chat, or why there is none."""
Read = Callable[[Iterator[Row], SourceReport], Iterator[RawChat]]


@dataclass(frozen=True)
class Corpus:
    kind: str
    """As on the command line."""
    recognises: Callable[[dict[str, Any]], bool]
    read: Read
    name: str | None = None
    """`source` of the records; None: the name of the file."""
    unit: str = "rows"
    """What a record of the file is."""
    config: str | None = None
    """Of the `datasets` name, where the corpus has several."""
    from_pages: bool = False
    """Copied from web pages, whose buttons may be in the text."""


def row_by_row(convert: Convert) -> Read:
    def read(rows: Iterator[Row], report: SourceReport) -> Iterator[RawChat]:
        for place, row in rows:
            chat = convert(row, place, report)
            if isinstance(chat, str):
                report.reject(chat, place)
            else:
                yield chat

    return read
