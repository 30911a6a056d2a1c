"""Real training of a tiny model: the loss of exactly the user's words, resumed, saved, merged, loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

import usersim
from tests.usersim.rendering.test_render import talk
from usersim.commands.train import main
from usersim.errors import ConfigError, DataError
from usersim.storage.records import whole_lines, write_records
from usersim.storage.toml_config import load_config
from usersim.training.config import check
from usersim.training.data import IGNORED, TokenCounts, load_corpus, opening, training_rows, write_rows
from usersim.training.finetune import LoraSettings, TrainConfig, train
from usersim.training.ledger import read_ledger
from usersim.training.trainer import UserTrainer, decision_loss
from usersim.types import Conversation, Goal, Turn, UserProfile
from usersim.weights.base_model import load_user_base
from usersim.weights.default_model import resolve


def chats(count: int = 24) -> list[Conversation]:
    made = []
    for i in range(count):
        base = talk(f"tell me about {i}", f"it is number {i}", "ok thanks", "bye")
        goal = Goal(summary=f"learn about {i}") if i % 2 else None
        made.append(base.model_copy(update={"id": f"c{i}", "profile": UserProfile(goal=goal)}))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "train.jsonl", chats())
    write_records(folder / "dev.jsonl", chats(4))
    return folder


def config(tiny_base: Path, data: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "base": str(tiny_base),
        "train": (str(data / "train.jsonl"),),
        "dev": (str(data / "dev.jsonl"),),
        "lora": LoraSettings(rank=4, alpha=8),
        "max_steps": 6,
        "batch": 4,
        "micro_batch": 2,
        "lr": 5e-3,
        "eval_every": 3,
        "context_tokens": 1024,
        "wandb": "disabled",
    }
    return TrainConfig(**{**values, **changes})


def losses(out: Path) -> dict[int, float]:
    lines = [values for _, _, values in whole_lines(out / "metrics.jsonl")]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_lowers_the_dev_loss_and_the_result_loads(
    tiny_base: Path, data: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "run"
    train(config(tiny_base, data, out, method=method, max_steps=12, eval_every=6))
    curve = losses(out)
    assert curve[12] < curve[6] < 5.6  # a uniform guess over the 264 rows costs ln 264 = 5.58
    assert json.loads((out / "config.json").read_text())["method"] == method
    assert json.loads((out / "summary.json").read_text())["conversations"] == 24
    user = usersim.load(resolve(out))
    assert user.renderer.settings.end_of_conversation_id == 3


def test_the_end_row_is_trained_and_survives_the_merge(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path / "home"))
    train(config(tiny_base, data, tmp_path / "run", lr=2e-2))
    merged = load_user_base(resolve(tmp_path / "run"))
    start = load_user_base(tiny_base)
    end = merged.settings.end_of_conversation_id
    before, after = (b.model.get_input_embeddings().weight for b in (start, merged))
    assert not torch.allclose(before[end], after[end], atol=1e-3)
    others = [i for i in range(before.shape[0]) if i != end]
    assert torch.allclose(before[others], after[others], atol=1e-2)


def test_the_last_checkpoint_can_be_made_the_result(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    settings = config(tiny_base, data, tmp_path / "run")
    with pytest.raises(ConfigError, match="no checkpoint to export"):
        train(settings, export=True)
    trained = train(settings) / "adapter_model.safetensors"
    weights = load_file(trained)
    trained.unlink()
    exported = load_file(train(settings, export=True) / "adapter_model.safetensors")
    assert weights.keys() == exported.keys()
    assert all(torch.equal(weights[name], exported[name]) for name in weights)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["windows_seen"]) == (6, 24)


def test_each_epoch_is_drawn_anew_and_reproducibly(tiny_base: Path) -> None:
    renderer = load_user_base(tiny_base).renderer

    def rows(epochs: int) -> list[dict[str, list[int]]]:
        return list(training_rows(chats(8), renderer, max_tokens=400, epochs=epochs, seed=1))

    assert rows(2) == rows(2)
    assert rows(2)[:8] == rows(1)
    assert rows(2)[8:] != rows(1)


def test_simulated_text_is_never_trained_on(data: Path, tmp_path: Path) -> None:
    fake = chats(1)[0].model_copy(update={"origin": "simulated"})
    write_records(tmp_path / "fake.jsonl", [fake])
    with pytest.raises(DataError, match="learns from people only"):
        load_corpus([str(tmp_path / "fake.jsonl")], keep_without_goal=1.0, seed=0)


def test_conversations_without_goal_can_be_thinned_out(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = load_corpus([str(data / "train.jsonl")], keep_without_goal=0.0, seed=0)
    assert capsys.readouterr().err == f"{data / 'train.jsonl'}: 24 conversations, 12 with a goal\n"
    assert (len(corpus.conversations), corpus.without_goal_left_out) == (12, 12)


def test_a_base_without_chat_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 0, "content": "<s>"}]}')
    with pytest.raises(ConfigError, match="neither ChatML nor Llama-3"):
        load_user_base(tmp_path)


def test_the_dry_run_prints_the_plan(
    tiny_base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'base = "{tiny_base}"\ntrain = "{data}/train.jsonl"\ndev = "{data}/dev.jsonl"\n'
        f'out = "{tmp_path}/r"\nbatch = 4\n'
    )
    assert main([str(file), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert not (tmp_path / "r").exists()


def test_json_is_the_only_thing_on_stdout(
    tiny_base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'base = "{tiny_base}"\ntrain = ["{data}/train.jsonl"]\ndev = ["{data}/dev.jsonl"]\n'
        f'out = "{tmp_path}/r"\nmax_steps = 2\nwandb = "disabled"\nlora = {{ rank = 2 }}\n'
    )
    assert main([str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": f"{tmp_path}/r/adapter"}


@pytest.mark.parametrize("file", sorted(Path("configs/train").glob("userlm-*.toml")), ids=lambda f: f.stem)
def test_every_training_config_loads(file: Path) -> None:
    settings = load_config(TrainConfig, file)
    check(settings)
    assert settings.out == f"runs/{file.stem}" or file.stem == "userlm-135m"
    first = file.read_text().splitlines()[0]
    assert f"usersim train configs/train/{file.name}" in first
    if "accelerate" in first:
        assert (Path(first.split("--config_file ")[1].split()[0])).is_file()
        assert settings.batch % (settings.micro_batch * 8) == 0  # the number of GPUs in configs/accelerate


@pytest.mark.parametrize("file", sorted(Path("configs/accelerate").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_accelerate_config_is_accepted(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    loaded = load_config_from_file(str(file))
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(loaded.fsdp_config or {}) <= known  # the launcher drops a misspelt one without a word
    assert loaded.mixed_precision == "bf16"
    assert loaded.num_processes == {"collab": 4}.get(file.stem, 8)


def test_an_opening_has_the_style_of_its_own_words_and_no_end(tiny_base: Path) -> None:
    greeted = talk("hello you", "Hi!", "PLEASE tell me more about this?", "it is so", "bye")
    greeted = greeted.model_copy(update={"turns": (Turn(role="assistant", text="Welcome."), *greeted.turns)})
    taken = opening(greeted)
    assert [turn.text for turn in taken.turns] == ["Welcome.", "hello you"]
    assert taken.ended_by == "unknown"
    style = taken.profile.persona.style if taken.profile.persona else None
    assert style is not None
    assert (style.words_per_turn, style.lowercase_starts, style.questions) == (2, 1, 0)
    assert style.turns is style.pushback is style.length_spread is None
    renderer = load_user_base(tiny_base).renderer
    rows = list(training_rows([greeted] * 8, renderer, max_tokens=400, epochs=1, seed=0, openings=1.0))
    end = renderer.settings.end_of_conversation_id
    said = renderer.encode("hello you")
    for made in rows:
        kept = [label for label in made["labels"] if label != IGNORED]
        assert kept == [*said, renderer.settings.end_of_turn_id]
        assert end not in made["input_ids"]


def test_a_row_ends_with_its_last_supervised_token(tiny_base: Path) -> None:
    renderer = load_user_base(tiny_base).renderer
    cut = talk("hi", "a long answer that nobody replies to", ended_by="cut")
    (made,) = training_rows([cut], renderer, max_tokens=400, epochs=1, seed=0)
    assert (made["input_ids"][-1], made["labels"][-1]) == (renderer.settings.end_of_turn_id,) * 2
    assert [label for label in made["labels"] if label != IGNORED] == [
        *renderer.encode("hi"),
        made["labels"][-1],
    ]


def test_where_nobody_speaks_for_the_person_there_is_no_opening() -> None:
    silent = talk("hi", "Hello!").model_copy(update={"turns": (Turn(role="assistant", text="Hello!"),)})
    assert opening(silent) == silent


def test_the_share_of_openings_is_what_was_asked_for(tiny_base: Path) -> None:
    renderer = load_user_base(tiny_base).renderer
    made = list(training_rows(chats(400), renderer, max_tokens=400, epochs=1, seed=0, openings=0.25))
    ends = renderer.settings.end_of_conversation_id
    assert sum(ends in row["input_ids"] for row in made) / 400 == pytest.approx(0.75, abs=0.07)


def test_decisions_are_the_first_token_and_stopping_or_not() -> None:
    # Two turns: "yes <end>" with P 0.5 and 0.4, and one whose first token, 0.25 likely, ends the conversation.
    nll = -torch.tensor([0.5, 0.4, 0.25]).log()
    stop = torch.tensor([0.2, 0.4, 0.5]).log()  # P(end of turn or of conversation) at each
    found = decision_loss(nll, torch.tensor([True, False, True]), stop, torch.tensor([False, True, True]))
    assert float(found) == pytest.approx(-math.log(0.5 * 0.25) - math.log(0.8 * 0.4 * 0.5), rel=1e-5)


def test_emphasis_changes_training_and_not_the_dev_loss(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    curves = []
    for emphasis in (0.0, 4.0):
        out = tmp_path / str(emphasis)
        train(config(tiny_base, data, out, emphasis=emphasis, max_steps=2, eval_every=1, lr=1e-12))
        curves.append(losses(out))
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    weights = [json.loads(line)["loss"] for out in ("0.0", "4.0") for line in _logged(tmp_path / out)]
    assert weights[1] > weights[0] * 1.2


def _logged(out: Path) -> list[str]:
    return [line for _, line, values in whole_lines(out / "metrics.jsonl") if "loss" in values][-1:]


def test_rows_in_a_file_are_the_rows(tiny_base: Path, tmp_path: Path) -> None:
    renderer = load_user_base(tiny_base).renderer
    made = list(training_rows(chats(40), renderer, max_tokens=128, epochs=2, seed=3))
    assert write_rows(iter(made), tmp_path / "rows.arrow") == len(made)
    rows = Dataset.from_file(str(tmp_path / "rows.arrow"))
    assert list(rows) == made
    lengths = [len(row["input_ids"]) for row in made]
    said = [sum(label != IGNORED for label in row["labels"]) for row in made]
    amounts = TokenCounts.of(rows)
    assert amounts.after(2, batch=3) == (sum(lengths[:6]), sum(said[:6]))
    whole = -(-len(made) // 3)  # steps of a pass; what follows begins again
    assert amounts.after(whole + 1, batch=3) == (sum(lengths) + sum(lengths[:3]), sum(said) + sum(said[:3]))


def test_a_corpus_is_read_back_from_its_shelf(data: Path) -> None:
    corpus = load_corpus([str(data / "train.jsonl")], keep_without_goal=1.0, seed=0)
    assert list(corpus.conversations) == chats()
    assert corpus.conversations[-1] == chats()[-1]
    assert corpus.conversations[::9] == chats()[::9]
    assert corpus.with_goal == 12


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"micro_batch": 1}])
def test_memory_settings_do_not_change_the_course(
    change: dict[str, Any], tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    train(config(tiny_base, data, tmp_path / "plain", method="full"))
    train(config(tiny_base, data, tmp_path / "changed", method="full", **change))
    plain, changed = (losses(tmp_path / name) for name in ("plain", "changed"))
    # bf16 arithmetic in another order; a mean over windows in place of tokens would show as 1e-1.
    assert changed == pytest.approx(plain, abs=5e-3)


def test_a_run_goes_on_where_the_ledger_says_that_the_last_one_stopped(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    first = config(tiny_base, data, tmp_path / "one", max_steps=3, schedule="constant", warmup=0.3)
    adapter = train(first)
    (stretch,) = read_ledger(adapter)
    assert (stretch.first, stretch.last, stretch.pass_windows, stretch.steps) == (0, 12, 24, 3)
    rates = [v["learning_rate"] for _, _, v in whole_lines(tmp_path / "one" / "metrics.jsonl") if "loss" in v]
    assert rates[-1] == first.lr  # it has not fallen: the next run goes on at this rate

    changes = {"start": str(tmp_path / "one"), "skip": "ledger", "schedule": "linear", "max_steps": None}
    second = config(tiny_base, data, tmp_path / "two", **changes)
    (before, after) = read_ledger(train(second))
    assert before == stretch
    assert (after.first, after.last, after.rows_sha256) == (12, 24, stretch.rows_sha256)
    assert before.tokens + after.tokens == after.pass_tokens
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert (summary["windows_skipped"], summary["tokens_before"]) == (12, stretch.tokens)

    with pytest.raises(ConfigError, match="stopped at window 12 of 24 in other rows"):
        train(config(tiny_base, data, tmp_path / "three", **changes, seed=1))
    with pytest.raises(ConfigError, match="all 24 windows of the pass are skipped"):
        train(config(tiny_base, data, tmp_path / "three", **{**changes, "start": str(tmp_path / "two")}))
    (adapter / "ledger.json").unlink()
    with pytest.raises(
        ConfigError, match=r"has no ledger\.json with its rows; give the number of windows as skip=N"
    ):
        train(config(tiny_base, data, tmp_path / "three", **changes))


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    for text in ("[{}]", "{", "[1]"):
        (tmp_path / "ledger.json").write_text(text)
        with pytest.raises(ConfigError, match=r"ledger\.json: damaged"):
            read_ledger(tmp_path)
    assert read_ledger(tmp_path / "elsewhere") == ()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_result_is_the_mean_of_the_last_checkpoints_where_that_is_better(
    tiny_base: Path, data: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter(
        [{"eval_loss": 5.0, "eval_perplexity": 148.0}, {"eval_loss": 4.0, "eval_perplexity": 54.6}]
    )
    monkeypatch.setattr(UserTrainer, "dev_loss", lambda self: next(figures))  # of the last one, of the mean
    out = tmp_path / "run"
    settings = config(
        tiny_base, data, out, method=method, save_every=1, average=3, max_steps=12, eval_every=12
    )
    folder = train(settings)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["averaged"], summary["eval_loss"], summary["eval_loss_last"]) == (3, 4, 5)
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    saved = load_file(folder / name)
    steps = [load_file(out / "checkpoints" / f"checkpoint-{step}" / name) for step in (10, 11, 12)]
    some = [key for key in saved if "layers" in key and key in steps[0]]
    assert len(some) > 4
    for key in some:
        mean = sum(step[key].double() for step in steps) / 3
        assert torch.allclose(saved[key].double(), mean, atol=0.01 * float(mean.abs().max()))


def test_a_mean_that_is_worse_is_not_kept(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"  # it learns at every step, so what came before is worse
    train(config(tiny_base, data, out, max_steps=4, save_every=1, average=3, schedule="constant"))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["averaged"] == 1
    assert summary["eval_loss"] < summary["eval_loss_averaged"]


def test_emphasis_falls_in_a_straight_line() -> None:
    seen = []
    for step in range(5):
        state = SimpleNamespace(global_step=step, max_steps=5)
        trainer = SimpleNamespace(emphasis=(4.0, 0.0), state=state)
        seen.append(UserTrainer.emphasis_now.fget(trainer))  # type: ignore[attr-defined]
    assert seen == [4, 3, 2, 1, 0]
    assert TrainConfig(emphasis=4).emphases == (4, 4)
    assert TrainConfig(emphasis=4, emphasis_end=0).emphases == (4, 0)
