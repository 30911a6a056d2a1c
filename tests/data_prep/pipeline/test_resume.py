"""An interrupted `usersim prep` goes on where it stopped and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.pipeline import workers as engines
from data_prep.pipeline.shards import NAME, ShardStore
from usersim.errors import ConfigError

WORDS = ("bread", "bikes", "tax", "maths", "poems", "cats", "rivers", "chess", "tea", "maps")
CHATS = 400


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 chats, all different; one in ten holds an e-mail address."""
    path = tmp_path_factory.mktemp("logs") / "log.jsonl"
    with path.open("w") as stream:
        for number in range(CHATS):
            topic = " ".join(WORDS[(number // 10**place) % 10] for place in range(3))
            ask = f"could you please explain {topic} to visitor number {number} of the house"
            mail = " and write to someone@example.org" if number % 10 == 0 else ""
            turns = [("user", ask + mail), ("assistant", f"This is {topic}."), ("user", f"more of {number}")]
            row = {"id": f"c{number}", "messages": [{"role": r, "content": t} for r, t in turns]}
            stream.write(json.dumps(row) + "\n")
    return path


def splits(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("*.jsonl"))}


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    assert main([str(log), "--out", str(out)]) == 0
    files = splits(out)
    assert sum(text.count(b"\n") for text in files.values()) == CHATS
    return files


RECIPE = """
out = "{out}"
batch = 10
shard = 4
[[sources]]
spec = "{log}"
"""


def recipe(log: Path, out: Path) -> str:
    path = out.parent / f"{out.name}.toml"
    path.write_text(RECIPE.format(out=out, log=log))
    return str(path)


def test_after_ctrl_c_finished_shards_are_not_cleaned_again(
    log: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cleaned = []
    real = engines.run

    def counted(*args: object, stop: int | None = None) -> Iterator[object]:
        for number, result in enumerate(real(*args)):  # type: ignore[arg-type]
            if number == stop:
                raise KeyboardInterrupt
            cleaned.append(result)
            yield result

    monkeypatch.setattr(engines, "run", lambda *args: counted(*args, stop=10))
    with pytest.raises(KeyboardInterrupt):
        main([recipe(log, out)])
    assert splits(out) == {}
    # Ten batches of ten: two shards of four are finished.
    assert len(list((out / NAME).glob("*.npz"))) == 2
    cleaned.clear()
    monkeypatch.setattr(engines, "run", counted)
    assert main([recipe(log, out)]) == 0
    assert len(cleaned) == CHATS // 10 - 8
    assert splits(out) == whole
    sheet = json.loads((out / "datasheet.json").read_text())
    assert sheet["resumed_chats"] == 80
    assert sheet["steps"][0]["in"] == CHATS
    assert sheet["changed"]["personal data"] == {"EMAIL": CHATS // 10}
    assert sorted(path.name for path in out.iterdir()) == [
        "datasheet.html",
        "datasheet.json",
        "dev.jsonl",
        "test.jsonl",
        "train.jsonl",
    ]


def test_after_kill_the_same_bytes_come_out(log: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_prep", recipe(log, out)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while running.poll() is None and not (out / NAME / "000001.json").is_file():
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert main([recipe(log, out)]) == 0
    assert splits(out) == whole


def test_other_settings_or_another_file_start_afresh(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = engines.run

    def broken(*args: object) -> Iterator[object]:
        for number, result in enumerate(real(*args)):  # type: ignore[arg-type]
            if number == 10:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(engines, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        main([recipe(log, out)])
    # A split seed does not touch cleaning; bounds do.
    with pytest.raises(KeyboardInterrupt):
        main([recipe(log, out), "--user-max-chars", "500"])
    monkeypatch.setattr(engines, "run", real)
    assert main([recipe(log, out), "--user-max-chars", "500", "--seed", "3"]) == 0
    assert json.loads((out / "datasheet.json").read_text())["resumed_chats"] == 80
    stat = log.stat()
    os.utime(log, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert main([recipe(log, out), "--user-max-chars", "500"]) == 0
    assert json.loads((out / "datasheet.json").read_text())["resumed_chats"] == 0


def test_a_full_disk_is_one_line_and_changes_nothing(
    log: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main([str(log), "--out", str(out), "--seed", "5"]) == 0
    before = splits(out)
    # A file may not grow beyond 20 KiB: the shard of all lines fails half-way.
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20480, 20480));"
        "from data_prep.__main__ import main; from usersim.cli import run_main;"
        "sys.exit(run_main(main, sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(log), "--out", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 2
    complaint = done.stderr.strip().splitlines()[-1]
    assert "File too large" in complaint
    assert "run the same command again" in complaint
    assert "Traceback" not in done.stderr
    assert splits(out) == before
    assert main([str(log), "--out", str(out)]) == 0
    assert splits(out) == whole


def test_two_runs_do_not_share_a_directory(log: Path, tmp_path: Path) -> None:
    from data_prep.pipeline.shards import lock_output

    with lock_output(tmp_path / "out"), pytest.raises(ConfigError, match="another `usersim prep`"):
        main([str(log), "--out", str(tmp_path / "out")])


def test_a_note_or_a_count_cut_anywhere_is_an_unfinished_shard(tmp_path: Path) -> None:
    shards = ShardStore(tmp_path, {"file": "größe\u2028.jsonl"})
    shards.add([])
    for name, finished in (("settings.json", 0), ("000000.json", 0)):
        whole = (shards.path / name).read_bytes()
        for size in range(len(whole) - 2):
            (shards.path / name).write_bytes(whole[:size])
            assert len(ShardStore(tmp_path, {"file": "größe\u2028.jsonl"}).done) == finished
            shards.add([])
            shards.done.clear()
