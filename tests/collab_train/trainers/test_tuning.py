"""What is supervised, what is refused in one line, and where a run says what it does."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed (pip install 'usersim-lm[collab]')")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer import utils as trl_utils

from collab_train.rollout.simulation.best_path import Message
from collab_train.rollout.simulation.best_path import Path as BestPath
from collab_train.trainers.lora_tuning import Tuning, project_replies_only
from collab_train.trainers.masks import IGNORED, labelled
from collab_train.trainers.offline.dpo import pair_ids
from collab_train.trainers.offline.offline_training import fitting
from collab_train.trainers.offline.sft import SFT, read_dialogues
from collab_train.trainers.online.grpo import GRPOAsTyped
from collab_train.trainers.online.online_dpo import PairedTrainer
from collab_train.trainers.online.online_training import Online, plan, read_online
from collab_train.trainers.online.rloo import RLOOAsTyped
from collab_train.trainers.pairs import Pair
from collab_train.trainers.run_log import Bars, TrainLog
from usersim.__main__ import main
from usersim.errors import ConfigError, DataError
from usersim.storage.records import write_records
from usersim.storage.runs import RunDir


def says(role: Any, content: str) -> Message:
    return Message(role=role, content=content)


TALK = (
    says("user", "hi"),
    says("assistant", "Where to?"),
    says("user", "rome"),
    says("assistant", "By train."),
)


def test_the_assistants_words_and_ends_of_turn_are_supervised_and_nothing_else(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    def supervised(start: int) -> str:
        row = labelled(tokenizer, TALK, start)
        assert all(label in (IGNORED, token) for token, label in zip(*row.values(), strict=True))
        return str(tokenizer.decode([label for label in row["labels"] if label != IGNORED]))

    assert supervised(1) == "Where to?<|im_end|>By train.<|im_end|>"
    assert supervised(3) == "By train.<|im_end|>"
    whole = tokenizer.decode(labelled(tokenizer, TALK, 1)["input_ids"])
    assert whole.startswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWhere to?<|im_end|>\n")


def test_a_template_that_rewrites_the_past_is_refused(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(DataError, match="rewrites earlier turns"):
        labelled(tokenizer, TALK, 1)


def test_best_paths_are_trained_on_from_where_the_context_ends(tmp_path: Path) -> None:
    path = BestPath(
        context="c", split="train", prompt=TALK[:1], chosen=TALK[1:], mrs=(0.5, 1.0), ended_by="turns"
    )
    write_records(tmp_path / "paths.jsonl", [path])
    config = SFT(out=str(tmp_path / "out"), paths=str(tmp_path / "paths.jsonl"))
    dialogues = read_dialogues(config)
    assert (dialogues.messages, dialogues.starts) == ([TALK], [1])
    assert (dialogues.pairs.train, dialogues.pairs.heldout) == ([], [])


def test_the_plan_of_online_training_by_hand(tmp_path: Path) -> None:
    config = Online(
        out=str(tmp_path / "run"), batch=3, sample_candidates=4, micro_batch=6, w=2, n=3, limit=12
    )
    made = plan(config, read_online(config))
    # 12 contexts, 3 a step; 12 replies of 3 futures of 2 exchanges each.
    assert (made["contexts"], made["steps"], made["replies_per_step"]) == (12, 4, 12)
    assert (made["futures_per_step"], made["user_tokens_at_most"]) == (36, 4 * 72 * 64)
    assert made["assistant_tokens_at_most"] == 4 * (72 + 12) * 160
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["grpo", "sample_candidates=1"], "sample_candidates: Input should be greater"),
        (["grpo", "temperature=0"], "temperature: Input should be greater"),
        (["grpo", "batch=3"], "batch=3 (12 replies) is not a multiple of micro_batch=8"),
        (["grpo", "batch=4000"], "batch=4000 contexts per step, but there are only"),
        (["grpo", 'candidates=["x"]'], "candidates: the replies are sampled"),
        (["rloo", "user=nosuch"], "nosuch: no model there"),
        (["online-dpo", "sample_candidates=4"], "sample_candidates: Input should be 2"),
        (["online-dpo", "assistant_tokens=2000"], "assistant_tokens: must be below max_length"),
        (["sft", "paths=nosuch.jsonl"], "nosuch.jsonl: no such file"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("", encoding="utf-8")
    assert main(["collab", words[0], "c.toml", *words[1:]]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_sharding_an_adapter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    (tmp_path / "c.toml").write_text("", encoding="utf-8")
    assert main(["collab", "grpo", str(tmp_path / "c.toml")]) == 2
    assert "LoRA does not shard" in capsys.readouterr().err


class State:
    is_world_process_zero, global_step, max_steps = True, 0, 2


def test_runs_of_one_process_log_to_their_own_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []

    class Live:
        def __init__(self, **settings: Any) -> None:
            self.logged: list[Any] = []
            begun.append({**settings, "live": self})

        def log(self, values: Any, step: int) -> None:
            self.logged.append((step, values))

    wandb = ModuleType("wandb")
    wandb.init, wandb.Settings = Live, dict  # type: ignore[attr-defined]
    wandb.Table = lambda columns, data: (columns, data)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("one", "two"):
        config = Tuning(out=str(tmp_path / name))
        rows = [[1, "c", "plan", 0.5, "user: hi"]]
        log = TrainLog(RunDir(config.out, config), config, Bars(), lambda rows=rows: rows)  # type: ignore[misc]
        log.on_train_begin(None, State, None)
        log.on_log(None, State, None, logs={"mr": 0.5})
        log.bars.stop()
    assert [run["dir"] for run in begun] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert {run["mode"] for run in begun} == {"offline"}
    (_, values), (_, table) = begun[1]["live"].logged
    assert (values, table["conversations"][1]) == ({"mr": 0.5}, rows)
    assert begun[0]["live"].logged == begun[1]["live"].logged
    assert "WANDB_DIR" not in os.environ


def test_prompts_stay_out_of_the_output_layer_and_nothing_else_changes(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    kernel: Any = getattr(trl_utils, "_ChunkedLogProbFunction")  # noqa: B009

    class Counted:
        @staticmethod
        def apply(hidden: torch.Tensor, *rest: Any) -> Any:
            rows.append(len(hidden))
            return kernel.apply(hidden, *rest)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Counted)
    monkeypatch.setattr(trl_utils, "_use_triton", lambda device: False)

    def scored() -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_base)
        trl_utils.add_fused_lm_head(model)
        ids = torch.arange(12).reshape(2, 6)
        labels = ids.masked_fill(
            torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool), -100
        )
        made = model(input_ids=ids, labels=labels, fused_lm_head=True)
        made.loss.backward()
        weights: Any = model.get_input_embeddings()
        return made.log_probs.detach(), weights.weight.grad

    before, gradient_before = scored()
    project_replies_only()
    after, gradient_after = scored()
    assert rows == [10, 4]
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(gradient_after, gradient_before)
    assert before.count_nonzero() == 4


def test_rows_whose_reply_is_cut_away_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    config = SFT(max_length=64)
    assert fitting(config, [("a", 10), ("b", 64), ("c", 63), ("d", 500)]) == ["a", "c"]
    assert "max_length=64 cuts the whole reply of 2 of 4 rows away" in caplog.text
    with pytest.raises(ConfigError, match="each of the 2 rows away; the shortest prompt takes 64 tokens"):
        fitting(config, [("b", 64), ("d", 500)])


def test_control_tokens_that_a_person_types_stay_text(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    typed = (says("user", "what is <|im_end|> for"), says("assistant", "<|im_end|> ends a turn."))
    row = labelled(tokenizer, typed, 1)
    assert row["input_ids"].count(tokenizer.eos_token_id) == 2
    assert [label for label in row["labels"] if label == tokenizer.eos_token_id] == [tokenizer.eos_token_id]
    words = tokenizer.decode(row["input_ids"])
    assert words.count("<|im_end|>") == 4


CONTROL = "what is <|im_end|> and <|im_start|>assistant"


def test_a_pair_of_typed_control_tokens_is_text_for_dpo(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    def pair(prompt: str, chosen: str, rejected: str) -> Pair:
        replies = {"chosen": (says("assistant", chosen),), "rejected": (says("assistant", rejected),)}
        scores = {"mr_chosen": 1.0, "mr_rejected": 0.0, "n_chosen": 1, "n_rejected": 1}
        return Pair.model_validate(
            {"context": "c", "split": "train", "prompt": (says("user", prompt),), **replies, **scores}
        )

    typed = pair_ids(tokenizer, pair(CONTROL, "<|im_end|> ends it.", "I <|im_start|> it."))
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    # The template's own: two headers and the user's end; in each reply its end.
    prompt, chosen, rejected = typed["prompt_ids"], typed["chosen_ids"], typed["rejected_ids"]
    assert [(ids.count(start), ids.count(end)) for ids in (prompt, chosen, rejected)] == [
        (2, 1),
        (0, 1),
        (0, 1),
    ]
    assert tokenizer.decode(prompt) == f"<|im_start|>user\n{CONTROL}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(chosen).rstrip() == "<|im_end|> ends it.<|im_end|>"
    assert tokenizer.decode(rejected).rstrip() == "I <|im_start|> it.<|im_end|>"
    # Replies that begin alike begin where the prompt ends all the same, as in TRL.
    alike = pair_ids(tokenizer, pair("hi", "By train.", "By plane."))
    assert tokenizer.decode(alike["prompt_ids"]).endswith("assistant\n")
    whole = tokenizer.apply_chat_template(
        [
            message.model_dump()
            for message in (*pair("hi", "By train.", "").prompt, says("assistant", "By train."))
        ],
        return_dict=False,
    )
    assert alike["prompt_ids"] + alike["chosen_ids"] == whole


@pytest.mark.parametrize("kind", [GRPOAsTyped, RLOOAsTyped])
def test_prompts_of_typed_control_tokens_are_text_for_online_training(tiny_base: Path, kind: Any) -> None:
    trainer = kind.__new__(kind)
    trainer.processing_class = tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    prompts = [[{"role": "user", "content": text}] for text in (CONTROL, "hi")]
    (typed, plain), images, fields = trainer._tokenize_prompts(prompts)
    assert (typed.count(tokenizer.eos_token_id), images, fields) == (1, None, {})
    assert tokenizer.decode(typed) == f"<|im_start|>user\n{CONTROL}<|im_end|>\n<|im_start|>assistant\n"
    assert plain == tokenizer.apply_chat_template(prompts[1], add_generation_prompt=True, return_dict=False)


def test_prompts_of_typed_control_tokens_are_broken_up_for_online_dpo(tiny_base: Path) -> None:
    trainer = PairedTrainer.__new__(PairedTrainer)
    trainer.processing_class = tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens(["[odd]", "  "])
    ((message,),) = trainer._harmless([[{"role": "user", "content": f"{CONTROL} [odd]  !"}]])
    assert message["content"].replace("\u200b", "") == f"{CONTROL} [odd]  !"
    ids = tokenizer(message["content"]).input_ids
    controls = {name: token for name, token in tokenizer.get_added_vocab().items() if name.strip()}
    assert not {*controls.values()} & {*ids}
