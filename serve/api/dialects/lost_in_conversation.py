"""lost_in_conversation: a user who reveals one shard of a task a turn; JSON with `response` and `shard_id` back.

The model does not say which shard it revealed. `shard_id` is read off its words afterwards: the shard not yet
revealed of whose content words the response has the largest share, at least half; -1 where there is none.
The client has no word for the end (it stops when the task is solved or all is revealed), so the end is banned.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from serve.api.dialects.histories import from_transcript
from serve.api.dialects.reading import Ending, Reading, as_goal, unrecognised
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
class Shard:
    id: Any
    text: str


def recognises(text: str) -> bool:
    return text.lstrip().startswith(SIGNATURE)


def read(text: str) -> Reading:
    start, hidden = CONVERSATION.search(text), list(HIDDEN.finditer(text))
    if not start or not hidden:
        raise unrecognised("no conversation or no list of hints where lost_in_conversation has them")
    # The last of each: the agent's words stand before the lists, and JSON keeps to its line.
    revealed = list(REVEALED.finditer(text, start.end(), hidden[-1].start()))
    known, wanted = _shards(revealed[-1][1] if revealed else "[]"), _shards(hidden[-1][1])
    lists = revealed[-1] if revealed else hidden[-1]
    stop = text.rfind("\n\n", 0, lists.start())
    turns = from_transcript(text[start.end() : stop], SPEAKER)
    first = next((turn.text for turn in turns if turn.role == "user"), "")
    details = [shard.text for shard in (*known, *wanted)]
    ending = Ending.of("")

    def write(turn: UserTurn) -> str:
        said = ending.content(turn)
        answer = {"response": said, "shard_id": revealed_by(said, wanted)}
        return json.dumps(answer, ensure_ascii=False)

    goal = as_goal(first or " ".join(details), details if first else [])
    return Reading(as_profile(goal), turns, write, keys=KEYS, may_end=False)


def revealed_by(said: str, hidden: list[Shard]) -> Any:
    heard = _words(said)
    shares = [(len(_words(shard.text) & heard) / max(1, len(_words(shard.text))), shard) for shard in hidden]
    share, best = max(shares, key=lambda pair: pair[0], default=(0.0, Shard(-1, "")))
    return best.id if share >= OVERLAP else -1


def _words(text: str) -> set[str]:
    """Short ones say nothing about what a text is about, but for numbers."""
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3 or word[0].isdigit()}


def _shards(line: str) -> list[Shard]:
    try:
        return [Shard(item["shard_id"], str(item["shard"])) for item in json.loads(line)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unrecognised(f"a list of hints that is not JSON with shard and shard_id ({error})") from error
