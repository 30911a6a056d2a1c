"""Bytes of a plain or gzipped file, cut into lines or JSON values; a file may break off anywhere."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from usersim.errors import DataError

PIECE = 1 << 20
RECORD_LIMIT = 1 << 28
"""Bytes of one record. A quote lost in a large file would otherwise make one record of all that follows."""

BOM = b"\xef\xbb\xbf"
GAP = re.compile(rb"(?:\xef\xbb\xbf)?[\s,]*")
SCALAR = re.compile(rb"[^\s,\[\]{}\"]+")
# Possessive: a string with millions of escapes must not leave millions of places to come back to.
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
WHOLE_STRING = re.compile(STRING, re.S)
STRUCTURE = re.compile(rb"[\[\]{}]|" + STRING + rb'|"', re.S)


def open_bytes(file: Path) -> IO[bytes]:
    try:
        return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


@dataclass
class ByteStream:
    """An open file read in pieces; a piece is empty at the end, and where the file cannot be read on."""

    file: IO[bytes]
    error: str | None = None
    """Why it broke off; None after a proper end."""
    size: int = 0
    """Bytes read so far, after decompression."""

    def read(self, size: int = PIECE) -> bytes:
        try:
            # `read` would lose what it had gathered when the compressed data ends early.
            piece: bytes = self.file.read1(size)  # type: ignore[attr-defined]
        except (EOFError, OSError, zlib.error) as error:
            self.error = str(error) or type(error).__name__
            return b""
        self.size += len(piece)
        return piece


def lines(stream: ByteStream) -> Iterator[tuple[bytes | None, bool]]:
    """Each line without its line feed (None: longer than the limit), and whether a line feed ended it."""
    pending: list[bytes] = []
    size = 0
    while piece := stream.read():
        first, *others = piece.split(b"\n")
        size += len(first)
        pending.append(first)
        if size > RECORD_LIMIT:
            pending = []
        for other in others:
            yield (b"".join(pending) if size <= RECORD_LIMIT else None), True
            pending, size = [other], len(other)
    if size:
        yield (b"".join(pending) if size <= RECORD_LIMIT else None), False


class JsonValues:
    """The values of a JSON array, or those written one after another, each still as bytes.

    Only quotes and brackets are looked at, so a value that is no JSON inside costs itself and not the
    rest of the file. After the last value `broke_at` is the byte where an unfinished one began.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._dropped = 0
        self._in_array = False
        self.broke_at: int | None = None

    def __iter__(self) -> Iterator[bytes]:
        while self._skip_gap():
            byte = self._buffer[self._at : self._at + 1]
            if byte == b"[" and not self._in_array:
                self._in_array = True
                self._at += 1
            elif byte == b"]" and self._in_array:
                self._in_array = False
                self._at += 1
            else:
                end = self._end_of_value(byte)
                if end is None:
                    self.broke_at = self._dropped + self._at
                    return
                value = self._buffer[self._at : end]
                self._at = end
                yield value
        if self._in_array or self._stream.error:
            self.broke_at = self._dropped + self._at

    def _skip_gap(self) -> bool:
        """Moves to the next value; False at the end of the data."""
        while True:
            gap = GAP.match(self._buffer, self._at)
            self._at = gap.end() if gap else self._at
            if self._at < len(self._buffer):
                return True
            if not self._more():
                return False

    def _end_of_value(self, byte: bytes) -> int | None:
        if byte in b"{[":
            return self._end_of_nested()
        if byte in b"]}":
            return self._at + 1
        pattern = WHOLE_STRING if byte == b'"' else SCALAR
        while True:
            found = pattern.match(self._buffer, self._at)
            if found and (byte == b'"' or found.end() < len(self._buffer)):
                return found.end()
            if not self._more():
                return found.end() if found else None

    def _end_of_nested(self) -> int | None:
        level, scanned = 0, 0  # relative to the start of the value, which `_more` moves
        while True:
            for found in STRUCTURE.finditer(self._buffer, self._at + scanned):
                token = found[0]
                if token in (b"{", b"["):
                    level += 1
                elif token in (b"}", b"]"):
                    level -= 1
                    if not level:
                        return found.end()
                elif token == b'"':
                    scanned = found.start() - self._at  # a string that goes on in the next piece
                    break
            else:
                scanned = len(self._buffer) - self._at
            if not self._more():
                return None

    def _more(self) -> bool:
        """At least doubles an unfinished value, so that scanning it again stays linear in its length."""
        kept = self._buffer[self._at :]
        if len(kept) > RECORD_LIMIT:
            self._stream.error = f"no end of a record within {RECORD_LIMIT >> 20} MiB"
            return False
        pieces, wanted = [kept], max(PIECE, len(kept))
        while wanted > 0 and (piece := self._stream.read(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        self._dropped += self._at
        self._buffer, self._at = b"".join(pieces), 0
        return len(self._buffer) > len(kept)
