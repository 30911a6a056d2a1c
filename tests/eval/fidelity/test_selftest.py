import json
from collections import Counter

import pytest

from eval.__main__ import main
from eval.fidelity.report_record import Headline
from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.invented import invented
from eval.fidelity.samples.matching import person_of
from eval.fidelity.selftest.controls import collapsed, disguised, shuffled
from eval.fidelity.selftest.detection_record import Control, DetectionCell
from eval.fidelity.selftest.detection_table import blind_spots, html, markdown
from eval.fidelity.selftest.planted_battery import self_test, split_people
from eval.fidelity.settings import EvalConfig
from usersim.cli import run_main
from usersim.errors import DataError
from usersim.storage.records import write_records

FAST = EvalConfig(bootstrap=100, floor_repeats=30, metrics=("marginals", "coverage"), processes=1)
PEOPLE = invented(30, 1)


def test_collapse_repeats_twenty_and_nothing_else():
    made = collapsed(PEOPLE, 45, seed=0)
    assert sorted(Counter(tuple(user_texts(c)) for c in made).values()) == [2] * 15 + [3] * 5
    assert len({c.id for c in made}) == 45
    assert {person_of(c) for c in made} <= {person_of(c) for c in PEOPLE}


def test_shuffle_moves_every_turn_to_another_conversation_at_its_place():
    made = shuffled(PEOPLE, seed=0)
    for position in range(3):
        before, after = (
            [texts[position] if len(texts) > position else None for texts in map(user_texts, people)]
            for people in (PEOPLE, made)
        )
        assert Counter(before) == Counter(after)
        assert not any(a == b for a, b in zip(before, after, strict=True) if a is not None)
    answers = [[t for t in c.turns if t.role == "assistant"] for c in (*PEOPLE, *made)]
    assert answers[:30] == answers[30:]


def test_disguise_is_lower_case_without_final_marks_and_with_typos():
    made = disguised(PEOPLE, seed=0)
    text = " ".join(text for c in made for text in user_texts(c))
    assert text == text.lower()
    assert not any(text.endswith((".", "?")) for c in made for text in user_texts(c))
    pairs = [
        (before.lower().strip(".?"), after)
        for a, b in zip(PEOPLE, made, strict=True)
        for x, y in zip(user_texts(a), user_texts(b), strict=True)
        for before, after in zip(x.split(), y.split(), strict=True)
    ]
    typos = sum(before != after for before, after in pairs)
    long = sum(len(before) > 3 for before, _ in pairs)
    assert 0.04 * long < typos < 0.13 * long
    assert made == disguised(PEOPLE, seed=0)


def test_the_people_of_the_controls_are_not_among_the_reference():
    people = invented(200, 1, per_person=4)
    chosen, pool = split_people(people, 55, FAST)
    assert not {person_of(c) for c in chosen} & {person_of(c) for c in pool}
    assert 55 >= len(chosen) >= 50
    with pytest.raises(DataError, match="about 150 of different people"):
        split_people(people[:120], 55, FAST)


@pytest.fixture(scope="module")
def report():
    wordy = invented(60, 5, origin="simulated", words=3)
    return self_test(invented(190, 1), base={"wordy": wordy}, config=FAST, n=60)


def test_a_metric_is_credited_with_what_it_sees_only(report):
    found = {control.key: control for control in report.controls}
    assert report.n == 60
    assert report.pool == 130
    assert found["other_humans"].caught_by == ()
    assert "coverage" in found["mode_collapse"].caught_by
    assert "marginals" in found["base_wordy"].caught_by
    assert "words per turn" in found["base_wordy"].cells["marginals"].caught
    # One person's turns are alike in length; turns of several people are not.
    assert found["turn_shuffle"].cells["marginals"].caught == ("variation of words per turn (SD / mean)",)
    assert list(found) == ["other_humans", "mode_collapse", "turn_shuffle", "base_wordy", "disguised_wordy"]
    assert list(report.left_out) == ["other domain"]


def test_the_table_says_what_is_seen_and_what_is_not(report):
    page, text = html(report), markdown(report)
    assert "words per turn" in page
    assert "http" not in page
    row = next(line for line in text.splitlines() if line.startswith("| marginals"))
    assert row.count("caught") == 3
    assert "- marginals does not see mode collapse." in text
    assert "invented" not in text


def test_blind_spots_are_put_into_words():
    head = Headline(
        gates=(),
        different=(),
        equivalent=(),
        not_told=("w",),
        p=0.5,
        is_different=False,
    )

    def control(key, expected, **cells):
        return Control(key=key, label=key, planted="p", expected=expected, n=60, headline=head, cells=cells)

    sees, blind = (
        DetectionCell(figures=1, caught=("f",), worst=4.0),
        DetectionCell(figures=1, caught=(), worst=0.3),
    )
    nothing = DetectionCell(figures=0, caught=(), worst=None)
    controls = [
        control("humans", "like human", a=blind, b=blind, c=nothing),
        control("collapse", "different", a=sees, b=blind, c=nothing),
        control("shuffle", "different", a=blind, b=blind, c=nothing),
    ]
    assert blind_spots(["a", "b", "c"], controls) == [
        "Only a sees collapse.",
        "No metric sees shuffle. A simulator with this fault would pass.",
        "a does not see shuffle.",
        "b sees none of the planted faults at this n.",
        "c could not be measured on these conversations.",
    ]


def test_command_writes_three_files_and_one_json_document(tmp_path, capsys):
    write_records(tmp_path / "human.jsonl", invented(160, 1))
    config = tmp_path / "fast.toml"
    config.write_text('metrics = ["marginals"]\nfloor_repeats = 20\nbootstrap = 50\nprocesses = 1\n')
    given = (
        "--human",
        str(tmp_path / "human.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--config",
        str(config),
    )
    assert run_main(main, ["selftest", *given, "--n", "50", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["human_file"]["sha256"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "report.md"]
    assert "turn shuffle" in " ".join(err.split())
    assert run_main(main, ["selftest", *given, "--base", "nonsense"]) == 2
    assert "NAME=FILE" in capsys.readouterr().err
