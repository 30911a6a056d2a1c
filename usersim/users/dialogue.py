"""One conversation loop from any starting point: `eval` starts it from nothing, rewards from a candidate reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from usersim.errors import UsersimError
from usersim.types import Conversation, EndedBy, Turn, UserProfile, UserTurn
from usersim.users.plain_functions import PlainAssistant, PlainUser, as_assistant, as_user
from usersim.users.protocols import User


class Assistant(Protocol):
    """Sees true-role turns ending with the user's, and its own system prompt; never the user's goal."""

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str: ...


Watcher = Callable[[Turn | None, UserTurn | None], None]
"""Called after every turn: (turn, how it was sampled); (None, said) when the user leaves."""


async def converse(
    user: User | PlainUser,
    assistant: Assistant | PlainAssistant,
    profile: UserProfile,
    *,
    turns: Sequence[Turn] = (),
    max_user_turns: int = 8,
    system: str | None = None,
    seed: int | None = None,
    id: str = "conversation",  # noqa: A002 - the record's own field name
    source: str = "userlm",
    watch: Watcher | None = None,
) -> Conversation:
    """Lets the two talk until the user leaves or has spoken `max_user_turns` new turns.

    Starts from `turns`; whoever did not speak last speaks next (the user, from nothing). The last turn is
    the assistant's unless the user's ending came first. Errors of either side propagate: a failed
    conversation is for the caller to count. Either side may be a plain function (`usersim.users.plain_functions`).
    """
    user, assistant = as_user(user), as_assistant(assistant, system=system)
    spoken, ended_by = list(turns), "turn_cap"
    new_user_turns = 0
    while True:
        if spoken and spoken[-1].role == "user":
            reply = await assistant(spoken, system=system, seed=_turn_seed(seed, len(spoken)))
            if not isinstance(reply, str):
                raise UsersimError(
                    f"the assistant returned a {type(reply).__name__}, not the text of its reply"
                )
            spoken.append(Turn(role="assistant", text=reply))
            if watch:
                watch(spoken[-1], None)
        if new_user_turns == max_user_turns:
            break
        said = await user(profile, spoken, seed=_turn_seed(seed, len(spoken)))
        if said.ends:
            ended_by = "user"
            if watch:
                watch(None, said)
            break
        spoken.append(Turn(role="user", text=said.text))
        new_user_turns += 1
        if watch:
            watch(spoken[-1], said)
    ended: EndedBy = "user" if ended_by == "user" else "turn_cap"
    return Conversation(
        id=id,
        origin="simulated",
        source=source,
        system=system,
        turns=tuple(spoken),
        profile=profile,
        ended_by=ended,
    )


def _turn_seed(seed: int | None, position: int) -> int | None:
    # Far enough apart that the n samples and retries of neighbouring turns never share a seed.
    return None if seed is None else seed * 1_009 + position * 7_919
