"""G0, validity gates: faults of a conversation that no style could excuse.

Each gate is a share of conversations beside the human share, which is seldom zero. Four gates are rules of the guards
(`usersim.users.guards`), applied to people and simulator alike. A simulator that ran under these guards fails almost
none by construction, and people had no guards: fewer than people is then "guarded" and no finding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.fidelity.samples.features import user_texts
from eval.fidelity.settings import TRUSTED_N
from usersim.stats.estimates import Estimate, newcombe, wilson
from usersim.types import Conversation, Record, Turn
from usersim.users.guards import Guards, rejection

GateVerdict = Literal["different", "inconclusive", "guarded", "too few", "not applicable"]
GUARD_OF = {
    "empty_turn": "empty",
    "repeat": "repeat",
    "assistant_speak": "assistant_speak",
    "goal_copy": "goal_copy",
}
"""Guard by the gate that applies its rule."""
ROLE_LABEL = re.compile(r"^\s*(?:assistant|ai|bot|chatgpt|user|human|system)\s*:", re.IGNORECASE)
NO_GUARDS = Guards.off()


class GateResult(Record):
    key: str
    label: str
    simulated: Estimate | None
    """None where the gate applies to no conversation (no goal to copy)."""
    human: Estimate | None
    difference: Estimate | None
    verdict: GateVerdict


@dataclass(frozen=True)
class ValidityGate:
    """Rule that a conversation may fail."""

    key: str
    label: str
    fails: Callable[[Conversation], bool | None]
    """None: the gate does not apply to this conversation."""


def _any_rejected(reason: str) -> Callable[[Conversation], bool]:
    """Returns a test that applies a guard's rule to finished turns."""
    guards = NO_GUARDS.model_copy(update={reason: True})

    def fails(conversation: Conversation) -> bool:
        history: list[Turn] = []
        for turn in conversation.turns:
            if turn.role == "user" and rejection(
                turn.text.strip(), conversation.profile.goal, history, guards
            ):
                return True
            history.append(turn)
        return False

    return fails


def _copies_goal(conversation: Conversation) -> bool | None:
    return _any_rejected("goal_copy")(conversation) if conversation.profile.goal else None


def _slips(conversation: Conversation) -> bool:
    return any(ROLE_LABEL.match(text) for text in user_texts(conversation))


def gates(turn_cap: int | None) -> list[ValidityGate]:
    gates_list = [
        ValidityGate("empty_turn", "an empty user turn", _any_rejected("empty")),
        ValidityGate("repeat", "a user turn repeated word for word", _any_rejected("repeat")),
        ValidityGate("role_label", "a user turn that starts with a role label", _slips),
        ValidityGate(
            "assistant_speak", "a user turn that talks like the assistant", _any_rejected("assistant_speak")
        ),
        ValidityGate("goal_copy", "the hidden goal copied into a turn", _copies_goal),
        ValidityGate("one_turn", "only one user turn", lambda c: len(user_texts(c)) == 1),
    ]
    if turn_cap is not None:
        label = f"still going at the cap of {turn_cap} user turns"
        gates_list.append(ValidityGate("at_turn_cap", label, lambda c: len(user_texts(c)) >= turn_cap))
    return gates_list


def run_gates(
    simulated: Sequence[Conversation],
    human: Sequence[Conversation],
    turn_cap: int | None,
    guards: Guards | None = None,
) -> list[GateResult]:
    """Returns shares with Wilson intervals and their difference with Newcombe's; conversations are the unit.

    `guards` are those that the simulator ran under; None (unknown) counts as on.
    """
    return [_result(gate, simulated, human, is_guarded(gate.key, guards)) for gate in gates(turn_cap)]


def is_guarded(key: str, guards: Guards | None) -> bool:
    """Tests whether a guard may have kept the simulator from failing this gate."""
    guard = GUARD_OF.get(key)
    return guard is not None and (guards is None or bool(getattr(guards, guard)))


def _result(
    gate: ValidityGate,
    simulated: Sequence[Conversation],
    human: Sequence[Conversation],
    is_guarded_gate: bool,
) -> GateResult:
    simulated_share, human_share = _share(gate, simulated), _share(gate, human)
    if simulated_share is None or human_share is None:
        return GateResult(
            key=gate.key,
            label=gate.label,
            simulated=simulated_share,
            human=human_share,
            difference=None,
            verdict="not applicable",
        )
    gap = newcombe(simulated_share, human_share)
    verdict: GateVerdict = "inconclusive"
    if gap.n < TRUSTED_N:
        verdict = "too few"
    elif gap.low > 0 or gap.high < 0:
        verdict = "guarded" if is_guarded_gate and gap.high < 0 else "different"
    return GateResult(
        key=gate.key,
        label=gate.label,
        simulated=simulated_share,
        human=human_share,
        difference=gap,
        verdict=verdict,
    )


def _share(gate: ValidityGate, conversations: Sequence[Conversation]) -> Estimate | None:
    failures = [failed for failed in map(gate.fails, conversations) if failed is not None]
    return wilson(sum(failures), len(failures)) if failures else None
