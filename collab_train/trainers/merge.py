"""Merging of a trained adapter into a model folder for any engine, in the dtype of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from collab_train.rollout.engines.models import adapter_of, base_of, load_assistant
from usersim.errors import ConfigError
from usersim.weights.default_model import BASE_NAME, build_base


def merge(run: str, out: str) -> dict[str, Any]:
    """Writes the merged model and tokenizer to `out`.

    Raises:
        ConfigError: `run` has no adapter, or `out` exists.
    """
    folder = Path(out)
    if adapter_of(run) is None:
        raise ConfigError(
            f"{run}: no adapter there; give a run of `usersim collab sft|dpo|online-dpo|grpo|rloo`"
        )
    if folder.exists():
        raise ConfigError(f"{out} exists; give another folder, or delete it")
    model, tokenizer = load_assistant(run, trainable=False, dtype=_dtype(base_of(run)))
    partial = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
    return {"run": run, "out": out, "serve": f"python -m serve.engine --model {out} --port 8001"}


def _dtype(base: str) -> str:
    folder = build_base() if base in ("local", BASE_NAME) else Path(base)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(settings.get("dtype") or settings.get("torch_dtype") or "float32")
