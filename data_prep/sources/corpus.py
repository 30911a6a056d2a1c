"""Chat format of a corpus: recognition of its rows and their conversion to chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.jsonrows import Row

Convert = Callable[[dict[str, Any], str, SourceReport], RawChat | str]
"""Converts a row, given its place and the report, to a chat, or returns the reason why it cannot be read."""
Read = Callable[[Iterator[Row], SourceReport], Iterator[RawChat]]


@dataclass(frozen=True)
class ChatFormat:
    """Reader of one corpus format."""

    kind: str
    """Name on the command line."""
    recognises: Callable[[dict[str, Any]], bool]
    read: Read
    name: str | None = None
    """`source` of the records; None: the name of the file."""
    unit: str = "rows"
    """Unit of the records in a file, for counts."""
    config: str | None = None
    """Config of the `datasets` name, where it has several."""
    from_pages: bool = False
    """Chats come from web pages, whose button texts may be in the turns."""


def row_by_row(convert: Convert) -> Read:
    """Returns a reader that converts each row by itself."""

    def read(rows: Iterator[Row], report: SourceReport) -> Iterator[RawChat]:
        for place, row in rows:
            chat = convert(row, place, report)
            if isinstance(chat, str):
                report.reject(chat, place)
            else:
                yield chat

    return read
