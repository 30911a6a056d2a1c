"""A chat model under the user's header: samples of the user's turn, and likelihoods of given texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from usersim.backends.transformers_local import LocalSampler
from usersim.errors import ConfigError
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import Draw, Sampling

MARK = "0mark0"
MAX_TOKENS = 64


class UserHeader:
    """Chat template up to the start of the user's next turn, and the token that ends it."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the model has no chat template, so no user's header to continue under")
        self.tokenizer = tokenizer
        after = self._rendered((Turn(role="user", text="a"), Turn(role="assistant", text="b")))[1]
        ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        self.stop = int(ids[0]) if ids else int(tokenizer.eos_token_id)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        ids = self.tokenizer(self._rendered(turns)[0], add_special_tokens=False)["input_ids"]
        return [int(token) for token in ids]

    def closed(self, turns: Sequence[Turn]) -> list[int]:
        """Returns the conversation up to the position of the next header."""
        text = self._messages(turns)
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def words(self, text: str) -> list[int]:
        """Returns the tokens of a text, with control tokens read as plain text."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [int(token) for token in ids]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def control_tokens(self) -> list[str]:
        return [str(token) for token in self.tokenizer.all_special_tokens]

    def _rendered(self, turns: Sequence[Turn]) -> tuple[str, str]:
        rendered = self._messages([*turns, Turn(role="user", text=MARK)])
        before, mark, after = rendered.rpartition(MARK)
        if not mark:
            raise ConfigError("the model's chat template changes the user's words: it cannot be probed")
        return before, after

    def _messages(self, turns: Sequence[Turn]) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return text


class BareUser:
    """A `User` without goal, persona and instruction: it gets only the header of the user's turn."""

    def __init__(self, model: Any, header: UserHeader, temperature: float) -> None:
        self.sampler, self.header = LocalSampler(model), header
        self.sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=MAX_TOKENS)

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        stop = self.header.stop
        request = Draw(self.header.prompt(turns), [stop], stop, self.sampling, seed=seed)
        completion = (await self.sampler.sample(request))[0]
        text = self.header.decode([token for token in completion.token_ids if token != stop])
        return UserTurn(
            text=text,
            ends=not text,
            end_probability=completion.end_probability,
            finish="end" if not text else completion.finish,
            logprob=sum(completion.logprobs),
            tokens=len(completion.token_ids),
            seed=seed,
        )


class TextLikelihood:
    """Log-likelihood of texts under the user's header, nats, summed over tokens; the end of the turn does not count."""

    def __init__(self, model: Any, header: UserHeader) -> None:
        self.model, self.header = model, header

    @classmethod
    def from_pretrained(cls, path: Path) -> Self:
        from transformers import AutoTokenizer

        sampler = LocalSampler.from_pretrained(path)
        return cls(sampler.model, UserHeader(AutoTokenizer.from_pretrained(path)))

    @torch.inference_mode()
    def score(self, turns: Sequence[Turn], texts: Sequence[str]) -> list[float]:
        """Scores each text after the same turns; the prompt is read once. Only the first `MAX_TOKENS` tokens of a
        text count, as many as the model may sample."""
        ids = [self.header.words(text)[:MAX_TOKENS] for text in texts]
        if not texts or any(not row for row in ids):
            raise ValueError("a text without a token")
        device, width = self.model.device, max(map(len, ids))
        prompt = torch.tensor([self.header.prompt(turns)], device=device)
        out = self.model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        cache.batch_repeat_interleave(len(ids))
        # Padded on the right: logits after a row's end are computed and not read.
        rows = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
        later_logits = self.model(input_ids=rows, past_key_values=cache, use_cache=True).logits[:, :-1]
        logits = torch.cat([out.logits[:, -1:].expand(len(ids), -1, -1), later_logits], dim=1).float()
        token_logprobs = torch.log_softmax(logits, -1).gather(2, rows.unsqueeze(2)).squeeze(2).double()
        return [float(token_logprobs[i, : len(row)].sum()) for i, row in enumerate(ids)]
