import asyncio

import numpy as np
import pytest

from eval.next_turn.simulators import baselines
from eval.next_turn.simulators.baselines import NearestUser, UnpromptedUser
from eval.next_turn.simulators.specifications import DrawSettings
from usersim.backends.transformers_local import LocalSampler
from usersim.errors import ContextOverflowError, DataError
from usersim.types import Conversation, Goal, Turn, UserProfile

AXES = ("egg", "tea", "car", "sea")


def by_word(texts, batch=64):
    """Which of four words a text has: embeddings whose cosines can be worked out by hand."""
    rows = np.array([[float(word in text) for word in AXES] for text in texts], dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@pytest.fixture(autouse=True)
def _embedding(monkeypatch):
    monkeypatch.setattr(baselines, "embed", by_word)


def talk(name, *texts, goal=None, ended_by="user"):
    turns = tuple(Turn(role=("user", "assistant")[i % 2], text=t) for i, t in enumerate(texts))
    profile = UserProfile(goal=goal)
    return Conversation(id=name, origin="human", source="t", turns=turns, profile=profile, ended_by=ended_by)


TRAIN = [
    talk("1", "egg", "boil the egg", "how long", "an hour", goal="cook an egg"),
    talk("2", "egg", "fry the egg", goal="fry an egg"),
    talk("3", "tea", "boil the tea", "green one", "as you like", goal="make tea"),
    talk("4", "car", "drive the car", ended_by="cut"),
]


def said(user, *texts, goal=None):
    turns = [Turn(role=("user", "assistant")[i % 2], text=t) for i, t in enumerate(texts)]
    return asyncio.run(user(UserProfile(goal=goal), turns, seed=1))


def test_words_of_the_nearest_context_and_share_of_leavers():
    user = NearestUser(TRAIN, k=2, language=None)
    turn = said(user, "egg", "peel the egg")
    assert turn.text == "how long"
    assert turn.end_probability == 0.5  # conversation 1 went on, conversation 2 left
    assert not turn.ends
    assert said(user, "tea", "pour the tea").text == "green one"


def test_openings_by_goal_and_never_left():
    user = NearestUser(TRAIN, k=2, language=None)
    turn = said(user, goal=Goal("drink tea"))
    assert (turn.text, turn.end_probability) == ("tea", 0.0)


def test_positions_beyond_the_training_conversations_take_the_nearest_class():
    user = NearestUser(TRAIN, k=1, language=None)
    assert said(user, "tea", "tea", "tea", "tea", "tea", "tea").text == "green one"


def test_nothing_to_say():
    with pytest.raises(DataError, match="no training context"):
        NearestUser([], language=None)


def test_unprompted_end_is_end_of_text_or_an_empty_message(tiny_base):
    sampler = LocalSampler.from_pretrained(tiny_base)
    user = UnpromptedUser.from_pretrained(tiny_base, sampler, DrawSettings(max_tokens=4).sampling)
    turn = said(user, "hi", "hello")
    header, model = user.header, sampler.model
    assert header.tokenizer.decode([user.end_of_text]) == "<|endoftext|>"

    import torch

    def first(ids):
        with torch.inference_mode():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)

    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
    closed = header.tokenizer(text, add_special_tokens=False)["input_ids"]
    opened = header.tokenizer(text + "<|im_start|>user\n", add_special_tokens=False)["input_ids"]
    document, empty = float(first(closed)[0]), float(first(opened)[2])
    assert turn.end_probability == pytest.approx(document + (1 - document) * empty, rel=1e-3)


def test_unprompted_opening_has_only_the_empty_message(tiny_base):
    sampler = LocalSampler.from_pretrained(tiny_base)
    user = UnpromptedUser.from_pretrained(tiny_base, sampler, DrawSettings(max_tokens=4).sampling)
    assert 0 < said(user).end_probability < 0.1


def test_unprompted_window(tiny_base):
    sampler = LocalSampler.from_pretrained(tiny_base)
    user = UnpromptedUser.from_pretrained(tiny_base, sampler, DrawSettings(max_tokens=4).sampling)
    with pytest.raises(ContextOverflowError):
        said(user, "hi", "hello " * 700)
