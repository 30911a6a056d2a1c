"""Log of the uses of discriminator family B."""

from datetime import UTC, datetime

from eval.next_turn.metrics.family_b_log import count, log_use, uses


def test_uses_are_counted_by_model(tmp_path):
    path = tmp_path / "results" / "family-b.jsonl"
    assert count(path) == 0
    when = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
    assert log_use(path, "userlm-135m 1a2b", "usersim eval next-turn", 400, date=when) == 1
    assert log_use(path, "other", "usersim eval next-turn", 400) == 1
    assert log_use(path, "userlm-135m 1a2b", "usersim eval next-turn", 300) == 2
    assert (count(path), count(path, "other"), count(path, "unseen")) == (3, 1, 0)
    first = uses(path)[0]
    assert (first.date, first.prefixes, first.command) == (
        "2026-03-01T12:00:05Z",
        400,
        "usersim eval next-turn",
    )
    assert first.code


def test_a_torn_line_is_not_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    log_use(path, "model", "command", 1)
    with path.open("a") as stream:
        stream.write('{"date": "2026')
    assert count(path, "model") == 1
    assert log_use(path, "model", "command", 1) == 2
