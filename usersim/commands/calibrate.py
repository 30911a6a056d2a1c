"""`usersim calibrate`: fits P(end) of a User LM on people's own ends and writes it into its `userlm.json`.

usersim calibrate runs/userlm-135m-v4 data/userlm/dev.jsonl

Each conversation is read with parts of its profile dropped as in training; the first turn decides nothing.
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
    parser.add_argument("dev", nargs="+", help="conversations that it was not trained on")
    parser.add_argument("--conversations", type=int, default=400, help="at most so many, evenly spaced")
    parser.add_argument("--seed", type=int, default=0, help="of what is dropped from the profiles")
    parser.add_argument("--dry-run", action="store_true", help="fit and report; write nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write it there")
    args = parser.parse_args(argv)
    people = [conversation for path in args.dev for conversation in read_records(path, Conversation)]
    people = people[:: max(1, len(people) // max(1, args.conversations))][: args.conversations]
    places = decisions_of_all(args.model, people, seed=args.seed)
    facts = report(places)
    calibration = fit([place for of_one in places for place in of_one])
    if not args.dry_run:
        folder = settings_folder(args.model)
        write_settings(read_settings(folder).model_copy(update={"calibration": calibration}), folder)
    facts["calibration"] = calibration.model_dump()
    emit_json(facts, stdout=args.json, path=args.json_out)
    if not args.json:
        show(facts)
    return 0


def settings_folder(model: Path) -> Path:
    """Folder of the `userlm.json` of a run, an adapter or a model; raises ConfigError where there is none."""
    for folder in (model / "adapter", model / "model", model):
        if (folder / "userlm.json").is_file():
            return folder
    raise ConfigError(
        f"{model}: no userlm.json there; give a run of `usersim train`, an adapter or a model folder"
    )


def decisions_of_all(model: Path, people: Sequence[Conversation], *, seed: int) -> list[list[Decision]]:
    """By conversation; raises DataError where all people left or all went on."""
    import torch
    from transformers import AutoModelForCausalLM

    from usersim.weights.default_model import resolve
    from usersim.weights.precision import default_device, torch_dtype

    settings_folder(model)
    path, device = resolve(model), default_device()
    renderer = Renderer.from_pretrained(path)
    weights: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(device))
    weights = weights.to(device).eval()
    places = []
    with torch.inference_mode():
        for conversation in console_progress(people):
            rng = random.Random(f"{seed}:{conversation.source}:{conversation.id}")
            profile = drop_conditions(conversation.profile, rng, unsaid=conversation.unsaid)
            places.append(list(decisions(weights, renderer, conversation, profile)))
    left = [place.left for of_one in places for place in of_one]
    if not any(left) or all(left):
        kind = "goes on" if left and all(left) else "leaves"
        raise DataError(f"nobody {kind} in {len(people)} conversations; P(end) cannot be fitted on them")
    return places


def decisions(
    model: Any, renderer: Renderer, conversation: Conversation, profile: UserProfile
) -> Iterator[Decision]:
    """Decisions of a person to leave or go on, after the first turn, with the model's own P(end)."""
    import torch

    end, user_turns = renderer.settings.end_of_conversation_id, 0
    for example in renderer.examples(conversation, profile=profile):
        on = example.supervised
        starts = [i for i in range(1, len(on)) if on[i] and not on[i - 1]]
        rows = (
            torch.tensor(starts, device=model.device) - 1
        )  # the logits that predict a token stand before it
        ids = torch.tensor([example.ids], device=model.device)
        logits_PV: torch.Tensor = model(input_ids=ids, logits_to_keep=rows, use_cache=False).logits[0].float()
        for start, probability in zip(starts, torch.softmax(logits_PV, -1)[:, end].tolist(), strict=True):
            if user_turns:
                yield Decision(probability, user_turns, example.ids[start] == end)
            user_turns += 1


def report(places: Sequence[Sequence[Decision]]) -> dict[str, Any]:
    """Brier scores as it is and calibrated, the latter fitted on the other half of the conversations."""
    halves = [[place for of_one in places[start::2] for place in of_one] for start in (0, 1)]
    every = [*halves[0], *halves[1]]
    squared_errors = [
        brier(half, fit(other)) * len(half) for half, other in zip(halves, halves[::-1], strict=True) if half
    ]
    left = sum(place.left for place in every) / len(every)
    return {
        "conversations": len(places),
        "decisions": len(every),
        "left": left,
        "mean_end_probability": sum(place.end_probability for place in every) / len(every),
        "brier_of_a_constant": left * (1 - left),
        "brier": brier(every),
        "brier_calibrated": sum(squared_errors) / len(every),
    }


def console_progress(people: Sequence[Conversation]) -> Iterator[Conversation]:
    from rich.progress import track

    yield from track(people, description="reading", console=console, transient=True)
