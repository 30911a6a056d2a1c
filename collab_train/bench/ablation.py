"""The ablation of the reward: the same training on pairs from windows of 0, 1, 2, 3 (CollabLLM, Figure 4)."""

from __future__ import annotations

from collab_train.bench.conditions import Ablation, TrainedSpec
from collab_train.tasks import get_task

BOTH = "both"
DEFAULT_TASK = "hidden_facets"


def specs(ablation: Ablation) -> tuple[TrainedSpec, ...]:
    """The config's assistants, or the runs that `commands` leave."""
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
    """One line each, to be run in order: pairs, then DPO on them. The longest window comes first, and the others
    are cut from its futures."""
    lines, reuse = [], ablation.reuse
    for w, rewards in sorted(_runs(ablation), reverse=True):
        folder = _folder(ablation, w, rewards)
        single = ["turns=1"] if w == 0 else []
        options = dict.fromkeys([f"w={w}", *ablation.options, *single, *_only(rewards, task)])
        from_there = [f"reuse={reuse}"] if reuse else []
        lines += [
            " ".join([f"usersim collab pairs {ablation.pairs} out={folder}/pairs", *options, *from_there]),
            f"usersim collab dpo {ablation.dpo} train={folder}/pairs/train.jsonl out={folder}/dpo",
        ]
        reuse = reuse if len(lines) > 2 else f"{folder}/pairs"
    return lines


def _runs(ablation: Ablation) -> list[tuple[int, str]]:
    return [(0, rewards) for rewards in ablation.immediate] + [(w, BOTH) for w in ablation.w]


def _folder(ablation: Ablation, w: int, rewards: str) -> str:
    return f"{ablation.folder}/w{w}" + ("" if rewards == BOTH else f"-{rewards}")


def _only(rewards: str, task: str) -> list[str]:
    """Overrides of `collab pairs` for the immediate rewards by themselves."""
    if rewards == "extrinsic":
        return ["intrinsic_weight=0"]
    if rewards == "intrinsic":
        own = ", ".join(f"{name} = 0" for name in get_task(task).rewards)
        return [f"rewards='{{{own}}}'"]
    if rewards == "helpfulness":
        return ["intrinsic_weight=0", "rewards='{helpfulness = 1}'", "judge=URL#MODEL"]
    return []
