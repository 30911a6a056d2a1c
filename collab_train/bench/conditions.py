"""What is compared with what: assistants, tasks, simulated users, and what else is asked of the assistants."""

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
    """As in `collab mr`: `local`, an OpenAI-compatible URL[#model], a model folder, or a run of training."""
    proactive: bool = False
    """Begins its system prompt with `PROACTIVE`."""
    system: str | None = None
    """Comes next; what the context itself demands comes last."""

    def system_for(self, context: Context) -> str | None:
        parts = (PROACTIVE if self.proactive else None, self.system, context.system)
        return "\n\n".join(part for part in parts if part) or None


class UserSpec(Config):
    name: NonEmpty
    address: str = "local"
    """As `user` in `collab mr`; with `prompt`, a chat model as in `assistant`."""
    prompt: str | None = None
    """Not a user LM but a chat model told to play the user: one of the prompts of `usersim.users.prompted`."""
    policy: str | None = None
    """Does not cooperate (`usersim.users.policies`): "impatient", "withholding:strict=true" …"""

    @model_validator(mode="after")
    def _known(self) -> UserSpec:
        if self.prompt is not None and self.prompt not in BY_NAME:
            raise ValueError(f"prompt: no {self.prompt!r}; there are {', '.join(BY_NAME)}")
        if self.policy is not None:
            try:
                policy_from(self.policy)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self


class TaskSpec(Config):
    name: NonEmpty = "hidden_facets"
    path: str | None = None
    """The file that the task reads, where it reads one (docs/tasks.md)."""
    contexts: str | None = None
    """A JSONL file of contexts instead of the task's own; `name` is then any name."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many held-out contexts, spread evenly."""
    system: str | None = None
    rewards: dict[str, float] = Field(default_factory=dict)
    """Extrinsic rewards; empty: the task's own."""

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
    """Window of the rewards that its pairs were made with."""
    rewards: str = "both"
    """Which rewards those were; a line of the plot each."""


class Ablation(Config):
    """Assistants whose training differed in the reward alone (CollabLLM, Figure 4)."""

    assistants: tuple[TrainedSpec, ...] = ()
    """Empty: the runs that the commands of `ablation.commands` leave in `folder`."""
    folder: str = "runs/collab-ablation"
    w: tuple[int, ...] = (0, 1, 2, 3)
    immediate: tuple[Literal["extrinsic", "intrinsic", "helpfulness"], ...] = ()
    """Further rewards of w = 0, besides both; `helpfulness` needs `judge`."""
    pairs: str = "configs/collab/pairs.toml"
    options: tuple[str, ...] = ()
    """key=value for every run of `collab pairs`."""
    reuse: str | None = None
    """A run of pairs to go on from; its settings, windows and margins apart, must be those of `pairs`."""
    dpo: str = "configs/collab/dpo.toml"


class Clarify(Config):
    """Abg-CoQA: asks when the question is ambiguous, answers when it is not."""

    path: str | None = None
    limit: int = Field(default=100, ge=1)
    """Of each kind at most, spread evenly."""


class Safety(Config):
    path: str | None = None
    """JSON Lines of {id, kind: harmful | harmless, category, text}; None: the set in this package."""
    limit: int | None = Field(default=None, ge=1)
    """Of each kind at most, spread evenly."""


class BenchConfig(RewardConfig):
    out: str = "runs/collab-bench"
    assistants: tuple[AssistantSpec, ...] = (
        AssistantSpec(name="Base"),
        AssistantSpec(name="Proactive prompt", proactive=True),
    )
    references: tuple[str, ...] = ("Base", "Proactive prompt")
    """Assistants that the others are compared with, as far as they are among them."""
    tasks: tuple[TaskSpec, ...] = (TaskSpec(),)
    users: tuple[UserSpec, ...] = (UserSpec(name="User LM"),)
    turns: int = Field(default=3, ge=1, le=64)
    """User turns after the opening, at most; the assistant has one more."""
    repeats: int = Field(default=1, ge=1)
    """Conversations a context, averaged before anything else: intervals are over contexts."""
    ablation: Ablation | None = None
    clarify: Clarify | None = None
    safety: Safety | None = Safety()
    user_tokens: int = Field(default=64, ge=1)
    """Longest turn of a user in this process."""
    assistant_tokens: int = Field(default=160, ge=1)
    temperature: float = Field(default=0.8, ge=0, le=2)
    """The assistants'."""
    concurrency: int = Field(default=32, ge=1)
    retries: int = Field(default=8, ge=0)
    """Further tries of a call that an engine did not answer (`patience.patiently`)."""
    seed: int = 0

    @model_validator(mode="after")
    def _usable(self) -> BenchConfig:
        for kind in ("assistants", "tasks", "users"):
            names = [one.name for one in getattr(self, kind)]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind}: at least one, each with a name of its own; got {names}")
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those that the config asks for."""
        return tuple(part for part in PARTS if part == "table" or getattr(self, part) is not None)

    @property
    def compared(self) -> tuple[str, ...]:
        names = {spec.name for spec in self.assistants}
        return tuple(name for name in self.references if name in names)


class Playing(Config):
    """What every conversation of a run directory shares. Assistants, tasks and users may come later: each
    conversation is kept under a hash of its own."""

    turns: int
    user_tokens: int
    assistant_tokens: int
    temperature: float
    seed: int


def playing(config: BenchConfig) -> Playing:
    return Playing.model_validate(config.model_dump(include=set(Playing.model_fields)))


def missing(specs: tuple[AssistantSpec, ...]) -> list[str]:
    """Names of assistants whose folder holds nothing to open."""
    return [spec.name for spec in specs if not _there(spec.address)]


def _there(address: str) -> bool:
    return (
        address == "local"
        or address.startswith(URLS)
        or adapter_of(address) is not None
        or (Path(address) / "config.json").is_file()
    )
