"""`usersim prep --inspect N`: changes of cleaning, shown on a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from data_prep.cleaning.differences import Piece, clipped, cut, differences
from data_prep.cleaning.stages import Rejected, drop_empty, each, repair_roles
from data_prep.cleaning.terminal_safe import one_line, visible
from data_prep.pipeline.inspect import changes, draw, inspect, show, trace
from data_prep.raw_chats import RawChat
from data_prep.settings import PrepSettings
from usersim.errors import DataError


def chat(*turns: tuple[str, str], **changes: object) -> RawChat:
    fields = {"id": "a", "source": "t", "place": "f:1", "turns": [{"role": r, "text": t} for r, t in turns]}
    return RawChat.model_validate(fields | changes)


def printed(before: RawChat, after: RawChat | Rejected, *, colour: bool = False, text: bool = True) -> str:
    stream = io.StringIO()
    system = "standard" if colour else None
    console = Console(file=stream, width=200, force_terminal=colour, color_system=system)
    show([(before, after)], console, text=text, notes=[["personal data: 1 EMAIL"]])
    return re.sub(r" +\n", "\n", stream.getvalue())


BEFORE = chat(("user", "write to jo@ex.org or not"), ("assistant", "I wrote to jo@ex.org"), ("user", "ok"))
AFTER = chat(("user", "write to [EMAIL] or not"), ("assistant", "I wrote to [EMAIL]"), ("user", "ok"))


def test_what_changed_is_marked_without_colours_too() -> None:
    output = printed(BEFORE, AFTER)
    assert "user      write to [-jo@ex.org-]{+[EMAIL]+} or not" in output
    assert "user      ok\n" in output
    assert "personal data: 1 EMAIL" in output


def test_removed_is_red_and_placeholders_are_green() -> None:
    output = printed(BEFORE, AFTER, colour=True)
    assert "\x1b[9;31mjo@ex.org\x1b[0m\x1b[1;32m[EMAIL]\x1b[0m or not" in output


def test_a_rejection_says_why_and_shows_the_chat() -> None:
    output = printed(BEFORE, Rejected("too many turns"))
    assert "rejected: too many turns" in output
    assert "write to jo@ex.org or not" in output


def test_without_text_only_sizes_are_shown() -> None:
    before, after = chat(("user", "say SECRET x"), ("assistant", "SECRET")), chat(("user", "say [KEY] x"))
    output = printed(before, after, text=False)
    assert "SECRET" not in output
    assert "user      12 → 11 characters, 2 pieces removed or added" in output
    assert "assistant 6 characters, removed" in output


EVIL = "a\x1b]0;owned\x07b\x9bc\u202ed\u200be\rf\x00"


@pytest.mark.parametrize("after", [chat(("user", EVIL + "!")), Rejected(EVIL)])
@pytest.mark.parametrize("colour", [True, False])
def test_nothing_in_a_chat_reaches_the_terminal_raw(after: RawChat | Rejected, colour: bool) -> None:
    before = chat(("system", EVIL), ("user", EVIL + " [red]x[/red]"), id=EVIL, source=EVIL)
    output = re.sub(r"\x1b\[[\d;]*m", "", printed(before, after, colour=colour))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]", output)
    assert "a\\x1b]0;owned\\x07b\\x9bc\\u202ed\\u200be\\rf\\x00" in output
    assert "[red]x[/red]" in output or not isinstance(after, Rejected)


def test_letters_of_all_scripts_stay() -> None:
    european, cjk = "naïve – “quoted” … привет", "你好，世界"  # noqa: RUF001
    indian, persian, emoji = "नमस्ते", "می\u200cخواهم", "👍🏽 👩\u200d💻"  # noqa: RUF001
    for text in (european, cjk, indian, persian, emoji, "a\tb\nc"):
        assert visible(text) == text
    assert visible("\ud83d") == "\\ud83d"
    assert one_line("a\nb\tc\x1b") == "a\\nb c\\x1b"


def test_a_system_prompt_moves_out_of_the_turns() -> None:
    before = chat(("system", "Be kind."), ("user", "hi"), ("assistant", "hello"), ("user", "  "))
    stages = {"role repair": each(lambda c, _: repair_roles(c)), "empty": each(lambda c, _: drop_empty(c))}
    after, notes = trace(before, stages)
    assert isinstance(after, RawChat)
    assert notes == ["role repair: 1 of 4 turns gone", "empty: 1 of 3 turns gone"]
    output = printed(before, after)
    assert "system    Be kind.\nuser      hi\nassistant hello\nuser      [-  -]\n" in output


def test_a_trace_ends_where_the_chat_is_rejected() -> None:
    stages = {
        "found": each(lambda c, counts: counts.update(["EMAIL"]) or c),
        "rejects": each(lambda c, _: Rejected("too long")),
        "never": each(lambda c, _: pytest.fail("not reached")),
    }
    assert trace(BEFORE, stages) == (Rejected("too long"), ["found: 1 EMAIL", "rejects: rejected"])
    assert changes(BEFORE, chat(("user", "x"), language="de", ended_by="cut")) == [
        "language None → de",
        "ended_by unknown → cut",
        "2 of 3 turns gone",
    ]


def test_many_turns_are_skipped_but_not_those_that_changed() -> None:
    turns = [(("user", "assistant")[n % 2], f"turn {n}.") for n in range(20)]
    after = [*turns[:11], (turns[11][0], "turn eleven."), *turns[12:]]
    output = printed(chat(*turns), chat(*after))
    assert [int(n) for n in re.findall(r"turn (\d+)\.", output)] == [0, 1, 2, 3, 19]
    assert "turn [-11-]{+eleven+}." in output
    assert output.count("… 7 turns as they were") == 2


def test_chats_are_drawn_in_order_and_from_everywhere() -> None:
    chats = [chat(("user", "x"), id=str(n)) for n in range(100)]
    ids = [int(one.id) for one in draw(iter(chats), 10, seed=0)]
    assert ids == sorted(set(ids))
    assert max(ids) > 60
    assert len(ids) == 10
    assert [one.id for one in draw(iter(chats), 10, seed=1)] != [str(n) for n in ids]
    assert len(draw(iter(chats[:3]), 10, seed=0)) == 3


def rebuilt(pieces: list[Piece]) -> tuple[str, str]:
    return (
        "".join(piece.text for piece in pieces if piece.kind != "added"),
        "".join(piece.text for piece in pieces if piece.kind != "removed"),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("same", "same"),
        ("", "new"),
        ("old", ""),
        ("mail jo@ex.org now", "mail [EMAIL] now"),
        ("[EMAIL] and jo@ex.org", "[EMAIL] and [EMAIL]"),
        ("aaa", "aa"),
        ("call 555 0143", "call [PHONE]"),
        ("a " * 4000, "b " * 5000),
    ],
)
def test_differences_hold_all_of_both_texts(before: str, after: str) -> None:
    pieces = differences(before, after)
    assert rebuilt(pieces) == (before, after)
    assert all(piece.text for piece in pieces)


def test_half_a_word_is_never_marked() -> None:
    for before, after in (("jo@ex.org", "[EMAIL]"), ("walking", "walked")):
        assert differences(before, after) == [Piece("removed", before), Piece("added", after)]


def test_long_texts_are_cut_around_the_changes() -> None:
    pieces = differences("a " * 500 + "old" + " b" * 500, "a " * 500 + "new" + " b" * 500)
    first, removed, added, last = clipped(pieces, around=20, most=100)
    assert (removed.text, added.text) == ("old", "new")
    assert first.text.endswith("a a a ")
    assert "980 characters" in first.text
    assert last.text.startswith(" b b b")
    assert cut("x" * 1000, 0, 100) == "x" * 100 + " […900 characters…] "
    assert cut("x" * 130, 0, 100) == "x" * 130


def test_the_command_prints_the_chats_it_drew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "conversation_id": f"id{n}",
            "conversation": [{"role": "user", "content": f"Copy code\nchat {n}"}],
            "openai_moderation": [],
        }
        for n in range(9)
    ]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"sources": [{"spec": f"lmsys:{file}"}], "out": tmp_path, "language": "any", "scrub": False}
    assert inspect(PrepSettings.model_validate(settings), 4, text=True) == 0
    output = capsys.readouterr().out
    assert len(set(re.findall(r"lmsys · (id\d) ", output))) == 4
    assert "web artefacts: 1 copy-code button" in output
    assert list(tmp_path.iterdir()) == [file]
    file.write_text("")
    with pytest.raises(DataError):
        inspect(PrepSettings.model_validate(settings), 4, text=True)
