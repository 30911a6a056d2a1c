"""A whole run of `usersim collab mr` of which a file was cut off anywhere, run again by the same command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from collab_train.rollout import command as mr
from usersim.__main__ import main
from usersim.cli import run_main
from usersim.testing import ScriptedUser
from usersim.types import Turn

DAMAGED = "config.json is damaged; choose another out=…, or delete it to start over there"
GROWS = ("samples.jsonl", "candidates.jsonl")


class User(ScriptedUser):
    name = "scripted"

    async def aclose(self) -> None:
        pass


class Assistant:
    """Says what follows from the seed and the history alone, in odd characters."""

    asked = 0

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        type(self).asked += 1
        return f"By train 🚄\u2028 {seed} {len(turns)}\u0085 é"

    async def aclose(self) -> None:
        pass


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    row = {
        "id": "ç",
        "turns": [{"role": "user", "text": "plan a trip"}],
        "goal": {"summary": "plan a trip", "facets": [{"text": "by train"}]},
    }
    (tmp_path / "contexts.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for folder in ("user", "assistant"):
        (tmp_path / folder).mkdir()

    def scripted(config: mr.MRConfig) -> tuple[Any, Any]:
        return User("plan a trip", "and back?"), Assistant()

    monkeypatch.setattr(mr, "open_speakers", scripted)
    monkeypatch.setattr(mr, "user_cache_key", _same)
    words = [f"{name}='{tmp_path / name}'" for name in ("user", "assistant", "out")]
    return ["collab", "mr", f"contexts='{tmp_path / 'contexts.jsonl'}'", *words, "w=1", "n=1", "--json"]


async def _same(where: str, *, retries: int = 0) -> str:
    return "scripted"


def cuts(content: bytes) -> Iterator[int]:
    """Every byte of a small file; of a large one, the bytes about every line's end."""
    if len(content) < 700:
        yield from range(len(content))
        return
    ends = [-1, *(at for at, byte in enumerate(content) if byte == ord("\n"))]
    near = {end + 1 + away for end in ends for away in range(-2, 3)}
    odd = {at for at, byte in enumerate(content) if byte > 127}
    yield from sorted(at for at in near | odd if 0 <= at < len(content))


def test_a_run_cut_anywhere_goes_on_or_says_what_to_do(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, command) == 0
    out, whole, calls = tmp_path / "out", tmp_path / "whole", Assistant.asked
    assert run_main(main, command) == 0
    assert Assistant.asked == calls, "nothing was left to ask"
    capsys.readouterr()
    shutil.copytree(out, whole)
    names = sorted(file.name for file in whole.iterdir() if file.name != ".lock")
    assert names == [
        "candidates.jsonl",
        "config.json",
        "metrics.jsonl",
        "results.jsonl",
        "samples.jsonl",
        "summary.json",
    ]
    for name in names:
        content = (whole / name).read_bytes()
        for cut in cuts(content):
            shutil.rmtree(out)
            shutil.copytree(whole, out)
            (out / name).write_bytes(content[:cut])
            code = run_main(main, command)
            printed = capsys.readouterr()
            place = f"{name} cut at {cut}"
            if name == "config.json" and not _is_json(content[:cut]):
                assert code == 2, place
                assert printed.err.splitlines()[-1].endswith(DAMAGED), place
                continue
            assert code == 0, f"{place}: {printed.err}"
            summary, before = (json.loads((folder / "summary.json").read_bytes()) for folder in (out, whole))
            for counted in ("contexts", "candidates", "futures", "mean_mr", "futures_failed", "user_tokens"):
                assert summary[counted] == before[counted], place
            assert (out / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes(), place
            for grows in GROWS:
                assert _lines(out / grows) == _lines(whole / grows), place
            lost = name == "samples.jsonl"
            assert summary["futures_resumed"] == 2 - lost * (2 - content[:cut].count(b"\n")), place
            assert all(isinstance(json.loads(line), dict) for line in _read(out / "metrics.jsonl")[-1:]), (
                place
            )


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _read(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1]


def _lines(file: Path) -> list[str]:
    """Every line's key, in order of the alphabet: none may be there twice. Times differ."""
    return sorted(json.loads(line)["key"] for line in _read(file))
