import json
import os

import pytest

from eval.__main__ import main
from eval.invented import invented
from usersim.cli import run_main
from usersim.records import write_records


@pytest.fixture
def files(tmp_path):
    write_records(tmp_path / "human.jsonl", invented(104, 1))
    write_records(tmp_path / "sim.jsonl", invented(52, 2, origin="simulated"))
    (tmp_path / "fast.toml").write_text('metrics = ["marginals"]\nfloor_repeats = 20\nbootstrap = 50\n')
    return tmp_path


def arguments(folder, *more):
    return [
        *("run", "--human", str(folder / "human.jsonl"), "--simulated", f"s={folder / 'sim.jsonl'}"),
        *("--out", str(folder / "out"), "--config", str(folder / "fast.toml"), *more),
    ]


def test_run_writes_a_report_and_one_json_document(files, capsys):
    assert run_main(main, arguments(files, "--json", "--no-text", "--seed", "3")) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report == json.loads((files / "out" / "report.json").read_text(encoding="utf-8"))
    assert (report["n"], report["config"]["seed"], report["human_examples"]) == (52, 3, [])
    assert len(report["human_file"]["sha256"]) == 64
    assert "figures inside the floor" in " ".join(err.split())


def test_dry_run_says_the_plan_and_writes_nothing(files, capsys):
    assert run_main(main, arguments(files, "--dry-run")) == 0
    assert "would compare 52 human" in capsys.readouterr().err
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--simulated", "nonsense"], "NAME=FILE"),
        (["--simulated", "s=other.jsonl"], "name of its own"),
        (["--simulated", "t=missing.jsonl"], "no such file"),
        (["--min-n", "60"], "too few conversations"),
    ],
)
def test_what_the_operator_can_fix_is_one_line_and_two(files, capsys, change, message):
    assert run_main(main, arguments(files, *change)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (files / "out").exists()


@pytest.mark.parametrize("command", ["selftest", "compare"])
def test_later_commands_say_so(command, capsys):
    assert run_main(main, [command]) == 2
    assert "comes with" in capsys.readouterr().err


def test_the_profile_loads_as_an_evaluate_module(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evaluate = pytest.importorskip("evaluate")
    from eval.metrics import marginals

    path = os.path.join(os.path.dirname(marginals.__file__), "evaluate_profile.py")  # noqa: PTH118, PTH120
    metric = evaluate.load(path, cache_dir=str(tmp_path))
    people = [["hi there", "ok"], ["Please help me with this."]]
    assert set(metric.compute(predictions=people, references=people).values()) == {0.0}
    other = [["HELLO!", "Why?"], ["Tell me?"]]
    assert metric.compute(predictions=other, references=people)["questions.w1"] > 0
