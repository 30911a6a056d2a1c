"""`usersim.connect(url, sync=True)`: the endpoint's client for code without an event loop, notebooks included."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from usersim.errors import UsersimError
from usersim.remote.async_client import RemoteUser
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.background_loop import run
from usersim.users.protocols import Leaving, TurnPiece


class SyncRemoteUser:
    """`RemoteUser`, waited for: the options are its options."""

    def __init__(self, user: RemoteUser) -> None:
        self.user = user

    @property
    def name(self) -> str:
        return self.user.name

    def __call__(self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
        return run(self.user(profile, turns, seed=seed))

    def sample(self, profile: UserProfile, turns: Sequence[Turn], **options: Any) -> list[UserTurn]:
        return run(self.user.sample(profile, turns, **options))

    def stream(
        self, profile: UserProfile, turns: Sequence[Turn], **options: Any
    ) -> Generator[TurnPiece | UserTurn, None, None]:
        """Leaving the loop early, or closing the generator, ends the request."""
        coming = self.user.stream(profile, turns, **options)

        async def following() -> TurnPiece | UserTurn | None:
            return await anext(coming, None)

        try:
            while (piece := run(following())) is not None:
                yield piece
        finally:
            run(coming.aclose())

    def termination(self, profile: UserProfile, turns: Sequence[Turn], **options: Any) -> Leaving:
        return run(self.user.termination(profile, turns, **options))

    def batch(
        self, requests: Sequence[tuple[UserProfile, Sequence[Turn]]], **options: Any
    ) -> list[UserTurn | UsersimError]:
        return run(self.user.batch(requests, **options))

    def profiles(self, n: int = 1, *, seed: int | None = None) -> list[UserProfile]:
        return run(self.user.profiles(n, seed=seed))

    def close(self) -> None:
        run(self.user.aclose())

    def __enter__(self) -> SyncRemoteUser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
