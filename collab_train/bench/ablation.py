"""Ablation of the reward window: the same training on pairs from windows of 0, 1, 2 and 3 (CollabLLM, Figure 4)."""

from __future__ import annotations

from collab_train.bench.conditions import Ablation, TrainedSpec
from collab_train.tasks import get_task

BOTH = "both"
DEFAULT_TASK = "hidden_facets"


def specs(ablation: Ablation) -> tuple[TrainedSpec, ...]:
    """Returns the assistants of the config or, where it names none, those that `commands` train."""
    if ablation.assistants:
        return ablation.assistants
    return tuple(
        TrainedSpec(
            name=f"w={w}" if rewards == BOTH else f"w={w}, {rewards}",
            address=f"{_folder(ablation, w, rewards)}/dpo",
            w=w,
            rewards=rewards,
        )
        for w, rewards in _runs(ablation)
    )


def commands(ablation: Ablation, task: str = DEFAULT_TASK) -> list[str]:
    """Returns the shell commands of the ablation in running order: pairs, then DPO on them, for each window.

    The longest window comes first, because shorter windows reuse its futures.
    """
    lines, reuse = [], ablation.reuse
    for w, rewards in sorted(_runs(ablation), reverse=True):
        folder = _folder(ablation, w, rewards)
        one_turn = ["turns=1"] if w == 0 else []
        options = dict.fromkeys([f"w={w}", *ablation.options, *one_turn, *_only(rewards, task)])
        reuse_option = [f"reuse={reuse}"] if reuse else []
        lines += [
            " ".join([f"usersim collab pairs {ablation.pairs} out={folder}/pairs", *options, *reuse_option]),
            f"usersim collab dpo {ablation.dpo} train={folder}/pairs/train.jsonl out={folder}/dpo",
        ]
        reuse = reuse if len(lines) > 2 else f"{folder}/pairs"
    return lines


def _runs(ablation: Ablation) -> list[tuple[int, str]]:
    return [(0, rewards) for rewards in ablation.immediate] + [(w, BOTH) for w in ablation.w]


def _folder(ablation: Ablation, w: int, rewards: str) -> str:
    return f"{ablation.folder}/w{w}" + ("" if rewards == BOTH else f"-{rewards}")


def _only(rewards: str, task: str) -> list[str]:
    """Overrides of `collab pairs` that leave only one kind of immediate reward."""
    if rewards == "extrinsic":
        return ["intrinsic_weight=0"]
    if rewards == "intrinsic":
        zero_weights = ", ".join(f"{name} = 0" for name in get_task(task).rewards)
        return [f"rewards='{{{zero_weights}}}'"]
    if rewards == "helpfulness":
        return ["intrinsic_weight=0", "rewards='{helpfulness = 1}'", "judge=URL#MODEL"]
    return []
