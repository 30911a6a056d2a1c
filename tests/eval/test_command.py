import json
import os

import pytest

from eval.__main__ import main
from eval.fidelity.command import guards_of
from eval.fidelity.samples.invented import invented
from usersim.cli import run_main
from usersim.storage.records import write_json, write_records
from usersim.types import Turn
from usersim.users.guards import Guards


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
    shown = " ".join(err.split())
    assert "Gates that differ:" in shown
    assert "Different from people:" in shown
    assert "52 conversations of s and 52 of people" in shown
    assert "inside the" not in shown
    assert "Guards: unknown" in shown


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
        (["--metrics", "marginals,magic"], "metrics.1"),
        (["--margin", "0.1"], "write METRIC=δ"),
        (["--margin", "magic=0.1"], "no metric magic"),
    ],
)
def test_what_the_operator_can_fix_is_one_line_and_two(files, capsys, change, message):
    assert run_main(main, arguments(files, *change)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (files / "out").exists()


def test_options_reach_the_config_and_the_report_says_what_was_typed(files, capsys):
    more = (
        "--interval",
        "bca",
        "--margin",
        "coverage=0.1",
        "--metrics",
        "marginals,coverage",
        "--processes",
        "1",
        "--json",
    )
    assert run_main(main, arguments(files, *more)) == 0
    report = json.loads(capsys.readouterr().out)
    config = report["config"]
    assert (config["interval"], config["margins"], config["processes"]) == ("bca", {"coverage": 0.1}, 1)
    assert config["metrics"] == ["marginals", "coverage"]
    assert any("coverage 0.1" in note for note in report["notes"])
    assert report["command"].startswith("usersim")


def test_what_else_differs_stands_beside_the_headline(files, capsys):
    user = {"kind": "UserLM", "guards": Guards(max_words=40).model_dump()}
    write_json(files / "sim.run.json", {"settings": {}, "sessions": [{"user": user}]})
    write_records(
        files / "human.jsonl",
        [
            c.model_copy(update={"turns": (*c.turns[:-1], Turn(role=c.turns[-1].role, text="word " * 500))})
            for c in invented(104, 1)
        ],
    )
    assert run_main(main, arguments(files, "--json")) == 0
    out, err = capsys.readouterr()
    (simulator,) = json.loads(out)["simulators"]
    assert simulator["guards"]["max_words"] == 40
    shown = " ".join(err.split())
    assert "Guards: on (empty, repeat, goal_copy, assistant_speak, turns over 40 words)" in shown
    assert "Assistant: its answers have" in shown
    gates = {gate["key"]: gate for gate in simulator["gates"]}
    assert {gate["simulated"]["n"] for gate in gates.values() if gate["simulated"]} == {52}
    assert gates["repeat"]["human"]["n"] == 52
    page = (files / "out" / "report.html").read_text(encoding="utf-8")
    assert "second page" in page
    assert page.index('id="gates"') < page.index('id="floor"')


def test_parts_made_under_different_guards_are_not_known(files):
    sessions = [{"user": {"guards": g.model_dump()}} for g in (Guards(), Guards.off())]
    write_json(files / "sim.run.json", {"sessions": sessions[:1]})
    assert guards_of(files / "sim.jsonl") == Guards()
    write_json(files / "sim.run.json", {"sessions": sessions})
    assert guards_of(files / "sim.jsonl") is None
    write_json(files / "sim.run.json", {"sessions": [{"user": {"kind": "RemoteUser"}}]})
    assert guards_of(files / "sim.jsonl") is None


def test_a_name_that_looks_like_markup_is_a_name(files, capsys):
    found = arguments(files)
    found[4] = f"[/sim]={files / 'sim.jsonl'}"
    found[6] = str(files / "[/out]")
    assert run_main(main, found) == 0
    assert run_main(main, [*found, "--dry-run"]) == 0
    assert "[/sim]" in capsys.readouterr().err


def test_a_path_that_is_no_text_is_reported(files, capsys):
    odd = files / os.fsdecode(b"h\xff.jsonl")
    (files / "human.jsonl").rename(odd)
    found = arguments(files, "--no-text")
    found[2] = str(odd)
    assert run_main(main, found) == 0
    report = json.loads((files / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["human_file"]["path"].endswith("h\ufffd.jsonl")


def test_whether_there_are_people_enough_is_known_before_anything_is_simulated(files, capsys):
    ask = ["run", "--human", str(files / "human.jsonl"), "--out", str(files / "out"), "--dry-run"]
    assert run_main(main, ask) == 0
    assert "104 people" in capsys.readouterr().err
    write_records(files / "human.jsonl", invented(99, 1))
    assert run_main(main, ask) == 2
    assert "99 people in 99 conversations; a comparison needs 100" in capsys.readouterr().err
