import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.__main__ import main
from eval.invented import invented
from eval.likelihood import PromptedScorer, UserScorer, prompted_messages, shorten
from eval.metrics.ending import always_f1, best_threshold, coin_f1, f1_precision_recall, join, reliability
from eval.model_report import draws, model_scores, positions_of, profiles, score_all
from usersim.cli import run_main
from usersim.records import write_records
from usersim.render import END_OF_CONVERSATION, Limits, Renderer, RenderSettings
from usersim.types import Conversation, Goal, Turn, UserProfile

SPECIAL = ["<|im_start|>", "<|im_end|>", END_OF_CONVERSATION]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """A token per byte, so that lengths can be counted by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random User LM on disk, which doubles as a chat model."""
    out = tmp_path_factory.mktemp("tiny")
    tokenizer = byte_tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=TEMPLATE)
    fast.save_pretrained(out)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(out)
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    settings = RenderSettings(
        chat_format="chatml",
        end_of_turn_id=ids["<|im_end|>"],
        end_of_conversation_id=ids[END_OF_CONVERSATION],
        context_tokens=1024,
        limits=Limits(assistant_head=12, assistant_tail=4, user_head=20, user_tail=4),
    )
    (out / "userlm.json").write_text(settings.model_dump_json())
    return out


def talk(*texts: str, ended_by="user") -> Conversation:
    turns = [Turn(role="user" if i % 2 == 0 else "assistant", text=t) for i, t in enumerate(texts)]
    return Conversation(id="t", origin="human", source="t", turns=tuple(turns), ended_by=ended_by)


def uniform(folder) -> UserScorer:
    scorer = UserScorer.from_pretrained(folder)
    torch.nn.init.zeros_(scorer.model.lm_head.weight)
    return scorer


def test_uniform_logits_cost_ln_v_per_token(folder):
    score = uniform(folder).score(talk("hello", "yes?", "a soup, please", "Here."), UserProfile())
    # Five letters and the end of the turn; fourteen characters and the end of the turn.
    assert [turn.tokens for turn in score.turns] == [6, 15]
    assert [turn.characters for turn in score.turns] == [5, 14]
    assert [turn.nats for turn in score.turns] == pytest.approx(
        [6 * math.log(259), 15 * math.log(259)], rel=1e-5
    )
    assert [t.end_probability for t in score.turns] == pytest.approx([1 / 259] * 2, rel=1e-4)
    assert score.closing == pytest.approx(1 / 259, rel=1e-4)


def test_nobody_knows_whether_a_cut_conversation_ended(folder):
    scorer = uniform(folder)
    assert scorer.score(talk("hello", "yes?", ended_by="cut"), UserProfile()).closing is None
    assert scorer.score(talk("hello", "yes?", "bye"), UserProfile()).closing is None


def test_of_a_long_message_only_the_head_is_scored(folder):
    score = uniform(folder).score(talk("x" * 60, "ok"), UserProfile())
    assert (score.turns[0].tokens, score.turns[0].characters) == (20, 20)


def test_the_user_lm_is_scored_as_one_plain_forward_pass_would(folder):
    scorer = UserScorer.from_pretrained(folder)
    conversation = talk("hello", "yes?", "soup", "Here.")
    (example,) = scorer.renderer.examples(conversation)
    with torch.inference_mode():
        logprobs = torch.log_softmax(scorer.model(torch.tensor([example.ids])).logits[0].float(), -1)
    end = scorer.renderer.settings.end_of_conversation_id
    supervised = [i for i, on in enumerate(example.supervised) if on and example.ids[i] != end]
    expected = -sum(float(logprobs[i - 1, example.ids[i]]) for i in supervised)
    score = scorer.score(conversation, UserProfile())
    assert sum(turn.nats for turn in score.turns) == pytest.approx(expected, rel=1e-4)
    assert score.closing == pytest.approx(float(logprobs[len(example.ids) - 2, end].exp()), rel=1e-3)


def test_the_prompted_baseline_reuses_its_cache_without_changing_a_number(folder):
    scorer = PromptedScorer.from_pretrained(folder, Renderer.from_pretrained(folder))
    conversation, profile = (
        talk("hello", "yes?", "soup", "Here."),
        UserProfile(goal=Goal(summary="cook soup")),
    )
    score = scorer.score(conversation, profile)
    for position, index in enumerate((0, 2)):
        prompt = scorer.tokenizer.apply_chat_template(
            prompted_messages(conversation.turns[:index], profile),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        assert prompt[-10:] == scorer.tokenizer.encode("assistant\n")
        for text, ends, got in (
            (conversation.turns[index].text, True, math.exp(-score.turns[position].nats)),
            ("[DONE]", False, score.turns[position].end_probability),
        ):
            target = scorer.tokenizer.encode(text) + [scorer.tokenizer.eos_token_id] * ends
            with torch.inference_mode():
                logits = scorer.model(torch.tensor([prompt + target])).logits[0].float()
            rows = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
            expected = float(sum(rows[i, t] for i, t in enumerate(target)))
            assert math.log(got) == pytest.approx(expected, rel=1e-3)
    assert score.closing is not None


def test_the_baseline_is_shown_what_the_user_lm_is_shown(folder):
    renderer = Renderer.from_pretrained(folder)
    turn = Turn(role="assistant", text="abcdefghijklmnopqrstuvwxyz0123456789")
    head, tail = shorten(renderer, turn)
    (example,) = renderer.examples(talk("hi", turn.text, "ok"))
    assert (head, tail) == ("abcdefghijkl", " […] 6789")
    assert head + tail in renderer.decode(example.ids)
    assert shorten(renderer, Turn(role="user", text=" hi ")) == ("hi", "")


def test_the_goal_is_in_the_prompt_and_the_roles_are_flipped():
    messages = prompted_messages(talk("hello", "yes?").turns, UserProfile(goal=Goal(summary="cook soup")))
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert "cook soup" in messages[0]["content"]
    assert messages[-1]["content"] == "yes?"


def test_nobody_keeps_his_own_goal_under_other_goal():
    people = invented(9, 1)
    given = profiles(people, "other_goal", seed=4)
    assert sorted(p.goal.summary for p in given) == sorted(c.profile.goal.summary for c in people)
    assert all(p.goal != c.profile.goal for p, c in zip(given, people, strict=True))
    assert all(p.goal is None for p in profiles(people, "no_goal", seed=4))


def test_f1_precision_and_recall_by_hand():
    # 3 hits, 1 false alarm, 2 missed: precision 3/4, recall 3/5, F1 6/9.
    assert f1_precision_recall(np.array([3.0, 1.0, 2.0])).tolist() == pytest.approx([2 / 3, 3 / 4, 3 / 5])
    assert f1_precision_recall(np.zeros(3)).tolist() == [0, 0, 0]
    assert always_f1(0.25) == pytest.approx(0.4)
    assert coin_f1(0.25) == pytest.approx(1 / 3)


def test_the_best_threshold_is_the_one_with_the_best_f1():
    positions = join([([0.1, 0.3], [0, 1]), ([0.05, 0.2, 0.6], [0, 0, 1])])
    assert best_threshold(positions) == pytest.approx(0.3)
    assert reliability(positions.probability, positions.ended)[1] == pytest.approx((0.1, 0, 1))


def test_ends_start_after_the_first_user_turn(folder):
    scorer = uniform(folder)
    people = [talk("hello", "yes?", "soup", "Here."), talk("hello", "yes?", ended_by="cut")]
    scores = [scorer.score(c, UserProfile()) for c in people]
    positions = positions_of(scores)
    assert positions.ended.tolist() == [0, 1]
    assert positions.owner.tolist() == [0, 0]
    report = model_scores("m", {"no_goal": scores}, draws(2, 50, 0)).ends["no_goal"]
    assert report.base_rate == 0.5
    assert report.at_half.f1.value == 0
    assert report.calibration.auc == 0.5


def test_uniform_likelihood_reaches_the_report(folder):
    people = invented(6, 1)
    scores = score_all(uniform(folder), people, ["no_goal", "own_goal"], seed=0)
    found = model_scores("m", scores, draws(6, 50, 0)).likelihood["own_goal"].nats_per_token["all"]
    assert (found.value, found.low, found.high) == pytest.approx([math.log(259)] * 3, rel=1e-5)


def test_the_command_writes_a_report(folder, tmp_path, capsys):
    write_records(tmp_path / "human.jsonl", invented(6, 1))
    write_records(tmp_path / "dev.jsonl", invented(5, 2))
    arguments = [
        "model",
        str(folder),
        "--human",
        str(tmp_path / "human.jsonl"),
        "--dev",
        str(tmp_path / "dev.jsonl"),
    ]
    arguments += ["--out", str(tmp_path / "out"), "--limit", "5", "--bootstrap", "50", "--json"]
    assert run_main(main, arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["conversations"] == 5
    assert report["excluded"] == {"beyond --limit": 1}
    assert list(report["models"][0]["likelihood"]) == [
        "no_goal",
        "own_goal",
        "other_goal",
        "own_goal_persona",
    ]
    assert len(report["contrasts"]) == 2
    assert (tmp_path / "out" / "report.json").is_file()


def test_the_command_refuses_simulated_conversations(folder, tmp_path, capsys):
    write_records(tmp_path / "sim.jsonl", invented(3, 1, origin="simulated"))
    arguments = ["model", str(folder), "--human", str(tmp_path / "sim.jsonl"), "--out", str(tmp_path / "out")]
    assert run_main(main, arguments) == 2
    assert "has origin 'simulated'" in capsys.readouterr().err
