"""Fine-tuning of a User LM with TRL's SFTTrainer: full or LoRA, one pass per conversation, resumable."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, ProgressCallback, set_seed
from trl.trainer.sft_config import SFTConfig

from usersim.errors import ConfigError, DataError
from usersim.rendering.renderer import Renderer, read_settings
from usersim.storage.locks import locked
from usersim.storage.runs import RunDir, refuse_difference
from usersim.training.borrowed_facets import borrowed
from usersim.training.checkpoints import (
    average,
    check_base,
    drop_incomplete,
    last_checkpoint,
    load_checkpoint,
    refuse_other_base,
    save_result,
    saving,
    step_of,
)
from usersim.training.config import LoraSettings, TrainConfig, check, processes, start_folder
from usersim.training.data import (
    TokenCounts,
    TrainingConversations,
    collate,
    even_out,
    load_corpus,
    training_rows,
    write_rows,
)
from usersim.training.ledger import LEDGER, RowCounter, Stretch, read_ledger, refuse_other_rows
from usersim.training.malloc import keep_pages
from usersim.training.packed_attention import register
from usersim.training.run_log import RunLog, rewind
from usersim.training.trainer import UserTrainer
from usersim.types import Conversation
from usersim.weights.base_model import UserBase, load_user_base
from usersim.weights.default_model import BASE_NAME, build_base
from usersim.weights.precision import precision

__all__ = ["LoraSettings", "TrainConfig", "UserTrainer", "dry_run", "train"]


_finished: list[Any] = []
"""Trainers of finished runs, kept so that their process groups live until the process ends. A group destroyed right
after its last collective, while the GIL is held, deadlocks with a gloo thread that waits for the GIL."""


def train(config: TrainConfig, *, export: bool = False) -> Path:
    """Runs or resumes a training run.

    Args:
        config: Config of the run.
        export: Train nothing and make the last checkpoint of an unfinished run its result.

    Returns:
        The folder of the adapter (LoRA) or model (full).

    Raises:
        UsersimError: Config, data or machine do not allow the run.
    """
    check(config)
    _check_start(config)
    # An export may read beside a running process; two runs would overwrite each other.
    writes = os.environ.get("RANK", "0") == "0" and not export
    with locked(config.out) if writes else nullcontext():
        return _train(config, export=export)


def _train(config: TrainConfig, *, export: bool) -> Path:
    keep_pages()
    args = _arguments(config)  # joins the other processes, if any
    base = _load_base(config)
    corpus, row_counter, dev = None, RowCounter(), list[Conversation]()
    with args.main_process_first(local=False):
        if args.process_index == 0:
            _open_run(config, base, export=export)
            corpus, row_counter, dev = _render(config, base.renderer, Path(config.out) / ".rows")
        run = RunDir(config.out, config)
        rows = _mapped(run.path / ".rows" / "train.arrow")
        dev_rows = _mapped(run.path / ".rows" / "dev.arrow")
    set_seed(config.seed)  # the adapter starts from random numbers, before the trainer seeds anything
    trainer = UserTrainer(
        model=_trainable(config, base),
        args=args,
        train_dataset=even_out(rows, config.micro_batch * processes()) if processes() > 1 else rows,
        eval_dataset=dev_rows,
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(base.source),
    )
    trainer.stop_ids, trainer.emphasis = tuple(base.renderer.stop_ids), config.emphases
    trainer.accelerator.wait_for_everyone()
    shutil.rmtree(run.path / ".rows", ignore_errors=True)  # every process has it mapped
    amounts = TokenCounts.of(rows)
    # One process alone cannot sample from sharded weights.
    log = RunLog(run, base.renderer, [] if trainer.is_fsdp_enabled else dev, amounts, config)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(log)
    last = last_checkpoint(run.path / "checkpoints")
    if export:
        load_checkpoint(trainer, last)
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    facts: dict[str, Any] = average(trainer, config.average, _last_dev_loss(trainer) or trainer.evaluate())
    ledger: list[Stretch] = []
    if corpus is not None:
        facts |= plan(corpus, row_counter, amounts, config, steps=trainer.state.global_step)
        ledger = [*_start_ledger(config), _stretch(config, row_counter, facts)]
    folder = save_result(run, base, trainer, named_base=config.base, facts=facts, ledger=ledger)
    trainer.accelerator.end_training()
    if processes() > 1:
        _finished.append(trainer)
    return folder


def plan(
    corpus: TrainingConversations,
    row_counter: RowCounter,
    amounts: TokenCounts,
    config: TrainConfig,
    *,
    steps: int,
) -> dict[str, Any]:
    """Returns the counts of `steps` training steps, for `--dry-run` and the summary."""
    windows = len(amounts.tokens) - 1
    windows_seen = min(windows, steps * config.batch)
    tokens, supervised = amounts.after(steps, batch=config.batch)
    start_ledger = _start_ledger(config)
    return {
        "conversations": len(corpus.conversations),
        "with_goal": corpus.with_goal,
        "without_goal_left_out": corpus.without_goal_left_out,
        "windows": windows,
        "windows_skipped": row_counter.windows - windows,
        "steps": steps,
        "windows_seen": windows_seen,
        "tokens": tokens,
        "supervised_tokens": supervised,
        "tokens_before": sum(stretch.tokens for stretch in start_ledger),
        "pass_windows": row_counter.windows,
        "pass_tokens": row_counter.tokens,
    }


def _start_ledger(config: TrainConfig) -> tuple[Stretch, ...]:
    """Returns the ledger of the start adapter."""
    return read_ledger(start_folder(config.start)) if config.start is not None else ()


def _stretch(config: TrainConfig, row_counter: RowCounter, facts: Mapping[str, Any]) -> Stretch:
    first = facts["windows_skipped"]
    return Stretch(
        run=Path(config.out).name,
        rows_sha256=row_counter.sha256,
        first=first,
        last=first + facts["windows_seen"],
        batch=config.batch,
        lr=config.lr,
        schedule=config.schedule,
        emphasis=config.emphases,
        **{name: facts[name] for name in FACTS},
    )


FACTS = (
    "pass_windows",
    "pass_tokens",
    "tokens",
    "supervised_tokens",
    "steps",
    "averaged",
    "eval_loss",
)
"""Fields of the summary that the ledger has too."""


def _last_dev_loss(trainer: UserTrainer) -> dict[str, float] | None:
    """Returns the dev loss of the last step if it was logged."""
    for logged in reversed(trainer.state.log_history):
        if logged["step"] == trainer.state.global_step and "eval_loss" in logged:
            return {key: logged[key] for key in ("eval_loss", "eval_perplexity")}
    return None


def _load_base(config: TrainConfig) -> UserBase:
    return load_user_base(
        build_base() if config.base == BASE_NAME else config.base,
        dtype=config.weights_dtype,
        context_tokens=config.context_tokens,
        limits=config.limits,
        acts=config.acts,
        attention=register() if config.attention == "packed" else config.attention,
    )


def _open_run(config: TrainConfig, base: UserBase, *, export: bool) -> None:
    """Creates the run folder or prepares it for resuming, without leftovers of a killed run."""
    out = Path(config.out)
    _refuse_unknown(out)
    run = RunDir(out, config)
    check_base(run, base, named=config.base)
    if not export:  # a run may be saving there at this moment
        drop_incomplete(out / "checkpoints")
        rewind(run, step_of(last_checkpoint(out / "checkpoints")))


def _refuse_unknown(out: Path) -> None:
    if last_checkpoint(out / "checkpoints") and not (out / "config.json").is_file():
        raise ConfigError(f"{out} holds checkpoints of an unknown run (no config.json); choose another out=…")


def _render(
    config: TrainConfig, renderer: Renderer, folder: Path
) -> tuple[TrainingConversations, RowCounter, list[Conversation]]:
    """Writes `train.arrow` and `dev.arrow` to `folder`.

    Returns the corpus, the row counts and the dev conversations.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with saving(folder):
        corpus, row_counter = _render_train(config, renderer, folder)
        held_out = load_corpus(config.dev, keep_without_goal=1.0, seed=config.seed, folder=folder)
        every = max(1, len(held_out.conversations) // config.dev_conversations)
        dev = list(held_out.conversations[::every][: config.dev_conversations])
        rows = training_rows(
            dev,
            renderer,
            max_tokens=config.max_tokens,
            epochs=1,
            seed=config.seed,
            windows_per_conversation=2,
        )
        write_rows(rows, folder / "dev.arrow")
    return corpus, row_counter, dev


def _render_train(
    config: TrainConfig, renderer: Renderer, folder: Path
) -> tuple[TrainingConversations, RowCounter]:
    corpus = load_corpus(
        config.train, keep_without_goal=config.keep_without_goal, seed=config.seed, folder=folder
    )
    rows = training_rows(
        corpus.conversations,
        renderer,
        max_tokens=config.max_tokens,
        epochs=config.epochs,
        seed=config.seed,
        windows_per_conversation=config.windows_per_conversation,
        openings=config.openings,
        borrowed=borrowed(corpus.conversations, Path(config.out)) if config.borrow_facets else None,
    )
    row_counter, start_ledger = RowCounter(), _start_ledger(config)
    skip = (start_ledger[-1].last or 0) if config.skip == "ledger" else config.skip
    written = write_rows(islice(row_counter.count(rows), skip, None), folder / "train.arrow")
    if not row_counter.windows:
        raise DataError(f"no user turn to learn from in {', '.join(config.train)}")
    if config.skip == "ledger":
        refuse_other_rows(start_ledger, row_counter, where=start_folder(str(config.start)))
    if not written:
        raise ConfigError(
            f"skip={config.skip}: all {row_counter.windows} windows of the pass are skipped; "
            "give skip=0 with another seed for a second one"
        )
    return corpus, row_counter


def _mapped(file: Path) -> Dataset:
    return Dataset.from_file(str(file))


def _trainable(config: TrainConfig, base: UserBase) -> Any:
    if config.method == "full":
        return base.model
    if config.start is not None:
        return _load_start(config.start, base)
    settings, end = config.lora, base.settings.end_of_conversation_id
    # PEFT handles tied weights itself. Untied, the output row would stay at its initialisation, and it is the one
    # that matters: nothing follows an end, so its input row gets no gradient.
    tied = base.model.config.tie_word_embeddings
    return get_peft_model(
        base.model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            # Only the end-of-conversation row is trained: a full embedding would add 57 MB to the adapter.
            trainable_token_indices={"embed_tokens": [end]} | ({} if tied else {"lm_head": [end]}),
            task_type="CAUSAL_LM",
        ),
    )


def _check_start(config: TrainConfig) -> None:
    """Raises ConfigError for an unusable start adapter. Loads no weights and writes nothing."""
    if config.start is not None:
        read_settings(start_folder(config.start))
        start_ledger = _start_ledger(config)
        if config.skip == "ledger" and not (start_ledger and start_ledger[-1].rows_sha256):
            raise ConfigError(
                f"skip=ledger: {start_folder(config.start)} has no {LEDGER} with its rows; "
                "give the number of windows as skip=N"
            )


def _load_start(start: str, base: UserBase) -> Any:
    folder = start_folder(start)
    trained = read_settings(folder)
    # Truncation limits may change; the rendering to tokens may not.
    own = {name: getattr(base.settings, name) for name in ("limits", "context_tokens", "acts")}
    if trained.uncalibrated().model_copy(update=own) != base.settings:
        raise ConfigError(f"start={start}: trained on another base (control tokens or template differ)")
    return PeftModel.from_pretrained(base.model, folder, is_trainable=True)


SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup", "linear": "linear"}
"""Names of the schedules in transformers."""


def _arguments(config: TrainConfig) -> SFTConfig:
    os.environ["WANDB_DISABLED"] = "true"  # the run log calls wandb itself, so that it cannot stop a run
    try:
        return SFTConfig(
            output_dir=str(Path(config.out) / "checkpoints"),
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            bf16=precision() == "bf16",
            per_device_train_batch_size=config.micro_batch,
            per_device_eval_batch_size=1,
            gradient_accumulation_steps=config.accumulation,
            average_tokens_across_devices=True,
            ddp_find_unused_parameters=False,
            ddp_timeout=24 * 3600,  # the others wait while the main process renders, samples and saves
            gradient_checkpointing=config.gradient_checkpointing,
            num_train_epochs=1,  # the rows already hold every epoch
            max_steps=config.max_steps or -1,
            learning_rate=config.lr,
            lr_scheduler_type=SCHEDULES[config.schedule],
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            logging_steps=10,
            eval_strategy="steps",
            eval_steps=config.eval_every,
            save_steps=config.steps_between_saves,
            save_total_limit=max(2, config.average),
            seed=config.seed,
            data_seed=config.seed,
            max_length=None,  # windows are cut at turn boundaries already; cutting here would lose ends
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            dataloader_num_workers=0,
        )
    except ValueError as error:
        raise ConfigError(f"this machine cannot train with these settings ({error})") from error


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """Returns the plan of a run, from its data and base. Raises the errors that the run would before its first step."""
    check(config)
    _check_start(config)
    _arguments(config)
    _refuse_unknown(Path(config.out))
    refuse_difference(config.out, config)
    base = _load_base(config)
    refuse_other_base(Path(config.out), base, named=config.base)
    _trainable(config, base)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "rows"
        corpus, row_counter, _ = _render(config, base.renderer, folder)
        amounts = TokenCounts.of(_mapped(folder / "train.arrow"))
    steps = config.max_steps or math.ceil((len(amounts.tokens) - 1) / config.batch)
    return plan(corpus, row_counter, amounts, config, steps=steps)
