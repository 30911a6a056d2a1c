"""Config of `usersim adapt`: one table for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from usersim.errors import ConfigError
from usersim.storage.toml_config import Config, read_toml
from usersim.training.config import TrainConfig

Share = tuple[float, float, float]
GIVEN_BY_ADAPT = ("out", "train", "dev")
"""Keys of a training config that the run directory determines."""


class DataSettings(Config):
    """Stage `prep`."""

    recipe: str | None = None
    """A recipe of `usersim prep`, such as configs/data/userlm.toml; or name `sources`."""
    sources: tuple[str, ...] = ()
    """Chat logs, each a SOURCE of `usersim prep`: messages:logs.jsonl, sharegpt, …"""
    ends: Literal["natural", "cut"] | None = None
    """cut: the logs were truncated, so that no chat ends where the person left."""
    goals: tuple[str, ...] = ()
    """Annotation files with goals of these chats."""
    held_out: tuple[str, ...] = ()
    """Test-only sources; training chats too similar to them are left out."""
    split_fractions: Share | None = None
    """Shares of train, dev and test; default: those of the recipe, else 0.9, 0.05, 0.05."""
    language: Literal["en", "any"] | None = None
    workers: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _recipe_or_sources(self) -> DataSettings:
        if (self.recipe is None) == (not self.sources):
            raise ValueError("give `recipe`, or `sources`, and not both")
        if self.recipe is not None and self.ends is not None:
            raise ValueError("set `ends` of each source in the recipe")
        return self


class GoalSettings(Config):
    """Stages `goals` and `join`: goals for chats that have none."""

    writer: Literal["none", "local", "teacher"] = "none"
    """local: the small goal model on this machine. teacher: an OpenAI-compatible endpoint."""
    teacher_url: str | None = None
    teacher_model: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable with the endpoint's key."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of goals to write."""

    @model_validator(mode="after")
    def _teacher_is_named(self) -> GoalSettings:
        if self.writer == "teacher" and not (self.teacher_url and self.teacher_model):
            raise ValueError("a teacher needs `teacher_url` and `teacher_model`")
        return self


class TrainSettings(Config):
    """Stages `train-1`, `train-2` …: one for each leg."""

    config: str | None = None
    """Config of `usersim train`; its data and folder are replaced by those of this run."""
    values: dict[str, Any] = Field(default={})
    """Further keys of `usersim train`, e.g. start = "userlm-135m"."""
    legs: tuple[dict[str, Any], ...] = ({},)
    """Config keys of each leg. A later leg continues from the adapter and data position of the one before."""
    launch: tuple[str, ...] = ()
    """Launcher of several processes, e.g. ["accelerate", "launch", "--config_file", "FILE"]."""

    @model_validator(mode="after")
    def _legs(self) -> TrainSettings:
        if not self.legs:
            raise ValueError("legs: give one at least, or leave the key out")
        return self


class CalibrationSettings(Config):
    """Stage `calibrate`."""

    enabled: bool = True
    conversations: int = Field(default=400, ge=1)
    """Maximum dev conversations for the fit."""


class DecodingSettings(Config):
    """Stage `decoding`."""

    enabled: bool = True
    temperature: tuple[float, ...] = (0.8, 1.0)
    top_p: tuple[float, ...] = (0.8, 0.9, 0.95, 1.0)
    max_tokens: int = Field(default=192, ge=1, le=4096)
    """Maximum tokens of a turn, also without a choice of parameters."""
    conversations: int = Field(default=100, ge=2)
    """Maximum dev conversations where turns are sampled."""


class PopulationSettings(Config):
    """Stage `population`."""

    enabled: bool = True


class CertificateSettings(Config):
    """Stage `certificate`."""

    enabled: bool = True
    human: tuple[str, ...] = ()
    """Held-out conversations; default: the test split of this run."""
    conversations: int = Field(default=200, ge=2)
    baselines: tuple[str, ...] = ("prompted-base=chat:smollm2-135m-instruct", "nearest=nearest:{train}")
    """Baseline simulators, as --simulator of `usersim eval next-turn`; {train} is the training file."""
    goals: str = "own,none,count_neutral"
    """Goal conditions for the measurement of leaving."""
    scorer: bool = True
    """Also measure with a language model, the slowest part."""
    log: str | None = None
    """Log of the uses of discriminator family B; default: family_b.jsonl in the run directory."""


class MachineSettings(Config):
    """Machine that a plan is for, if not this one."""

    parameters: float | None = Field(default=None, gt=0)
    """Number of parameters of the base; default: counted in its weights."""
    gpus: int = Field(default=0, ge=0)
    """Number of GPUs; 0: this machine."""
    gpu_gib: float = Field(default=80, gt=0)
    tflops: float = Field(default=150, gt=0)
    """Training throughput of one GPU, in TFLOP/s."""


class AdaptConfig(Config):
    """Config of `usersim adapt`."""

    out: str
    """Run directory; the same command there resumes it."""
    name: str | None = None
    """Name of the User LM; default: the last part of `out`."""
    language: str = "en"
    """Language of the measured user turns; `any` for all."""
    seed: int = 0
    data: DataSettings
    goals: GoalSettings = GoalSettings()
    train: TrainSettings = TrainSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    decoding: DecodingSettings = DecodingSettings()
    population: PopulationSettings = PopulationSettings()
    certificate: CertificateSettings = CertificateSettings()
    machine: MachineSettings = MachineSettings()

    @property
    def run(self) -> Path:
        return Path(self.out)

    @property
    def title(self) -> str:
        return self.name or self.run.name


def leg_values(settings: TrainSettings) -> list[dict[str, Any]]:
    """Returns the keys of `usersim train` for each leg, without those that the run directory determines.

    Raises:
        ConfigError: A key is unknown, wrong, or cannot be set here.
    """
    shared: dict[str, Any] = read_toml(Path(settings.config)) if settings.config else {}
    shared = {key: value for key, value in shared.items() if key not in GIVEN_BY_ADAPT}
    legs = []
    for number, leg in enumerate(settings.legs, start=1):
        for key in GIVEN_BY_ADAPT:
            if key in settings.values or key in leg:
                raise ConfigError(f"train: `{key}` follows from the run directory; leave it out")
        values = _merged(_merged(shared, settings.values), leg)
        if number > 1:
            if values.get("method", "lora") != "lora":
                raise ConfigError("train.legs: only an adapter (method lora) is trained in several legs")
            for key in ("start", "skip"):
                if key in leg:
                    raise ConfigError(
                        f"train.legs: leg {number} starts where the one before stopped; no {key}"
                    )
        legs.append(values)
    return legs


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """Returns the training config of `values`. Raises ConfigError."""
    from pydantic import ValidationError

    from usersim.storage.records import explain

    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"train: {explain(error)}") from error


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `first` overridden by `second`, table by table."""
    merged = dict(first)
    for key, value in second.items():
        before = merged.get(key)
        merged[key] = (
            _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
        )
    return merged
