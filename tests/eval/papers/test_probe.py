import asyncio
import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.papers.interaction_probe.contexts import contexts
from eval.papers.interaction_probe.followup import (
    by_embedding,
    by_likelihood,
    goes_on,
    kind_of,
    ratio_nats,
    restates,
    uptake,
)
from eval.papers.interaction_probe.followup_table import markdown
from eval.papers.interaction_probe.measure import probe
from eval.papers.interaction_probe.model import BareUser, TextLikelihood, UserHeader
from usersim.errors import ConfigError, DataError
from usersim.types import Conversation, Turn, UserProfile

QUERY, ANSWER = "how do i make tomato soup", "Fry onions, add tomatoes and stock, then cook it for an hour."
WORDS = "how do i make tomato soup fry onions what why more salt bread wine rice milk egg".split()  # noqa: SIM905
TEMPLATE = "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}"


def talk(name, *texts, group=None):
    turns = tuple(Turn(role=("user", "assistant")[i % 2], text=t) for i, t in enumerate(texts))
    return Conversation(id=name, origin="human", source="t", turns=turns, group=group)


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "nothing said"),
        ("...", "nothing said"),
        ("How do I make tomato soup?", "restates the query"),
        ("please tell me: how do i make tomato soup today", "restates the query"),
        ("Sure! Take two onions.", "goes on as the assistant"),
        ("assistant: and salt", "goes on as the assistant"),
        ("then fry onions add tomatoes and stock then cook it", "goes on as the assistant"),
        ("can i use butter for the onions", "genuine"),
    ],
)
def test_the_first_rule_that_applies(text, kind):
    assert kind_of(text, QUERY, ANSWER, cosine_query=0.3, grounded=True) == kind


def test_a_reaction_to_nothing_in_particular_is_not_genuine():
    assert kind_of("do you like jazz", QUERY, ANSWER, cosine_query=0.1, grounded=False) == "not grounded"


def test_the_meaning_of_the_query_again_is_a_restatement():
    kind = kind_of("recipe for soup of tomatoes", QUERY, ANSWER, cosine_query=0.9, grounded=True)
    assert kind == "restates the query"


def test_a_classifier_of_voices_may_hear_the_assistant():
    kind = kind_of("cut them thin", QUERY, ANSWER, cosine_query=0.1, grounded=True, heard_as_assistant=True)
    assert kind == "goes on as the assistant"


def test_a_word_of_the_query_is_no_restatement():
    assert not restates("soup?", QUERY)
    assert not goes_on("why an hour?", ANSWER)


# -- grounding -------------------------------------------------------------------------------------


def test_the_right_answer_must_win_alone():
    assert by_likelihood(-3.0, [-4.0, -5.0])
    assert not by_likelihood(-4.0, [-4.0, -5.0])


def test_the_ratio_is_against_the_mean_probability_of_wrong_answers():
    right, wrong = math.log(0.4), [math.log(0.1), math.log(0.3)]
    assert ratio_nats(right, wrong) == pytest.approx(math.log(0.4 / 0.2))


def test_uptake_takes_out_what_is_about_the_query():
    query = np.array([1.0, 0.0, 0.0])
    text = np.array([0.6, 0.8, 0.0])
    answers = np.array([[0.8, 0.6, 0.0], [0.8, 0.0, 0.6], [1.0, 0.0, 0.0]])
    # beyond the query the text points along y, the first answer too, the second along z, the third nowhere
    assert uptake(text, query, answers) == pytest.approx([1.0, 0.0, 0.0])
    assert by_embedding(1.0, [0.0, 0.5, 2.0])
    assert not by_embedding(0.5, [0.0, 0.5, 2.0])


# -- contexts --------------------------------------------------------------------------------------


def test_contexts_are_first_exchanges_with_a_follow_up():
    good = [talk(f"g{i}", f"q {i}", f"a {i}", f"f {i}") for i in range(14)]
    bad = [
        talk("short", "q", "a"),
        talk("long", "q", "a " * 251, "f"),
        talk("token", "q <s>", "a", "f"),
        talk("twin", "q", "a", "f", group="g0"),
    ]
    found, excluded = contexts([*good, *bad], 13, 4, 0, ["<s>"])
    assert len(found) == 13
    assert excluded == {
        "no follow-up": 1,
        "too long": 1,
        "holds a control token": 1,
        "same person or opening as another": 1,
        "beyond --n": 1,
    }
    for index, context in enumerate(found):
        number = context.query.split()[1]
        assert (context.answer, context.followup) == (f"a {number}", f"f {number}")
        assert len(set(context.others)) == 4
        assert index not in context.others


def test_too_few_contexts_are_refused():
    with pytest.raises(DataError, match="12 are needed"):
        contexts([talk(f"g{i}", "q", "a", "f") for i in range(5)], 13, 4, 0)


# -- the model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def likelihood():
    torch.manual_seed(0)
    vocabulary = ["<s>", "</s>", "<u>", "user", "assistant", ":", *WORDS, "0mark0"]
    raw = Tokenizer(WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<u>"))
    raw.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<u>", chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return TextLikelihood(LlamaForCausalLM(config).eval(), UserHeader(tokenizer))


HISTORY = (Turn(role="user", text="how do i make soup"), Turn(role="assistant", text="fry onions"))


def test_the_prompt_ends_with_the_users_header(likelihood):
    tokens = likelihood.header.tokenizer.convert_ids_to_tokens(likelihood.header.prompt(HISTORY))
    assert tokens[-3:] == ["<s>", "user", ":"]
    assert tokens.count("assistant") == 1
    assert likelihood.header.tokenizer.convert_ids_to_tokens([likelihood.header.stop]) == ["</s>"]


def test_likelihoods_of_a_batch_are_those_of_each_text_read_alone(likelihood):
    texts = ["more salt", "why", "what bread wine rice"]
    found = likelihood.score(HISTORY, texts)
    for text, nats in zip(texts, found, strict=True):
        prompt, said = likelihood.header.prompt(HISTORY), likelihood.header.words(text)
        with torch.inference_mode():
            logprobs = torch.log_softmax(
                likelihood.model(torch.tensor([prompt + said])).logits[0].float(), -1
            )
        alone = sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(said))
        assert nats == pytest.approx(alone, abs=1e-4)


def test_a_template_that_changes_words_is_refused(likelihood):
    import copy

    tokenizer = copy.deepcopy(likelihood.header.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ConfigError, match="changes the user's words"):
        UserHeader(tokenizer)


def test_greedy_continuations_do_not_depend_on_the_seed(likelihood):
    user = BareUser(likelihood.model, likelihood.header, 0.0)
    first, second = (asyncio.run(user(UserProfile(), HISTORY, seed=seed)).text for seed in (1, 2))
    assert first == second


def test_the_probe_from_end_to_end_and_again_from_its_cache(likelihood, tmp_path, monkeypatch):
    people = [
        talk(f"p{i}", f"how do i make {w}", f"fry {w} more salt", f"why {w}")
        for i, w in enumerate(WORDS[:14])
    ]
    chosen, excluded = contexts(people, 12, 4, 0)

    def measured():
        return asyncio.run(
            probe(
                likelihood,
                likelihood,
                chosen,
                people,
                name="tiny",
                weights="w",
                scorer_name="tiny",
                scorer_weights="w",
                temperatures=[0.0, 1.0],
                excluded=excluded,
                out=tmp_path,
                seed=0,
                track=lambda name, total: lambda: None,
            )
        )

    report = measured()
    assert [(r.speaker, r.temperature, r.shown) for r in report.rows] == [
        ("people", None, "own answer"),
        ("people", None, "wrong answer"),
        ("tiny", 0.0, "own answer"),
        ("tiny", 0.0, "wrong answer"),
        ("tiny", 1.0, "own answer"),
        ("tiny", 1.0, "wrong answer"),
    ]
    assert report.chance == 1 / 4
    assert all(sum(r.kinds.values()) == pytest.approx(1.0) for r in report.rows)
    assert [g.temperature for g in report.gaps] == [0.0, 1.0]
    assert "people over it" in markdown(report)
    monkeypatch.setattr(likelihood, "score", lambda *_: pytest.fail("scored again"))
    assert measured().rows == report.rows
    assert json.loads(report.model_dump_json())["kind"] == "probe"
