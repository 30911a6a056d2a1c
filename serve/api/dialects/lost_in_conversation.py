"""Dialect of lost_in_conversation, whose user reveals one shard of a task per turn; `response` and `shard_id` out.

The model does not report the shard it revealed. `shard_id` is inferred: the hidden shard with the largest share of its
content words in the response, at least half; -1 if there is none. The client stops by itself and has no stop marker,
so the end is banned.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from serve.api.dialects.histories import from_transcript
from serve.api.dialects.parsed_prompt import ParsedPrompt, StopMarker, as_goal, unrecognised
from usersim.types import UserTurn
from usersim.users.protocols import as_profile

SIGNATURE = "You are simulating a user of an interactive LLM system"
HIDDEN = re.compile(r"(?:hints|shards) that have not been revealed yet:[ \t]*\n(\[.*\])[ \t]*$", re.MULTILINE)
REVEALED = re.compile(
    r"(?:hints|shards) that have already been revealed:[ \t]*\n(\[.*\])[ \t]*$", re.MULTILINE
)
CONVERSATION = re.compile(r"the conversation so far:[ \t]*\n")
SPEAKER = re.compile(r"(?:\A|\n\n)\[(user|assistant)\] ?")
KEYS = frozenset({"response", "shard_id"})
OVERLAP = 0.5


@dataclass(frozen=True)
class TaskShard:
    id: Any
    text: str


def recognises(text: str) -> bool:
    return text.lstrip().startswith(SIGNATURE)


def read(text: str) -> ParsedPrompt:
    history_start, hidden = CONVERSATION.search(text), list(HIDDEN.finditer(text))
    if not history_start or not hidden:
        raise unrecognised("no conversation or no list of hints in the format of lost_in_conversation")
    # The last of each: the agent's turns come before the lists, and each JSON list is one line.
    revealed = list(REVEALED.finditer(text, history_start.end(), hidden[-1].start()))
    revealed_shards, hidden_shards = _shards(revealed[-1][1] if revealed else "[]"), _shards(hidden[-1][1])
    shard_lists = revealed[-1] if revealed else hidden[-1]
    history_end = text.rfind("\n\n", 0, shard_lists.start())
    turns = from_transcript(text[history_start.end() : history_end], SPEAKER)
    first = next((turn.text for turn in turns if turn.role == "user"), "")
    details = [shard.text for shard in (*revealed_shards, *hidden_shards)]
    stop_marker = StopMarker.from_instructions("")

    def format_reply(turn: UserTurn) -> str:
        response = stop_marker.content(turn)
        answer = {"response": response, "shard_id": match_shard(response, hidden_shards)}
        return json.dumps(answer, ensure_ascii=False)

    goal = as_goal(first or " ".join(details), details if first else [])
    return ParsedPrompt(as_profile(goal), turns, format_reply, reply_keys=KEYS, may_end=False)


def match_shard(response: str, hidden_shards: list[TaskShard]) -> Any:
    response_words = _content_words(response)
    shares = [
        (len(_content_words(shard.text) & response_words) / max(1, len(_content_words(shard.text))), shard)
        for shard in hidden_shards
    ]
    share, best = max(shares, key=lambda pair: pair[0], default=(0.0, TaskShard(-1, "")))
    return best.id if share >= OVERLAP else -1


def _content_words(text: str) -> set[str]:
    """Words of more than three letters, and numbers."""
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3 or word[0].isdigit()}


def _shards(line: str) -> list[TaskShard]:
    try:
        return [TaskShard(item["shard_id"], str(item["shard"])) for item in json.loads(line)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unrecognised(f"the list of hints is not JSON with shard and shard_id ({error})") from error
