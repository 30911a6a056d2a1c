"""`usersim prep` from a raw log to splits and datasheet."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import main
from usersim.cli import run_main
from usersim.errors import ConfigError, DataError, UsersimError
from usersim.storage.records import read_conversations
from usersim.types import Conversation

TOPICS = ("bread", "bikes", "tax", "maths", "poems", "cats", "rivers", "chess", "tea", "maps")


def row(id_: str, *texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"id": id_, "messages": messages}


def ordinary(number: int) -> dict[str, Any]:
    topic = TOPICS[number % len(TOPICS)]
    return row(
        f"ok{number}",
        f"please, {topic} for person {number // 2}",
        f"Here is something about {topic}.",
        f"now {number} more on {topic}",
        "Shorter.",
    )


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """200 good chats in 200 groups, and one of every other kind."""
    return write(
        tmp_path / "log.jsonl",
        *(ordinary(number) for number in range(200)),
        row("alternation", "one", "two") | {"messages": [{"role": "user", "content": "x"}] * 2},
        row("hole", "", "there is a hole before this"),
        row("german", "Kannst du mir bitte beim Schreiben eines Briefes an die Behörde helfen?", "Ja."),
        row("copy", *(m["content"] for m in ordinary(7)["messages"])),
        row("ok3", "an id that was there before, with other words", "Indeed."),
        row("mail", "write to someone@example.org about the garden party please", "Done."),
        {"id": "none", "messages": []},
    )


def prep(log: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main([str(log), "--out", str(out), *more]) == 0
    sheet: dict[str, Any] = json.loads((out / "datasheet.json").read_text())
    return sheet


def written(out: Path) -> dict[str, list[Conversation]]:
    return {file.stem: read_conversations(file) for file in sorted(out.glob("*.jsonl"))}


def test_the_counts_of_the_datasheet_add_up(log: Path, tmp_path: Path) -> None:
    sheet = prep(log, tmp_path / "out")
    (source,), steps = sheet["sources"], sheet["steps"]
    assert source["counts"] == {"rows": 207}
    assert source["malformed"] == {"no messages": 1}
    assert source["stopped"] is None
    assert steps[0]["in"] == 206
    for before, after in zip(steps, [*steps[1:], None], strict=True):
        assert before["in"] - sum(before["rejected"].values()) == before["kept"]
        assert after is None or after["in"] == before["kept"]
    rejected = {reason: n for step in steps for reason, n in step["rejected"].items()}
    assert rejected == {
        "turns do not alternate": 1,
        "empty turn": 1,
        "not English": 1,
        "same user turns as another": 1,
        "id seen before": 1,
    }
    assert sheet["changed"]["personal data"] == {"EMAIL": 1}

    files = written(tmp_path / "out")
    assert sum(map(len, files.values())) == steps[-1]["kept"] == 201
    for name, conversations in files.items():
        split = sheet["splits"][name]
        users = [t for c in conversations for t in c.turns if t.role == "user"]
        assert split["conversations"] == len(conversations)
        assert split["user_turns"] == len(users)
        assert split["ended_by"] == {"user": len(conversations)}
        assert split["groups"] == len({c.group for c in conversations})


def test_splits_share_no_group_and_repeat_exactly(log: Path, tmp_path: Path) -> None:
    fractions = ("--split-fractions", "0.5,0.2,0.3")
    prep(log, tmp_path / "a", *fractions)
    prep(log, tmp_path / "b", *fractions)
    prep(log, tmp_path / "c", *fractions, "--seed", "1")
    first, again, other = (written(tmp_path / name) for name in "abc")
    assert first == again != other
    groups = [{c.group for c in first[name]} for name in ("train", "dev", "test")]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_a_record_carries_style_origin_and_scrubbed_text(log: Path, tmp_path: Path) -> None:
    prep(log, tmp_path / "out", "--test-only", "--source-name", "helpdesk")
    names = ["datasheet.html", "datasheet.json", "test.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    by_id = {c.id: c for c in written(tmp_path / "out")["test"]}
    mail, plain = by_id["mail"], by_id["ok0"]
    assert mail.turns[0].text == "write to [EMAIL] about the garden party please"
    assert (mail.origin, mail.source, mail.ended_by) == ("human", "helpdesk", "user")
    assert plain.profile.goal is None
    assert plain.profile.persona is not None
    style = plain.profile.persona.style
    assert style is not None
    # "please, bread for person 0" has 5 words, "now 0 more on bread" too.
    assert (style.words_per_turn, style.opening_words, style.turns) == (5, 5, 2)
    assert (style.lowercase_starts, style.politeness) == (1, 0.5)


def test_goals_are_joined_and_counted(log: Path, tmp_path: Path) -> None:
    goals = write(
        tmp_path / "goals_log.jsonl",
        {"id": "ok1", "goal": "get to know bicycles", "facets": [{"turn": 2, "text": "short"}]},
        {"id": "ok3", "goal": "two chats have this id"},
        {"id": "german", "goal": "write a letter"},
        {"id": "elsewhere", "goal": "nothing here"},
    )
    sheet = prep(log, tmp_path / "out", "--goals", str(goals))
    expected = {
        "annotations": 4,
        "id_not_in_source": 1,
        "conversation_rejected": 1,
        "ambiguous_ids": 1,
        "joined": 1,
        "facets_joined": 1,
        "facets_after_last_turn": 0,
        "repeated_ids": 0,
    }
    assert {key: sheet["goals"][key] for key in expected} == expected
    assert sum(split["with_goal"] for split in sheet["splits"].values()) == 1


def test_a_cut_log_teaches_no_end_and_no_length(log: Path, tmp_path: Path) -> None:
    prep(log, tmp_path / "out", "--ends", "cut", "--test-only", "--limit", "5")
    conversations = written(tmp_path / "out")["test"]
    assert len(conversations) == 5
    for each in conversations:
        assert each.ended_by == "cut"
        assert each.profile.persona is not None
        assert each.profile.persona.style is not None
        assert each.profile.persona.style.turns is None


def test_any_language_keeps_the_others_and_names_them(log: Path, tmp_path: Path) -> None:
    prep(log, tmp_path / "out", "--no-english-filter", "--test-only")
    german = next(c for c in written(tmp_path / "out")["test"] if c.id == "german")
    assert german.profile.persona is not None
    assert german.profile.persona.language == "de"


def test_user_max_chars_is_a_counted_step(log: Path, tmp_path: Path) -> None:
    sheet = prep(log, tmp_path / "out", "--user-max-chars", "50")
    (step,) = (s for s in sheet["steps"] if s["step"] == "length bounds")
    assert step["rejected"]["first user turn too long"] >= 1


def test_a_file_of_an_earlier_run_does_not_pass_for_this_ones(log: Path, tmp_path: Path) -> None:
    prep(log, tmp_path / "out")
    prep(log, tmp_path / "out", "--test-only")
    assert list(written(tmp_path / "out")) == ["test"]


def test_json_is_the_only_thing_on_stdout(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = prep(log, tmp_path / "out", "--json", "--json-out", str(tmp_path / "sheet.json"))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == sheet == json.loads((tmp_path / "sheet.json").read_text())
    assert "role repair" in printed.err


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(log), "--out", str(out), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["sources"] == [str(log)]
    assert plan["steps"][0] == "role repair"
    assert main([str(log), "--out", str(out), "--dry-run"]) == 0
    assert "train 90%, dev 5%, test 5%; seed 0" in capsys.readouterr().out
    assert not out.exists()


def test_a_bad_line_is_counted_and_strictly_an_error_that_leaves_nothing(log: Path, tmp_path: Path) -> None:
    with log.open("a") as stream:
        stream.write('{"messages": [{"role": "robot", "content": "x"}]}\n')
    (source,) = prep(log, tmp_path / "lenient")["sources"]
    assert sum(source["malformed"].values()) == 2
    with pytest.raises(DataError, match=r"log\.jsonl:207: no messages"):
        main([str(log), "--out", str(tmp_path / "out"), "--strict"])
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_what_is_too_close_to_a_held_out_chat_is_left_out_of_training(log: Path, tmp_path: Path) -> None:
    same_opening = row("h1", "please, bread for person 0", "No.", "why not")
    held_out = write(tmp_path / "held.jsonl", same_opening, row("h2", "quite another thing to ask", "Yes."))
    sheet = prep(log, tmp_path / "out", "--held-out", str(held_out), "--split-fractions", "1,0,0")
    ids = {c.id for c in written(tmp_path / "out")["train"]}
    # ok0 is for person 0 and about bread; no other opening is worded so.
    assert "ok0" not in ids
    assert "ok2" in ids
    assert sheet["steps"][-1]["step"] == "held out"
    assert sheet["steps"][-1]["rejected"] == {"too close to a held-out conversation": 1}
    assert not ids & {"h1", "h2"}


def test_a_recipe_names_sources_with_options_of_their_own(log: Path, tmp_path: Path) -> None:
    other = write(
        tmp_path / "other.jsonl", *(row(f"b{n}", f"a wholly different matter {n}") for n in range(5))
    )
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'out = "{out}"\n[[sources]]\nspec = "{log}"\nname = "desk"\nsplit_fractions = [1.0, 0.0, 0.0]\n'
        f'[[sources]]\nspec = "{other}"\nends = "cut"\nsplit_fractions = [0.0, 0.0, 1.0]\n'
    )
    assert main([str(recipe)]) == 0
    files = written(out)
    assert {name: {c.source for c in conversations} for name, conversations in files.items()} == {
        "train": {"desk"},
        "test": {"other"},
    }
    with pytest.raises(ConfigError, match="with a recipe"):
        main([str(recipe), "--source-name", "x"])


def test_conversations_of_one_opening_stay_together_across_sources(log: Path, tmp_path: Path) -> None:
    """Near copies go, but the same opening with other follow-ups is two conversations of one group."""
    opening = "what should one know about the old harbour before a visit"
    one = write(tmp_path / "one.jsonl", row("a", opening, "It is old.", "and how deep is it then"))
    two = write(
        tmp_path / "two.jsonl", row("b", opening, "Boats.", "list five restaurants near by in a table")
    )
    assert main([str(one), str(two), "--out", str(tmp_path / "out"), "--near-duplicate", "0.9"]) == 0
    (conversations,) = written(tmp_path / "out").values()
    assert len(conversations) == 2
    assert conversations[0].group == conversations[1].group


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--limit", "0"), "limit: "),
        (("--split-fractions", "1,1,1"), "--split-fractions"),
        (("--split-fractions", "0.8,0.1,0.1", "--test-only"), "exclude each other"),
        (("--goals", "missing.jsonl"), r"missing\.jsonl: no such file"),
    ],
)
def test_options_that_cannot_be_used(
    log: Path, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(UsersimError, match=complaint):
        main([str(log), "--out", str(tmp_path / "out"), *options])


def test_an_output_that_is_a_file_and_a_source_that_is_missing(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="cannot be written to"):
        main([str(log), "--out", str(log)])
    assert run_main(main, ["nowhere.jsonl", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "nowhere.jsonl: no such file" in printed.err
    only = write(tmp_path / "only.jsonl", row("hole", "", "there is a hole before this"))
    with pytest.raises(DataError, match="no conversation was left"):
        main([str(only), "--out", str(tmp_path / "out")])


def test_names_that_are_no_text_and_names_that_look_like_markup(log: Path, tmp_path: Path) -> None:
    odd = tmp_path / "[" / os.fsdecode(b"lo\xffg].jsonl")
    odd.parent.mkdir()
    log.rename(odd)
    sheet = prep(odd, tmp_path / os.fsdecode(b"[/new]\xff"), "--held-out", str(odd), "--test-only")
    assert "lo\ufffdg" in sheet["sources"][0]["spec"]
    assert run_main(main, [str(odd), "--out", str(tmp_path / "[/sim]"), "--dry-run"]) == 0


def test_a_file_that_breaks_off_is_said(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    # Kept as it is inside the archive, so that half of the bytes are half of the records.
    cut.write_bytes(gzip.compress(log.read_bytes(), compresslevel=0)[: log.stat().st_size // 2])
    (warning, *_) = prep(cut, tmp_path / "out")["warnings"]
    assert "cut.jsonl.gz: breaks off after" in warning
    assert "breaks off after" in " ".join(capsys.readouterr().err.split())


def test_a_step_that_drops_most_and_a_small_test_split_are_said(tmp_path: Path) -> None:
    same = write(
        tmp_path / "same.jsonl",
        *(
            row(f"t{n}", "Hello I would like to talk to an agent about my order", "Sure.", f"{n} of {n * 7}")
            for n in range(30)
        ),
    )
    (dropped, small) = prep(same, tmp_path / "out")["warnings"]
    assert dropped.startswith(
        "duplicates dropped 29 of 30 chats, mostly: template opening; --template-count off"
    )
    assert small.startswith("test.jsonl holds 0 conversations") or small.startswith(
        "test.jsonl holds 1 conversations"
    )


def test_nothing_is_said_of_an_ordinary_corpus(log: Path, tmp_path: Path) -> None:
    assert prep(log, tmp_path / "out", "--test-only")["warnings"] == []
