"""`usersim calibrate`: calibrates P(end) of a User LM on where people ended, and writes it to its `userlm.json`.

usersim calibrate runs/userlm-135m data/userlm/dev.jsonl

Parts of each profile are dropped as in training. The first turn is not used.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usersim.cli import console, emit_json, show
from usersim.decoding.end_calibration import Decision, brier, fit
from usersim.errors import ConfigError, DataError
from usersim.rendering.conditioning import drop_conditions
from usersim.rendering.renderer import Renderer, read_settings, write_settings
from usersim.storage.records import read_records
from usersim.types import Conversation, UserProfile

if TYPE_CHECKING:
    import torch


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="usersim calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="run, adapter or model folder; its userlm.json is written")
    parser.add_argument("dev", nargs="+", help="files of conversations that the model was not trained on")
    parser.add_argument(
        "--conversations",
        type=int,
        default=400,
        help="maximum number of conversations, evenly spaced (default: 400)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the dropped profile parts (default: 0)")
    parser.add_argument("--dry-run", action="store_true", help="fit and report; write nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write the JSON document to FILE")
    args = parser.parse_args(argv)
    people = [conversation for path in args.dev for conversation in read_records(path, Conversation)]
    people = people[:: max(1, len(people) // max(1, args.conversations))][: args.conversations]
    decisions_by_conversation = decisions_of_all(args.model, people, seed=args.seed)
    facts = report(decisions_by_conversation)
    calibration = fit(
        [
            decision
            for conversation_decisions in decisions_by_conversation
            for decision in conversation_decisions
        ]
    )
    if not args.dry_run:
        folder = settings_folder(args.model)
        write_settings(read_settings(folder).model_copy(update={"calibration": calibration}), folder)
    facts["calibration"] = calibration.model_dump()
    emit_json(facts, stdout=args.json, path=args.json_out)
    if not args.json:
        show(facts)
    return 0


def settings_folder(model: Path) -> Path:
    """Returns the folder with `userlm.json` of a run, adapter or model. Raises ConfigError without one."""
    for folder in (model / "adapter", model / "model", model):
        if (folder / "userlm.json").is_file():
            return folder
    raise ConfigError(
        f"{model}: no userlm.json there; give a run of `usersim train`, an adapter or a model folder"
    )


def decisions_of_all(model: Path, people: Sequence[Conversation], *, seed: int) -> list[list[Decision]]:
    """Returns decisions by conversation. Raises DataError if all people left or all continued."""
    import torch
    from transformers import AutoModelForCausalLM

    from usersim.weights.default_model import resolve
    from usersim.weights.precision import default_device, torch_dtype

    settings_folder(model)
    path, device = resolve(model), default_device()
    renderer = Renderer.from_pretrained(path)
    weights: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(device))
    weights = weights.to(device).eval()
    decisions_by_conversation = []
    with torch.inference_mode():
        for conversation in console_progress(people):
            rng = random.Random(f"{seed}:{conversation.source}:{conversation.id}")
            profile = drop_conditions(conversation.profile, rng, unsaid=conversation.unsaid)
            decisions_by_conversation.append(list(decisions(weights, renderer, conversation, profile)))
    left = [
        decision.left
        for conversation_decisions in decisions_by_conversation
        for decision in conversation_decisions
    ]
    if not any(left) or all(left):
        kind = "continues" if left and all(left) else "leaves"
        raise DataError(f"no person {kind} in {len(people)} conversations; calibrate P(end) on others")
    return decisions_by_conversation


def decisions(
    model: Any, renderer: Renderer, conversation: Conversation, profile: UserProfile
) -> Iterator[Decision]:
    """Yields decisions of a person to leave or continue, after the first turn, with the model's raw P(end)."""
    import torch

    end, user_turns = renderer.settings.end_of_conversation_id, 0
    for example in renderer.examples(conversation, profile=profile):
        on = example.supervised
        starts = [i for i in range(1, len(on)) if on[i] and not on[i - 1]]
        rows = torch.tensor(starts, device=model.device) - 1  # logits at a position predict the next token
        ids = torch.tensor([example.ids], device=model.device)
        logits_PV: torch.Tensor = model(input_ids=ids, logits_to_keep=rows, use_cache=False).logits[0].float()
        for start, probability in zip(starts, torch.softmax(logits_PV, -1)[:, end].tolist(), strict=True):
            if user_turns:
                yield Decision(probability, user_turns, example.ids[start] == end)
            user_turns += 1


def report(decisions_by_conversation: Sequence[Sequence[Decision]]) -> dict[str, Any]:
    """Returns Brier scores before and after calibration, the latter cross-fitted over two halves of conversations."""
    halves = [
        [
            decision
            for conversation_decisions in decisions_by_conversation[start::2]
            for decision in conversation_decisions
        ]
        for start in (0, 1)
    ]
    every = [*halves[0], *halves[1]]
    squared_errors = [
        brier(half, fit(other)) * len(half) for half, other in zip(halves, halves[::-1], strict=True) if half
    ]
    left = sum(decision.left for decision in every) / len(every)
    return {
        "conversations": len(decisions_by_conversation),
        "decisions": len(every),
        "left": left,
        "mean_end_probability": sum(decision.end_probability for decision in every) / len(every),
        "brier_of_a_constant": left * (1 - left),
        "brier": brier(every),
        "brier_calibrated": sum(squared_errors) / len(every),
    }


def console_progress(people: Sequence[Conversation]) -> Iterator[Conversation]:
    from rich.progress import track

    yield from track(people, description="scoring", console=console, transient=True)
