import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.__main__ import main
from eval.fidelity.metrics.endings.ending import (
    always_f1,
    best_threshold,
    coin_f1,
    expected_error,
    f1_precision_recall,
    join,
    reliability,
)
from eval.fidelity.samples.invented import invented
from eval.likelihood.conditions import CONDITIONS, passes, usable
from eval.likelihood.figures import contrasts, draws, model_scores, positions_of
from eval.likelihood.goals import share_won_by_first
from eval.likelihood.likelihood import (
    ConversationScore,
    PromptedScorer,
    TurnScore,
    UnpromptedScorer,
    UserScorer,
    prompted_messages,
    shorten,
)
from eval.likelihood.scoring import ScoreBook, candidates, opening_nats, score_all
from usersim.cli import run_main
from usersim.rendering.renderer import END_OF_CONVERSATION, Limits, Renderer, RenderSettings
from usersim.storage.records import write_records
from usersim.types import Conversation, Goal, Persona, Turn, UserProfile
from usersim.users.prompted import PROMPTS

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
    scorer = UserScorer.from_pretrained(folder, dtype=torch.float32)
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
    scorer = UserScorer.from_pretrained(folder, dtype=torch.float32)
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
    scorer = PromptedScorer.from_pretrained(folder, Renderer.from_pretrained(folder), dtype=torch.float32)
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
    given = [step.profile for (step,) in passes(people, "other_goal", seed=4)]
    assert sorted(p.goal.summary for p in given) == sorted(c.profile.goal.summary for c in people)
    assert all(p.goal != c.profile.goal for p, c in zip(given, people, strict=True))
    assert all(step.profile == UserProfile() for (step,) in passes(people, "no_goal", seed=4))


def test_f1_precision_and_recall_by_hand():
    # 3 hits, 1 false alarm, 2 missed: precision 3/4, recall 3/5, F1 6/9.
    assert f1_precision_recall(np.array([3.0, 1.0, 2.0])).tolist() == pytest.approx([2 / 3, 3 / 4, 3 / 5])
    assert f1_precision_recall(np.zeros(3)).tolist() == [0, 0, 0]
    assert always_f1(0.25) == pytest.approx(0.4)
    assert coin_f1(0.25) == 0.25


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


def test_own_and_others_style_come_from_other_turns():
    person = talk("all lower", "a", "STILL UPPER", "b", "lower again", "c").model_copy(
        update={"profile": UserProfile(goal=Goal(summary="x"), persona=Persona(description="somebody"))}
    )
    first, second = passes([person, person], "own_persona", seed=0)[0]
    assert (first.parity, second.parity) == (0, 1)
    # Turns 0 and 2 are scored under the style of turn 1, and turn 1 under that of 0 and 2.
    assert first.profile.persona.style.lowercase_starts == 0
    assert second.profile.persona.style.lowercase_starts == 1
    assert first.profile.goal is None
    assert first.profile.persona.style.turns is None
    (alone,) = passes([talk("hi", "yes"), person], "own_goal_persona", seed=0)[0]
    assert alone.profile.persona.style is None


def test_the_conditions_are_those_the_file_can_answer():
    people = invented(3, 1)
    assert usable(people)[-1] == "own_goal_persona_oracle"
    assert usable([talk("hi", "yes")]) == ["no_goal"]
    bare = [c.model_copy(update={"profile": UserProfile(goal=c.profile.goal)}) for c in people]
    assert usable(bare) == ["no_goal", "own_goal", "other_goal"]


class Counting:
    """Scores by rule, and counts how often it is asked."""

    def __init__(self, *profiles_seen):
        self.asked = 0

    def score(self, conversation, profile):
        self.asked += 1
        known = profile.persona is not None and profile.persona.style is not None
        lower = known and profile.persona.style.lowercase_starts == 1
        fits = profile.goal is not None and profile.goal == conversation.profile.goal
        turns = [TurnScore(2.0 if lower else 1.0 if fits else 3.0, 1, 4, 0.1)] * sum(
            turn.role == "user" for turn in conversation.turns
        )
        return ConversationScore(tuple(turns), None)


def test_every_turn_is_counted_from_the_pass_that_may_see_it(tmp_path):
    person = talk("all lower", "a", "STILL UPPER", "b", "lower again", "c").model_copy(
        update={"profile": UserProfile(goal=Goal(summary="x"), persona=Persona())}
    )
    found = score_all(Counting(), [person, person], ["own_persona"], seed=0)["own_persona"][0]
    assert [turn.nats for turn in found.turns] == [3.0, 2.0, 3.0]


def test_scores_are_kept_and_not_computed_again(tmp_path):
    people, scorer = invented(4, 1), Counting()
    book = ScoreBook.at(tmp_path, scorer, weights="a")
    once = score_all(book, people, ["no_goal", "own_goal"], seed=0)
    asked = scorer.asked
    assert score_all(book, people, ["no_goal", "own_goal"], seed=0) == once
    assert scorer.asked == asked == 8
    score_all(ScoreBook.at(tmp_path, scorer, weights="b"), people, ["no_goal"], seed=0)
    assert scorer.asked == asked + 4


def test_the_own_goal_is_among_ten_and_found_by_likelihood():
    people = invented(30, 1)
    groups = candidates(people, seed=3)
    assert all(
        group[0] is own and len({c.id for c in group}) == 10
        for own, group in zip(people, groups, strict=True)
    )
    assert groups == candidates(people, seed=3) != candidates(people, seed=4)
    assert share_won_by_first(opening_nats(Counting(), people, seed=3)).value == 1
    blind = [[1.0] * 10] * 5
    assert share_won_by_first(blind).value == 0


def test_the_ratio_of_perplexities_is_paired():
    people = invented(12, 1)
    scores = score_all(Counting(), people, ["no_goal", "own_goal", "other_goal"], seed=0)
    found = contrasts({"m": scores}, draws(12, 100, 0))
    own = next(c for c in found if c.second == "m / other_goal")
    assert own.perplexity["all"].value == pytest.approx(math.exp(1 - 3))
    assert own.perplexity["first"].high == pytest.approx(math.exp(-2))


def test_the_unprompted_base_is_told_nothing(folder):
    plain = PromptedScorer.from_pretrained(folder, Renderer.from_pretrained(folder), dtype=torch.float32)
    bare = UnpromptedScorer(plain.model, plain.tokenizer, plain.renderer)
    conversation = talk("hello", "yes?", "soup", "Here.")
    score = bare.score(conversation, UserProfile(goal=Goal(summary="cook soup")))
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nyes?<|im_end|>\n<|im_start|>user\n"
    prompt = plain.tokenizer.encode(text)
    target = plain.tokenizer.encode("soup<|im_end|>")
    with torch.inference_mode():
        rows = torch.log_softmax(plain.model(torch.tensor([prompt + target])).logits[0].float(), -1)
    expected = -sum(float(rows[len(prompt) - 1 + i, t]) for i, t in enumerate(target))
    assert score.turns[1].nats == pytest.approx(expected, rel=1e-3)


def test_prompts_say_what_is_wanted_and_how_to_leave():
    turns = talk("hello", "yes?").turns
    for prompt in PROMPTS.values():
        system = prompted_messages(turns, UserProfile(goal=Goal(summary="cook soup")), prompt)[0]["content"]
        assert "cook soup" in system
        assert "[DONE]" in system


def test_calibration_error_of_a_perfect_model_is_near_zero_and_of_a_wrong_one_is_its_gap():
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    assert expected_error(p, (rng.random(4000) < p).astype(int)) < 0.02
    assert expected_error(np.full(4000, 0.9), (rng.random(4000) < 0.4).astype(int)) == pytest.approx(
        0.5, abs=0.03
    )
    small = [expected_error(q, (rng.random(60) < q).astype(int)) for q in rng.random((50, 60))]
    plain = [
        sum(n / 60 * abs(m - s) for m, s, n in reliability(q, (rng.random(60) < q).astype(int)))
        for q in rng.random((50, 60))
    ]
    assert np.mean(small) < 0.7 * np.mean(plain)


def test_openings_make_the_trivial_baselines_easier(folder):
    people = [talk("hello", "yes?", "soup", "Here."), talk("hello", "yes?", ended_by="cut")]
    scores = [uniform(folder).score(c, UserProfile()) for c in people]
    report = model_scores("m", {"no_goal": scores}, draws(2, 50, 0)).ends["no_goal"]
    assert (report.coin_f1, report.always_f1) == (0.5, pytest.approx(2 / 3))
    assert (report.with_openings.base_rate, report.with_openings.coin_f1) == (0.25, 0.25)


def test_the_command_writes_a_report(folder, tmp_path, capsys):
    write_records(tmp_path / "human.jsonl", invented(6, 1))
    write_records(tmp_path / "dev.jsonl", invented(5, 2))
    arguments = ["model", str(folder), "--human", str(tmp_path / "human.jsonl")]
    arguments += ["--dev", str(tmp_path / "dev.jsonl"), "--baseline", str(folder)]
    arguments += ["--out", str(tmp_path / "out"), "--limit", "5", "--bootstrap", "50", "--json"]
    assert run_main(main, arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["conversations"] == 5
    assert report["excluded"] == {"beyond --limit": 1}
    user, prompted, unprompted = report["models"]
    assert list(user["likelihood"]) == list(CONDITIONS)
    assert list(prompted["likelihood"]) == ["no_goal", "own_goal", "own_goal_persona"]
    assert list(unprompted["likelihood"]) == ["no_goal"]
    assert prompted["prompt"] == min(prompted["prompts_on_dev"], key=prompted["prompts_on_dev"].get)
    assert user["ends"]["own_goal"]["at_dev_threshold"]["threshold_from"] == "chosen on the dev file"
    assert set(report["goals"]["retrieval"]["likelihood"]) == {user["name"], prompted["name"]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Perplexity of people" in page
    assert "settle matter" not in page  # no goal and no chat text in what is published


def test_the_command_refuses_simulated_conversations(folder, tmp_path, capsys):
    write_records(tmp_path / "sim.jsonl", invented(3, 1, origin="simulated"))
    arguments = ["model", str(folder), "--human", str(tmp_path / "sim.jsonl"), "--out", str(tmp_path / "out")]
    assert run_main(main, arguments) == 2
    assert "has origin 'simulated'" in capsys.readouterr().err
