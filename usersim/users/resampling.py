"""Rejection sampling of user turns: bookkeeping of attempts until the guards accept each turn."""

from __future__ import annotations

from collections import Counter

from usersim.errors import GuardError
from usersim.types import UserTurn

CUT = "cut"
"""Reason of an attempt rejected only because it was cut off. It is used where no other attempt is accepted."""


class Tries:
    """Accepted and rejected attempts at `n` turns, by index.

    `lenient` accepts the first attempt if all are rejected.
    """

    def __init__(self, n: int, *, lenient: bool = False) -> None:
        self.n, self.lenient = n, lenient
        self.accepted: dict[int, UserTurn] = {}
        self.first: dict[int, UserTurn] = {}
        self.cut: dict[int, UserTurn] = {}
        """First attempt of each turn that was rejected only for its length."""
        self.rejected: dict[int, list[str]] = {index: [] for index in range(n)}

    @property
    def missing(self) -> list[int]:
        return [index for index in range(self.n) if index not in self.accepted]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(why for reasons in self.rejected.values() for why in reasons)

    def add(self, index: int, turn: UserTurn, reason: str | None) -> None:
        """Records one attempt. `reason` is why the guards rejected it; None if they accepted it."""
        if reason is None:
            self.accepted[index] = turn
            return
        self.rejected[index].append(reason)
        self.first.setdefault(index, turn)
        if reason == CUT:
            self.cut.setdefault(index, turn)

    def settle(self) -> None:
        """Accepts cut-off turns where no whole one was accepted. Call it after the last attempt."""
        for index in self.cut.keys() - self.accepted.keys():
            self.accepted[index] = self.cut[index]
            self.rejected[index].remove(CUT)
        if self.lenient:
            self.accepted = self.first | self.accepted

    def turns(self, attempts: int, *, prompt_tokens: int) -> list[UserTurn]:
        """Returns all `n` turns with the reasons of their rejected attempts. Raises GuardError if one is missing."""
        if self.missing:
            raise self._exhausted(attempts)
        return [
            self.accepted[index].model_copy(
                update={"prompt_tokens": prompt_tokens, "rejected": tuple(self.rejected[index])}
            )
            for index in range(self.n)
        ]

    def _exhausted(self, attempts: int) -> GuardError:
        reasons = Counter(why for index in self.missing for why in self.rejected[index])
        listed = ", ".join(f"{why} {count}" for why, count in reasons.most_common())
        return GuardError(
            f"no acceptable user turn in {attempts} attempts ({listed}); "
            "loosen the guards, raise the temperature or give a richer goal",
            reasons=dict(reasons),
        )
