"""Parser of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

DONE = "[DONE]"


async def event_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yields the data of each event. Comments, other fields and an incomplete last event are left out.

    Lines end only at \\n or \\r\\n: a line decoder for text would also cut JSON at U+2028.
    """
    buffer, data = b"", list[bytes]()
    async for chunk in chunks:
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode("utf-8", errors="replace")
                data = []
