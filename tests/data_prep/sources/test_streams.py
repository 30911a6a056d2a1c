"""Values of an array and lines of a file, from data that stops anywhere and pieces of any size."""

from __future__ import annotations

import json
from io import BytesIO

from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.sources.streams import ByteStream, JsonValues, lines

RECORDS = [{"id": name, "t": 'say "[{\\', "n": [1, {"e": "é\n😀"}], "x": None} for name in "abcd"]
ARRAY = json.dumps(RECORDS, ensure_ascii=False).encode()


@given(st.integers(min_value=0, max_value=len(ARRAY)), st.sampled_from([1, 2, 7, 64, 1 << 20]))
@example(len(ARRAY), 1)
def test_an_array_cut_anywhere_gives_its_first_values_and_the_place(size: int, piece: int) -> None:
    stream = _trickle(ARRAY[:size], piece)
    values = JsonValues(stream)
    parsed = [json.loads(value) for value in values]
    assert parsed == RECORDS[: len(parsed)]
    assert (values.broke_at is None) == (size in (0, len(ARRAY)))
    if values.broke_at is not None:
        before = ARRAY[: values.broke_at].rstrip(b", ")
        assert json.loads(before + b"]" if len(before) > 1 else b"[]") == parsed


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",\\ \n1a', max_size=60).map(str.encode))
def test_no_bytes_make_the_readers_fail_or_forget(data: bytes) -> None:
    for piece in (1, 1 << 20):
        values = JsonValues(_trickle(data, piece))
        parsed = list(values)
        assert all(parsed)
        assert sum(map(len, parsed)) <= len(data)
    assert [text for text, _ in lines(_trickle(data, 3))] == (data.split(b"\n") if data else [])[
        : -1 if data.endswith(b"\n") else None
    ]


def _trickle(data: bytes, piece: int) -> ByteStream:
    class Trickle(BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(min(piece, size or piece))

    return ByteStream(Trickle(data))
