"""Plan of `usersim adapt`: commands of each stage, with estimated time, tokens and memory.

Times come from the measured rate of matrix products on this machine (`usersim.weights.precision`) and from counts of
the
data. They are accurate within a factor of about two. A run corrects them by the measured times of its stages.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from usersim.adapt.config import MachineSettings
from usersim.adapt.facts import Feasibility, Lengths, SplitFacts, feasibility
from usersim.adapt.stage_runner import StageStatus, duration, run_quietly, stage_status
from usersim.adapt.stages import RESULT, Argv, Pipeline, Stage, command_text, usersim_command
from usersim.adapt.state import FileHashes
from usersim.errors import DataError, UsersimError
from usersim.training.config import TrainConfig
from usersim.types import Record
from usersim.weights.default_model import BASE_NAME, home
from usersim.weights.precision import default_device, precision, throughput

PROBED = 400
"""Number of chats of each source that a plan prepares for its counts."""
SHARE_OF_RATE = {"bf16": 0.31, "fp32": 0.7}
"""Training throughput as a share of a large matrix product's at 64 rows (docs/results/cpu, 526 and 279 tokens/s)."""
DECODED_A_TURN = 25
PREP_CHATS_PER_S, PREP_START_S = 400, 20
"""Rate of preparation; docs/results/prep.md has 476 full-length chats per second and core."""
GOALS_PER_S = 37 / 60
"""Rate of the local goal model on two busy cores (docs/results/goal-model.md)."""
TEACHER_TOKENS = (900, 150)
"""Approximate prompt and completion tokens per goal."""
START_S = 15.0
"""Time for a command to load its libraries and weights."""
SCORED_PREFIXES, SCORED_TOKENS, CONTRASTS = 3, 384, 6
"""Load of the language-model scorer: prefixes per conversation, tokens per context with turn, contexts per text."""
GIB = 1024**3


class BaseShape(Record):
    """Size of a base model."""

    parameters: float
    layers: int
    hidden: int
    vocabulary: int


DEFAULT_BASE = BaseShape(parameters=134_515_008, layers=30, hidden=576, vocabulary=49_152)


class FlopRates(Record):
    """Throughput of a machine in FLOP/s."""

    training: float
    reading: float
    """Rate for prompts and scores."""
    writing: float
    """Rate for autoregressive decoding."""
    source: str


class StagePlan(Record):
    """One stage in a plan."""

    stage: str
    title: str
    standing: str
    left_out: str | None = None
    seconds: float | None = None
    """Estimated time; None: done, left out, or unknown."""
    what: str = ""
    commands: tuple[str, ...] = ()


class Plan(Record):
    """Output of `--dry-run`."""

    out: str
    stages: tuple[StagePlan, ...]
    splits: dict[str, SplitFacts]
    counted_in: str
    """Description of the counted chats."""
    stop: str | None = None
    warnings: tuple[str, ...] = ()
    training_tokens: int = 0
    pass_tokens: int = 0
    memory_gib: float | None = None
    """Peak memory, in the training stage."""
    machine_gib: float | None = None
    rates: str = ""

    @property
    def seconds(self) -> float:
        return sum(stage.seconds or 0.0 for stage in self.stages)


class TrainingLoad(Record):
    """Training tokens of one pass, and of each leg."""

    pass_tokens: int
    pass_windows: int
    tokens: tuple[int, ...]
    """Tokens of each leg."""


def make_plan(
    pipeline: Pipeline, *, probe: bool = True, execute: Callable[[Argv], int] = run_quietly
) -> Plan:
    """Makes a plan from the splits of the run, or else from a probe of the logs.

    Args:
        pipeline: Pipeline of stages.
        probe: Prepare the first chats of each source in a temporary folder if the splits do not exist yet.
        execute: Function that runs the preparation.

    Raises:
        UsersimError: The probe failed.
    """
    hashes = FileHashes(pipeline.run / "state" / "hashes.json")
    standings = _standings(pipeline, hashes)
    data_stage = next(stage for stage in pipeline.stages if stage.checks_data)
    if standings[data_stage.name] == "done":
        facts, counted, is_part = pipeline.measured_facts(), "the prepared splits", False
    elif probe:
        facts, counted, is_part = _probe(pipeline, execute)
    else:
        facts, counted, is_part = {}, "nothing yet", True
    judged = Feasibility()
    if facts:
        judged = feasibility(facts, writes_goals=pipeline.writes_goals, is_part=is_part)
    rates = machine_rates(pipeline.config.machine)
    seconds = estimates(pipeline, facts, rates) if facts else {}
    stages = []
    for stage in pipeline.stages:
        reason = _reason(pipeline, stage, judged)
        kind = standings[stage.name]
        is_idle = kind == "done" or reason is not None
        stages.append(
            StagePlan(
                stage=stage.name,
                title=stage.title,
                standing=kind,
                left_out=reason,
                seconds=None if is_idle else seconds.get(stage.name),
                what=_what(pipeline, stage, facts),
                commands=() if reason else tuple(command_text(argv) for argv in stage.commands()),
            )
        )
    load = training_load(pipeline, facts) if facts else None
    spent = (
        [] if load is None or is_part else [n for n, tokens in enumerate(load.tokens, start=1) if not tokens]
    )
    warnings = [
        *judged.warnings,
        *(
            f"Leg {number} of the training has nothing left of the pass: give the legs before it fewer steps, or leave "
            "it out."
            for number in spent
        ),
    ]
    return Plan(
        out=str(pipeline.run),
        stages=tuple(stages),
        splits=facts,
        counted_in=counted,
        stop=judged.stop,
        warnings=tuple(warnings),
        training_tokens=sum(load.tokens) if load else 0,
        pass_tokens=load.pass_tokens if load else 0,
        memory_gib=_rounded(training_memory(pipeline)),
        machine_gib=_rounded(machine_memory(pipeline.config.machine)),
        rates=rates.source,
    )


def plan_lines(plan: Plan) -> list[str]:
    """Returns the lines of a plan for a terminal."""
    lines = [f"run directory {plan.out}; counted in {plan.counted_in}"]
    for name, split in plan.splits.items():
        lines.append(
            f"  {name:5} {split.conversations:,} chats of {split.people:,} people, {split.user_turns:,} user turns, "
            f"{split.left:,} known ends, {split.with_goal:,} with a goal"
        )
    width = max(len(stage.stage) for stage in plan.stages)
    for stage in plan.stages:
        if stage.left_out:
            text = f"left out: {stage.left_out}"
        else:
            when = "" if stage.seconds is None else f"about {duration(stage.seconds)}"
            text = "; ".join(part for part in (stage.standing, when, stage.what) if part)
        lines.append(f"  {stage.stage:{width}}  {text}")
        lines += [f"  {'':{width}}    {command}" for command in stage.commands]
    if plan.training_tokens:
        share = plan.training_tokens / plan.pass_tokens if plan.pass_tokens else 0.0
        lines.append(
            f"training reads about {plan.training_tokens:,} tokens, {share:.0%} of a pass of {plan.pass_tokens:,}"
        )
    if plan.memory_gib is not None:
        there = "" if plan.machine_gib is None else f"; {plan.machine_gib:g} GiB are there"
        lines.append(f"training takes about {plan.memory_gib:g} GiB of memory{there}")
    if plan.seconds:
        lines.append(f"about {duration(plan.seconds)} in all, at {plan.rates}")
    return lines


# -- estimates -------------------------------------------------------------------------------------


def estimates(
    pipeline: Pipeline, facts: Mapping[str, SplitFacts], rates: FlopRates | None = None
) -> dict[str, float]:
    """Returns estimated seconds by stage, without stages that cannot be estimated."""
    config, rates = pipeline.config, rates or machine_rates(pipeline.config.machine)
    train, dev, test = (facts.get(name, SplitFacts()) for name in ("train", "dev", "test"))
    chats = train.conversations + dev.conversations + test.conversations
    without_goal = chats - train.with_goal - dev.with_goal - test.with_goal
    seconds = {
        "prep": PREP_START_S + chats / PREP_CHATS_PER_S,
        RESULT: 5.0,
        "population": START_S + chats / 400,
    }
    seconds["join"] = seconds["prep"]
    if config.goals.writer == "local":
        seconds["goals"] = START_S + min(without_goal, config.goals.limit or without_goal) / GOALS_PER_S
    shape = base_shape(pipeline.legs[-1].base, config.machine)
    if shape is None:
        return seconds
    read_s, write_s = 2 * shape.parameters / rates.reading, 2 * shape.parameters / rates.writing
    load = training_load(pipeline, facts)
    for number, (leg, tokens) in enumerate(zip(pipeline.legs, load.tokens, strict=True), start=1):
        evaluations = 1 + (_steps(leg, tokens, load) // leg.eval_every)
        dev_tokens = evaluations * leg.dev_conversations * _mean_tokens(dev)
        work = shape.parameters * (training_passes(leg) * tokens + 2 * dev_tokens)
        seconds[f"train-{number}"] = START_S + work / rates.training
    tokens_of_dev, tokens_of_test = _mean_tokens(dev), _mean_tokens(test)
    calibrated = min(dev.conversations, config.calibration.conversations)
    seconds["calibrate"] = START_S + calibrated * tokens_of_dev * read_s
    settings = len(config.decoding.temperature) * len(config.decoding.top_p)
    draws = settings * _scored_prefixes(dev, config.decoding.conversations)
    seconds["decoding"] = START_S * settings + draws * _drawing(tokens_of_dev, read_s, write_s)
    conversations = min(test.conversations, config.certificate.conversations)
    prefixes = conversations * _mean_turns(test)
    simulators = 1 + len(config.certificate.baselines)
    certificate = 4 * START_S + simulators * prefixes * _drawing(tokens_of_test, read_s, write_s)
    if config.certificate.scorer:
        scored = _scored_prefixes(test, conversations) * (1 + simulators) * CONTRASTS * SCORED_TOKENS
        certificate += scored * 2 * DEFAULT_BASE.parameters / rates.reading
    seconds["certificate"] = certificate
    return seconds


def training_passes(leg: TrainConfig) -> int:
    """Returns FLOPs per parameter and token: forward, backward to activations and, in a full fine-tune, to weights."""
    return (4 if leg.method == "lora" else 6) + (2 if leg.gradient_checkpointing else 0)


def training_load(pipeline: Pipeline, facts: Mapping[str, SplitFacts]) -> TrainingLoad:
    """Estimates the tokens of a pass over the training split, and of each leg, from the counts of a sample."""
    train, leg = facts.get("train", SplitFacts()), pipeline.legs[-1]
    tokens, windows = 0.0, 0.0
    for lengths in train.lengths:
        share = 1.0 if lengths.has_goal else leg.keep_without_goal
        own_tokens, own_windows = _windows(lengths, leg)
        tokens += share * (
            (1 - leg.openings) * own_tokens + leg.openings * min(lengths.opening, leg.max_tokens)
        )
        windows += share * ((1 - leg.openings) * own_windows + leg.openings)
    factor = train.conversations / max(1, len(train.lengths))
    pass_tokens, pass_windows = tokens * factor, windows * factor
    legs, used = [], 0.0
    for one in pipeline.legs:
        rows = pass_windows * one.epochs
        available = max(0.0, rows - used) if one.skip == "ledger" else rows
        # With more steps than rows, rows are repeated.
        leg_windows = one.max_steps * one.batch if one.max_steps and available else available
        used += min(leg_windows, available)
        legs.append(round(leg_windows * pass_tokens / max(1.0, pass_windows)))
    return TrainingLoad(pass_tokens=round(pass_tokens), pass_windows=round(pass_windows), tokens=tuple(legs))


def _windows(lengths: Lengths, leg: TrainConfig) -> tuple[int, int]:
    """Returns the tokens and windows of one conversation."""
    windows = max(1, math.ceil(lengths.whole / leg.max_tokens))
    used = min(windows, leg.windows_per_conversation or windows)
    return min(lengths.whole, used * leg.max_tokens), used


def _steps(leg: TrainConfig, tokens: int, load: TrainingLoad) -> int:
    """Returns the optimiser steps for a number of tokens."""
    return math.ceil(tokens * load.pass_windows / max(1, load.pass_tokens) / leg.batch)


def training_memory(pipeline: Pipeline) -> float | None:
    """Returns the peak bytes per device for weights, gradients, optimiser moments and activations."""
    leg, machine = pipeline.legs[-1], pipeline.config.machine
    shape = base_shape(leg.base, machine)
    if shape is None:
        return None
    is_half = machine.gpus > 0 or precision(default_device()) == "bf16"
    if leg.method == "lora":
        state = shape.parameters * (2 if is_half else 4) + 0.05 * shape.parameters * 16
    else:
        state = shape.parameters * (16 if leg.weights == "fp32" else 8)
    if any("fsdp" in word for word in pipeline.config.train.launch):
        state /= max(1, machine.gpus)
    tokens = leg.micro_batch * leg.max_tokens
    # Korthikanti et al. 2022, without attention scores: 34 bytes a token, layer and unit in half precision.
    a_layer = 34 * tokens * shape.hidden * (1 if is_half else 2)
    layers = (
        a_layer + 2 * tokens * shape.hidden * shape.layers
        if leg.gradient_checkpointing
        else a_layer * shape.layers
    )
    logits = 0.3 * tokens * shape.vocabulary * 4 * 2  # where a person speaks
    return state + layers + logits


def base_shape(base: str, machine: MachineSettings) -> BaseShape | None:
    """Returns the size of a base from its config.json and weight headers; None if it is not there."""
    folder = home() / BASE_NAME if base == BASE_NAME else Path(base)
    shape = DEFAULT_BASE if base == BASE_NAME else None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        parameters = machine.parameters or sum(map(_parameters, sorted(folder.glob("*.safetensors"))))
        shape = BaseShape(
            parameters=parameters,
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            vocabulary=config["vocab_size"],
        )
    except (OSError, ValueError, KeyError):
        if shape is None and machine.parameters:
            # A Llama's proportions: parameters are about 12 · layers · hidden², and hidden is about 128 · layers.
            layers = round((machine.parameters / (12 * 128**2)) ** (1 / 3))
            shape = BaseShape(
                parameters=machine.parameters, layers=layers, hidden=128 * layers, vocabulary=128_256
            )
    return shape


def _parameters(file: Path) -> float:
    """Returns the number of parameters in a safetensors file, from its header."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    return float(sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"))


def machine_rates(machine: MachineSettings) -> FlopRates:
    """Returns the measured rates of this machine, or those of the configured GPUs."""
    if machine.gpus or default_device() == "cuda":
        count = machine.gpus or 1
        rate = machine.tflops * 1e12
        source = (
            f"{count} GPU{'s' * (count > 1)} that attain {machine.tflops:g} TFLOP/s each (machine.tflops)"
        )
        # A decoding step is bound by memory: a fiftieth of the rate at common batches (docs/scale.md).
        return FlopRates(training=rate * count, reading=rate, writing=rate / 50, source=source)
    measured, kind = throughput(), precision("cpu")
    single, batch = measured.bf16 if kind == "bf16" and measured.bf16 else measured.fp32
    cores = len(os.sched_getaffinity(0))
    attained = batch * 1e9 * cores * SHARE_OF_RATE[kind]
    source = f"{cores} cores, {batch:.0f} GFLOP/s each in {kind} (measured)"
    return FlopRates(training=attained, reading=attained, writing=single * 1e9 * cores, source=source)


def machine_memory(machine: MachineSettings) -> float | None:
    """Returns the memory for training in bytes: of one GPU, or available on this machine."""
    if machine.gpus:
        return machine.gpu_gib * GIB
    if default_device() == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _mean_tokens(split: SplitFacts) -> float:
    return sum(lengths.whole for lengths in split.lengths) / max(1, len(split.lengths))


def _mean_turns(split: SplitFacts) -> float:
    return (split.user_turns + split.left) / max(1, split.conversations)


def _scored_prefixes(split: SplitFacts, most: int) -> float:
    """Returns the number of prefixes that are scored, at most three per conversation."""
    sampled = split.lengths
    mean = sum(min(SCORED_PREFIXES, lengths.user_turns) for lengths in sampled) / max(1, len(sampled))
    return min(split.conversations, most) * mean


def _drawing(tokens: float, read_s: float, write_s: float) -> float:
    """Returns seconds per sampled turn: half a conversation as prompt, and one turn."""
    return tokens / 2 * read_s + DECODED_A_TURN * write_s


def _rounded(size: float | None) -> float | None:
    return None if size is None else round(size / GIB, 1)


# -- probe -----------------------------------------------------------------------------------------


def _probe(pipeline: Pipeline, execute: Callable[[Argv], int]) -> tuple[dict[str, SplitFacts], str, bool]:
    """Counts the first chats of each source.

    Returns the counts scaled to the whole logs, a description of the counted chats, and True if they are a part.
    """
    with tempfile.TemporaryDirectory(prefix="usersim-adapt-") as temporary:
        folder = Path(temporary) / "probe"
        code = execute(usersim_command(*pipeline.probe_words(folder, PROBED)))
        if code != 0:
            raise UsersimError(
                f"the first {PROBED} chats of each source could not be prepared (exit status {code}); the message is "
                "above"
            )
        files = {name: folder / file.name for name, file in pipeline.splits.items()}
        facts = pipeline.facts(files)
        sheet = json.loads((folder / "datasheet.json").read_text(encoding="utf-8"))
        factor = _scale(pipeline, sheet, files)
    if factor is None:
        counted = (
            f"the first {PROBED} chats of each source; there are more, so times will be longer than estimated"
        )
        return facts, counted, True
    if factor <= 1:
        return facts, "all chats", False
    counted = f"the first {PROBED} chats of each source, scaled by about {factor:.1f}"
    return {name: split.scaled(factor) for name, split in facts.items()}, counted, False


def _scale(pipeline: Pipeline, sheet: Mapping[str, Any], probed: Mapping[str, Path]) -> float | None:
    """Returns the ratio of chats in the logs to chats read, from lines and sizes of the logs; None if unknown."""
    read = sheet["steps"][0]["in"]
    if read < PROBED:
        return 1.0
    sizes = [len(line) for file in probed.values() for line in file.read_bytes().splitlines()]
    if not sizes:
        return 1.0
    bytes_a_chat = sum(sizes) / len(sizes)
    chats = pipeline.packaged_bytes() / bytes_a_chat
    for file in pipeline.log_files():
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            chats += _lines(file)
        elif file.suffix == ".json":
            chats += file.stat().st_size / bytes_a_chat
        else:
            return None
    return max(1.0, chats / read) if chats else None


def _lines(file: Path) -> int:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            return sum(1 for line in stream if line.strip())
    except (OSError, EOFError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


# -- stages ----------------------------------------------------------------------------------------


def _standings(pipeline: Pipeline, hashes: FileHashes) -> dict[str, str]:
    """Returns the status of each stage. Stages after the first that runs depend on its outputs."""
    standings: dict[str, str] = {}
    is_waiting, own = False, f"{pipeline.run}/"
    for stage in pipeline.stages:
        status: StageStatus = stage_status(pipeline, stage, hashes)
        kind = str(status)
        if is_waiting and kind == "done":
            kind = "done, unless what it reads changes"
        elif is_waiting and status.kind == "anew" and all(name.startswith(own) for name in status.changes):
            kind = "runs if what it reads changes"
        is_waiting = is_waiting or kind != "done"
        standings[stage.name] = kind
    return standings


def _reason(pipeline: Pipeline, stage: Stage, judged: Feasibility) -> str | None:
    config = pipeline.config
    enabled = {
        "calibrate": config.calibration.enabled,
        "decoding": config.decoding.enabled,
        "population": config.population.enabled,
        "certificate": config.certificate.enabled,
    }
    if stage.name in enabled:
        return judged.left_out.get(stage.name) if enabled[stage.name] else "switched off in the config"
    return stage.left_out()


def _what(pipeline: Pipeline, stage: Stage, facts: Mapping[str, SplitFacts]) -> str:
    config = pipeline.config
    if stage.name == "goals" and facts:
        missing = sum(split.conversations - split.with_goal for split in facts.values())
        missing = min(missing, config.goals.limit or missing)
        if config.goals.writer == "teacher":
            read, written = TEACHER_TOKENS
            return f"{missing:,} requests, about {missing * read:,} + {missing * written:,} tokens"
        return f"{missing:,} goals"
    if stage.name.startswith("train-") and facts:
        number = int(stage.name.rpartition("-")[2])
        load = training_load(pipeline, facts)
        leg = pipeline.legs[number - 1]
        tokens = load.tokens[number - 1]
        return f"about {tokens:,} tokens in {_steps(leg, tokens, load):,} steps"
    if stage.name == "decoding":
        settings = len(config.decoding.temperature) * len(config.decoding.top_p)
        return f"{settings} settings at up to {config.decoding.conversations} dev chats"
    if stage.name == "certificate":
        simulators = 1 + len(config.certificate.baselines)
        return f"up to {config.certificate.conversations} test chats, {simulators} simulators"
    return stage.title
