"""Bytes of a plain or gzipped file, split into lines or JSON values; a file may break off anywhere."""

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
"""Longest record in bytes. Without a limit, one lost quote could make a record of the rest of the file."""

BOM = b"\xef\xbb\xbf"
GAP = re.compile(rb"(?:\xef\xbb\xbf)?[\s,]*")
SCALAR = re.compile(rb"[^\s,\[\]{}\"]+")
# Possessive: a string with millions of escapes must not cause millions of backtracking points.
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
    """Open file, read in pieces. A piece is empty at the end, and where the file cannot be read further."""

    file: IO[bytes]
    error: str | None = None
    """Read error; None after a complete read."""
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
    """Yields each line without its line feed (None: longer than the limit), and whether a line feed ended it."""
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
    """Values of a JSON array, or of values written one after another, as bytes.

    Only quotes and brackets are scanned, so a malformed value costs itself and not the rest of the file. After the last
    value, `broke_at` is the byte offset of an unfinished one.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0
        self._discarded = 0
        self._in_array = False
        self.broke_at: int | None = None

    def __iter__(self) -> Iterator[bytes]:
        while self._skip_gap():
            byte = self._buffer[self._position : self._position + 1]
            if byte == b"[" and not self._in_array:
                self._in_array = True
                self._position += 1
            elif byte == b"]" and self._in_array:
                self._in_array = False
                self._position += 1
            else:
                end = self._end_of_value(byte)
                if end is None:
                    self.broke_at = self._discarded + self._position
                    return
                value = self._buffer[self._position : end]
                self._position = end
                yield value
        if self._in_array or self._stream.error:
            self.broke_at = self._discarded + self._position

    def _skip_gap(self) -> bool:
        """Moves to the next value; returns False at the end of the data."""
        while True:
            gap = GAP.match(self._buffer, self._position)
            self._position = gap.end() if gap else self._position
            if self._position < len(self._buffer):
                return True
            if not self._read_more():
                return False

    def _end_of_value(self, byte: bytes) -> int | None:
        if byte in b"{[":
            return self._end_of_nested()
        if byte in b"]}":
            return self._position + 1
        pattern = WHOLE_STRING if byte == b'"' else SCALAR
        while True:
            match = pattern.match(self._buffer, self._position)
            if match and (byte == b'"' or match.end() < len(self._buffer)):
                return match.end()
            if not self._read_more():
                return match.end() if match else None

    def _end_of_nested(self) -> int | None:
        level, scanned = 0, 0  # relative to the start of the value, which `_read_more` moves
        while True:
            for match in STRUCTURE.finditer(self._buffer, self._position + scanned):
                token = match[0]
                if token in (b"{", b"["):
                    level += 1
                elif token in (b"}", b"]"):
                    level -= 1
                    if not level:
                        return match.end()
                elif token == b'"':
                    scanned = match.start() - self._position  # a string that goes on in the next piece
                    break
            else:
                scanned = len(self._buffer) - self._position
            if not self._read_more():
                return None

    def _read_more(self) -> bool:
        """Reads on; at least doubles an unfinished value, so that scanning stays linear in its length."""
        unread = self._buffer[self._position :]
        if len(unread) > RECORD_LIMIT:
            self._stream.error = f"no end of a record within {RECORD_LIMIT >> 20} MiB"
            return False
        pieces, missing = [unread], max(PIECE, len(unread))
        while missing > 0 and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        self._discarded += self._position
        self._buffer, self._position = b"".join(pieces), 0
        return len(self._buffer) > len(unread)
