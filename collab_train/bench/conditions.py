"""Config of a benchmark: assistants, tasks, simulated users, and tests of single replies."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from collab_train.contexts import Context
from collab_train.rewards import RewardConfig
from collab_train.rollout.command import MRConfig, choose_contexts
from collab_train.rollout.engines.models import URLS, adapter_of
from collab_train.tasks import get_task
from usersim.errors import ConfigError
from usersim.storage.toml_config import Config
from usersim.types import NonEmpty
from usersim.users.policies import policy_from
from usersim.users.prompted import BY_NAME

Part = Literal["table", "ablation", "clarify", "safety"]
PARTS: tuple[Part, ...] = ("table", "ablation", "clarify", "safety")
PROACTIVE = """\
You help one person with one thing, over several messages. People begin vaguely: what matters most to them is often \
missing from what they write first. While you do not know it, ask one short question about it: a limit, a taste, who \
it is for, what they have already. Never ask for what was said, and never more than two things at once. As soon as \
you know enough, give a concrete answer that uses every detail you were told and names it. Write little: the person \
has to read every word."""


class AssistantSpec(Config):
    name: NonEmpty
    address: str = "local"
    """Model, as in `collab mr`: `local`, an OpenAI-compatible URL[#model], a model folder, or a training run."""
    proactive: bool = False
    """Puts `PROACTIVE` at the start of the system prompt."""
    system: str | None = None
    """System prompt, after `PROACTIVE` and before the system prompt of the context."""

    def system_for(self, context: Context) -> str | None:
        parts = (PROACTIVE if self.proactive else None, self.system, context.system)
        return "\n\n".join(part for part in parts if part) or None


class UserSpec(Config):
    name: NonEmpty
    address: str = "local"
    """Model, as `user` in `collab mr`. With `prompt`: a chat model, as `address` of an assistant."""
    prompt: str | None = None
    """Prompt of `usersim.users.prompted` with which a chat model plays the user. None: a User LM."""
    policy: str | None = None
    """Policy of an uncooperative user (`usersim.users.policies`): "impatient", "withholding:strict=true" …"""

    @model_validator(mode="after")
    def _prompt_and_policy_exist(self) -> UserSpec:
        if self.prompt is not None and self.prompt not in BY_NAME:
            raise ValueError(f"prompt: unknown {self.prompt!r}; choose one of {', '.join(BY_NAME)}")
        if self.policy is not None:
            try:
                policy_from(self.policy)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self


class TaskSpec(Config):
    name: NonEmpty = "hidden_facets"
    path: str | None = None
    """File of the task, for tasks that read one (docs/tasks.md)."""
    contexts: str | None = None
    """JSONL file of contexts, instead of those of the task. `name` is then only a label."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of held-out contexts, spread evenly."""
    system: str | None = None
    rewards: dict[str, float] = Field(default_factory=dict)
    """Weights of the extrinsic rewards. Empty: those of the task."""

    def weights(self) -> dict[str, float]:
        if self.rewards or self.contexts:
            return self.rewards or {"facet_coverage": 1.0}
        return dict(get_task(self.name, self.path).rewards)

    def heldout(self) -> list[Context]:
        return choose_contexts(
            MRConfig(
                contexts=self.contexts,
                task="hidden_facets" if self.contexts else self.name,
                task_path=self.path,
                split="heldout",
                limit=self.limit,
                system=self.system,
                rewards=self.weights(),
            )
        )


class TrainedSpec(AssistantSpec):
    w: int = Field(ge=0)
    """Window of the rewards behind its preference pairs."""
    rewards: str = "both"
    """Kind of those rewards. Each kind is one line of the plot."""


class Ablation(Config):
    """Assistants whose training differed only in the reward (CollabLLM, Figure 4)."""

    assistants: tuple[TrainedSpec, ...] = ()
    """Assistants to compare. Empty: those that `ablation.commands` train in `folder`."""
    folder: str = "runs/collab-ablation"
    w: tuple[int, ...] = (0, 1, 2, 3)
    immediate: tuple[Literal["extrinsic", "intrinsic", "helpfulness"], ...] = ()
    """Additional kinds of reward at w = 0, besides "both". `helpfulness` needs `judge`."""
    pairs: str = "configs/collab/pairs.toml"
    options: tuple[str, ...] = ()
    """Overrides (key=value) for every run of `collab pairs`."""
    reuse: str | None = None
    """Run of `collab pairs` to reuse futures from. Only its window and margin may differ from `pairs`."""
    dpo: str = "configs/collab/dpo.toml"


class Clarify(Config):
    """Abg-CoQA test: an assistant should ask back at ambiguous questions and answer clear ones."""

    path: str | None = None
    limit: int = Field(default=100, ge=1)
    """Maximum number of questions of each kind, spread evenly."""


class Safety(Config):
    path: str | None = None
    """JSONL file of {id, kind: harmful | harmless, category, text}. None: the set in this package."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of requests of each kind, spread evenly."""


class BenchConfig(RewardConfig):
    out: str = "runs/collab-bench"
    assistants: tuple[AssistantSpec, ...] = (
        AssistantSpec(name="Base"),
        AssistantSpec(name="Proactive prompt", proactive=True),
    )
    references: tuple[str, ...] = ("Base", "Proactive prompt")
    """Names of the assistants that the others are compared with. Names that the config lacks are ignored."""
    tasks: tuple[TaskSpec, ...] = (TaskSpec(),)
    users: tuple[UserSpec, ...] = (UserSpec(name="User LM"),)
    turns: int = Field(default=3, ge=1, le=64)
    """Maximum number of user turns after the opening. The assistant has one more."""
    repeats: int = Field(default=1, ge=1)
    """Conversations per context. They are averaged first, so that intervals are over contexts."""
    ablation: Ablation | None = None
    clarify: Clarify | None = None
    safety: Safety | None = Safety()
    user_tokens: int = Field(default=64, ge=1)
    """Maximum tokens of a turn of an in-process user."""
    assistant_tokens: int = Field(default=160, ge=1)
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Sampling temperature of the assistants."""
    concurrency: int = Field(default=32, ge=1)
    retries: int = Field(default=8, ge=0)
    """Retries of a call that an engine did not answer (`patience.retry`)."""
    seed: int = 0

    @model_validator(mode="after")
    def _usable(self) -> BenchConfig:
        for kind in ("assistants", "tasks", "users"):
            names = [one.name for one in getattr(self, kind)]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind}: need at least one, each with its own name; got {names}")
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts that the config has a section for; the table always."""
        return tuple(part for part in PARTS if part == "table" or getattr(self, part) is not None)

    @property
    def compared(self) -> tuple[str, ...]:
        names = {spec.name for spec in self.assistants}
        return tuple(name for name in self.references if name in names)


class Playing(Config):
    """Settings shared by all conversations of a run directory.

    Assistants, tasks and users may be added later: each conversation is stored under its own hash.
    """

    turns: int
    user_tokens: int
    assistant_tokens: int
    temperature: float
    seed: int


def playing(config: BenchConfig) -> Playing:
    return Playing.model_validate(config.model_dump(include=set(Playing.model_fields)))


def missing(specs: tuple[AssistantSpec, ...]) -> list[str]:
    """Names of assistants whose folder holds no model."""
    return [spec.name for spec in specs if not _model_exists(spec.address)]


def _model_exists(address: str) -> bool:
    return (
        address == "local"
        or address.startswith(URLS)
        or adapter_of(address) is not None
        or (Path(address) / "config.json").is_file()
    )
