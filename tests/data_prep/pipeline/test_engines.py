"""The same stage functions in one process, in two and on Ray Data: the same lines in the same order."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Literal

import pytest

from data_prep.__main__ import main
from data_prep.pipeline import workers as engines
from usersim.errors import BackendError

TOPICS = ("bread", "bikes", "tax", "maths", "poems", "cats", "rivers", "chess", "tea", "maps")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "log.jsonl"
    with path.open("w") as stream:
        for number in range(300):
            ask = f"tell me about {TOPICS[number % 10]} and {TOPICS[number // 30]} please, chat {number}"
            turns = [("user", ask), ("assistant", f"Call +1 415 555 2671, option {number}."), ("user", "ok")]
            row = {"id": f"c{number}", "messages": [{"role": r, "content": t} for r, t in turns]}
            stream.write(json.dumps(row) + "\n")
    return path


def prepared(log: Path, out: Path, *options: str) -> dict[str, bytes]:
    recipe = out.parent / f"{out.name}.toml"
    recipe.write_text(f'out = "{out}"\nbatch = 16\nshard = 4\n[[sources]]\nspec = "{log}"\n')
    assert main([str(recipe), *options]) == 0
    sheet = json.loads((out / "datasheet.json").read_text())
    counts = {key: sheet[key] for key in ("sources", "steps", "changed", "duplicates")}
    return {"counts": json.dumps(counts).encode()} | {p.name: p.read_bytes() for p in out.glob("*.jsonl")}


@pytest.fixture(scope="module")
def alone(log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return prepared(log, tmp_path_factory.mktemp("alone") / "out")


def test_two_processes_give_what_one_gives(log: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    assert prepared(log, tmp_path / "out", "--workers", "2") == alone


def test_ray_with_two_workers_gives_what_one_process_gives(
    log: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed (extra: ray)")
    assert prepared(log, tmp_path / "out", "--engine", "ray", "--workers", "2") == alone


def test_a_worker_that_dies_is_one_readable_error() -> None:
    with pytest.raises(BackendError, match="fewer --workers"):
        list(engines.run("local", 2, os._exit, [1]))  # type: ignore[arg-type, list-item]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_what_a_stage_raises_is_raised_here(engine: Literal["local", "ray"]) -> None:
    if engine == "ray":
        pytest.importorskip("ray.data", reason="Ray is not installed (extra: ray)")
    with pytest.raises(TypeError, match="must be real number, not str"):
        list(engines.run(engine, 2, math.sqrt, ["x"]))  # type: ignore[arg-type, list-item]
