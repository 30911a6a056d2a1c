"""Teacher-forced likelihood of people's turns and P(end) under a User LM, on tokens that two versions share.

The first `HEAD_TOKENS` of each user turn are scored, without the end of the turn. Each model reads the context it is
served with: its `userlm.json` limits how much of each message is read. So two models with different limits are
scored on identical tokens. They need the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from eval.likelihood.likelihood import load_causal_lm
from eval.likelihood.scored import weights_hash
from eval.next_turn.prefixes import Prefix
from usersim.chat_models.answer_cache import AnswerCache, key_of
from usersim.rendering.renderer import Renderer
from usersim.types import UserProfile
from usersim.weights.default_model import resolve

HEAD_TOKENS = 160
"""Maximum number of scored tokens of a turn."""


@dataclass(frozen=True)
class PrefixScore:
    """Score of one prefix.

    Attributes:
        nats: Negative log-likelihood of the scored tokens of the person's turn; 0 where the person left.
        tokens: Number of scored tokens.
        end_probability: Calibrated P(end) before the turn.
    """

    nats: float
    tokens: int
    end_probability: float


class TeacherForcedScorer:
    """Teacher-forced scorer of prefixes, with a KV cache for the tokens that consecutive prompts share.

    Args:
        model: Causal LM with the adapter merged.
        renderer: Renderer of that model.
        identity: Cache keys: everything that the scores depend on.
        cache: Scores on disk; an interrupted run resumes from them.
    """

    def __init__(
        self, model: Any, renderer: Renderer, *, cache_keys: dict[str, str], cache: AnswerCache
    ) -> None:
        self.model, self.renderer = model, renderer
        self._cache_keys, self._cache = cache_keys, cache
        self._keys: Any = None
        self._cached_ids: list[int] = []

    @classmethod
    def from_pretrained(cls, source: str, folder: Path) -> Self:
        """Loads a User LM.

        Args:
            source: Name, run directory or folder of a User LM.
            folder: Folder of the cached scores.

        Raises:
            ConfigError: `source` is not a User LM.
            BackendError: The weights cannot be loaded.
        """
        path = resolve(source)
        renderer = Renderer.from_pretrained(path)
        calibration = renderer.settings.calibration
        cache_keys = {
            "weights": weights_hash(path),
            "render": renderer.fingerprint,
            "calibration": calibration.model_dump_json() if calibration else "",
            "head_tokens": str(HEAD_TOKENS),
        }
        return cls(load_causal_lm(path, None), renderer, cache_keys=cache_keys, cache=AnswerCache(folder))

    def target_ids(self, text: str) -> list[int]:
        """Scored tokens of a turn."""
        return self.renderer.encode(text.strip())[:HEAD_TOKENS]

    def score(self, prefix: Prefix) -> PrefixScore:
        """Returns the score of the person's next turn under the prefix's goal, without a persona."""
        profile = UserProfile(goal=prefix.goal)
        key = key_of(
            {
                **self._cache_keys,
                "profile": profile.model_dump(),
                "history": [turn.model_dump() for turn in prefix.history],
                "text": prefix.text,
            }
        )
        stored = self._cache.get(key)
        if stored is None:
            stored = asdict(self._compute(prefix, profile))
            self._cache.put(key, stored)
        return PrefixScore(**stored)

    @torch.inference_mode()
    def _compute(self, prefix: Prefix, profile: UserProfile) -> PrefixScore:
        prompt = self._prompt(prefix, profile)
        target = self.target_ids(prefix.text) if prefix.text else []
        logprobs_TV = self._logprobs(prompt, target)
        settings = self.renderer.settings
        raw = float(logprobs_TV[0, settings.end_of_conversation_id].exp())
        user_turns = sum(turn.role == "user" for turn in prefix.history)
        chosen = torch.tensor(target, dtype=torch.long, device=logprobs_TV.device).unsqueeze(1)
        nats = -float(logprobs_TV[: len(target)].gather(1, chosen).double().sum()) if target else 0.0
        return PrefixScore(nats, len(target), settings.end_probability(raw, user_turns=user_turns))

    def _prompt(self, prefix: Prefix, profile: UserProfile) -> list[int]:
        """Prompt ids; the oldest exchanges are dropped if the context window is full."""
        from usersim.errors import ContextOverflowError

        history: Sequence[Any] = prefix.history
        while True:
            try:
                return self.renderer.prompt(profile, history)
            except ContextOverflowError:
                if len(history) < 4:
                    raise
                history = history[2:]

    def _logprobs(self, prompt: list[int], target: list[int]) -> Any:
        """Log-probabilities over the vocabulary at each token of `target`, fp32, (max(1, len(target)), V)."""
        ids = prompt + target[:-1]
        shared = next(
            (i for i, (a, b) in enumerate(zip(self._cached_ids, ids, strict=False)) if a != b),
            min(len(self._cached_ids), len(ids)),
        )
        shared = min(shared, len(prompt) - 1)
        if shared == 0:
            self._keys = None
        elif shared < len(self._cached_ids):
            self._keys.crop(shared - len(self._cached_ids))
        out = self.model(
            input_ids=torch.tensor([ids[shared:]], device=self.model.device),
            past_key_values=self._keys,
            use_cache=True,
            logits_to_keep=max(1, len(target)),
        )
        self._keys, self._cached_ids = out.past_key_values, ids
        return torch.log_softmax(out.logits[0].float(), -1)
