"""MTRAG-UN: people chat with a live retrieval assistant. Every dialogue is cut at a turn that others chose."""

from __future__ import annotations

from functools import partial
from typing import Any

from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.messages import read_message_row


def recognises(row: dict[str, Any]) -> bool:
    return "messages" in row and str(row.get("dataset")).startswith("MT-RAG")


MTRAG = ChatFormat("mtrag", recognises, row_by_row(partial(read_message_row, ended_by="cut")), name="mtrag")
