"""A User LM beside the version before it: worked values, and what may not count as better."""

import json
import math

import numpy as np
import pytest
import torch

from eval.next_turn.metrics import goal_conditions
from eval.next_turn.prefixes import prefixes_of
from eval.versions.aims import check_aims, is_met, ratio, read_aims
from eval.versions.aims_table import markdown
from eval.versions.asked_acts import FREE, askable, is_seen, seen_share
from eval.versions.leaving import brier_skills, shift, with_added_facets
from eval.versions.likelihood import perplexity_ratio
from eval.versions.teacher_forced import HEAD_TOKENS, PrefixScore, TeacherForcedScorer
from tests.conftest import make_base
from usersim.chat_models.answer_cache import AnswerCache
from usersim.errors import ConfigError, DataError
from usersim.rendering.renderer import Limits
from usersim.stats.estimates import Estimate
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile
from usersim.weights.base_model import load_user_base


def talk(name="c", turns=("hi there", "hello", "thanks"), facets=("cheap",), ended_by="user", unsaid=()):
    roles = ("user", "assistant") * len(turns)
    return Conversation(
        id=name,
        origin="human",
        source="arena",
        turns=tuple(Turn(role=role, text=text) for role, text in zip(roles, turns, strict=False)),
        profile=UserProfile(goal=Goal("buy a bike", facets=[Facet(text, turn=1) for text in facets])),
        ended_by=ended_by,
        unsaid=unsaid,
    )


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = make_base(tmp_path_factory.mktemp("base"))
    return {
        name: load_user_base(folder, context_tokens=1024, limits=limits)
        for name, limits in (("short", Limits(user_head=8, user_tail=2)), ("long", Limits(user_head=400)))
    }


def scorer(bases, name, folder):
    base = bases[name]
    return TeacherForcedScorer(
        base.model.eval(), base.renderer, cache_keys={"model": name}, cache=AnswerCache(folder / name)
    )


def reference(base, prefix, target):
    """Nats and P(end) by one forward pass over everything, without any cache."""
    prompt = base.renderer.prompt(UserProfile(goal=prefix.goal), prefix.history)
    with torch.inference_mode():
        logits = base.model(input_ids=torch.tensor([prompt + target])).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)
    nats = -sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(target))
    return nats, float(logprobs[len(prompt) - 1, base.renderer.settings.end_of_conversation_id].exp())


def test_scores_are_those_of_one_forward_pass_whatever_was_scored_before(bases, tmp_path):
    conversation = talk(turns=("a bike please " * 30, "which one?", "the red one", "here", "cheaper", "ok"))
    prefixes = prefixes_of(conversation)
    for name in ("short", "long"):
        scored = scorer(bases, name, tmp_path)
        for prefix in (*prefixes, prefixes[1], prefixes[0]):
            target = scored.target_ids(prefix.text) if prefix.text else []
            nats, end = reference(bases[name], prefix, target)
            score = scored.score(prefix)
            assert score.nats == pytest.approx(nats, rel=1e-4, abs=1e-4)
            assert score.end_probability == pytest.approx(end, rel=1e-3)
            assert score.tokens == len(target) <= HEAD_TOKENS


def test_versions_with_other_limits_are_scored_on_the_same_tokens(bases, tmp_path):
    prefixes = prefixes_of(talk(turns=("word " * 120, "yes", "and more " * 50, "fine")))
    new, old = ([scorer(bases, name, tmp_path).score(p) for p in prefixes] for name in ("long", "short"))
    assert [s.tokens for s in new] == [s.tokens for s in old] == [HEAD_TOKENS, HEAD_TOKENS, 0]
    assert new[1].nats != old[1].nats  # they read different amounts of the first turn


def test_a_stored_score_is_not_computed_again(bases, tmp_path):
    prefix = prefixes_of(talk())[0]
    first = scorer(bases, "short", tmp_path).score(prefix)
    broken = scorer(bases, "short", tmp_path)
    broken.model = None
    assert broken.score(prefix) == first


def scores(*nats_tokens):
    return [PrefixScore(nats, tokens, 0.5) for nats, tokens in nats_tokens]


def test_perplexity_ratio_is_the_ratio_over_the_same_tokens():
    prefixes = [p for i in range(4) for p in prefixes_of(talk(f"c{i}", turns=("a", "b"), ended_by="cut"))]
    ratio_of = perplexity_ratio(prefixes, scores((4, 2), (4, 2), (6, 2), (6, 2)), scores(*[(8, 2)] * 4))
    assert ratio_of.value == pytest.approx(math.exp(20 / 8 - 32 / 8))
    assert ratio_of.low < ratio_of.value < ratio_of.high < 1
    assert ratio_of.n == 4


def test_equal_versions_have_the_ratio_one_without_width():
    prefixes = [p for i in range(4) for p in prefixes_of(talk(f"c{i}", turns=("a", "b"), ended_by="cut"))]
    same = scores((4, 2), (1, 2), (6, 3), (6, 2))
    assert perplexity_ratio(prefixes, same, same).model_dump() == pytest.approx(
        {"value": 1, "low": 1, "high": 1, "n": 4}
    )


def test_other_tokens_are_no_comparison():
    prefixes = prefixes_of(talk(turns=("a", "b"), ended_by="cut"))
    with pytest.raises(DataError, match="different tokenizers"):
        perplexity_ratio(prefixes, scores((4, 2)), scores((4, 3)))


def people(n=60):
    """Half leave after the first answer, half after the second; only the goal's facets tell which."""
    early, late = ("q", "a"), ("q", "a", "more", "a")
    return [
        talk(
            f"c{i}", turns=early if i % 2 else late, facets=("f",) if i % 2 else ("f", "g"), unsaid=("u", "v")
        )
        for i in range(n)
    ]


def test_who_knows_the_end_has_skill_over_the_turn_number_and_a_clock_has_none():
    prefixes = [p for conversation in people() for p in prefixes_of(conversation)]
    knowing = [PrefixScore(0, 0, 0.9 if p.has_left else 0.1) for p in prefixes]
    share = np.mean([p.has_left for p in prefixes if p.position == 2])
    clock = [PrefixScore(0, 0, share if p.position == 2 else 0.98) for p in prefixes]
    assert brier_skills(prefixes, knowing)["turn"].low > 0.5
    assert abs(brier_skills(prefixes, clock)["turn"].value) < 0.05


def test_two_unsaid_facets_are_added_where_people_left(monkeypatch):
    monkeypatch.setattr(goal_conditions, "embed", lambda texts: np.ones((len(texts), 2)))
    prefixes = [p for conversation in people(4) for p in prefixes_of(conversation)]
    added = with_added_facets(prefixes, {f"c{i}": ("u", "v", "w") for i in range(4)})
    assert [p.id for p in added] == ["c0@3", "c1@2", "c2@3", "c3@2"]
    assert [facet.text for facet in added[0].goal.facets] == ["f", "g", "u", "v"]
    own, changed = (
        [PrefixScore(0, 0, value) for value in values]
        for values in ((0.6, 0.5, 0.6, 0.5), (0.5, 0.4, 0.5, 0.4))
    )
    assert shift(added, own, changed).value == pytest.approx(-0.1)


ASKED = prefixes_of(talk(turns=("plan a trip", "Sure. Which city do you want to see?", "rome")))[1]
TOLD = prefixes_of(talk(turns=("plan a trip", "Here is your plan.", "no")))[1]


@pytest.mark.parametrize(
    ("act", "text"),
    [
        ("thanks", "thank you so much, that helps"),
        ("asks", "what about trains"),
        ("asks", "is it cheap?"),
        ("objects", "that's not what I wanted"),
        ("objects", "there are still two errors in it"),
        ("corrects", "sorry, I meant two people"),
        ("answers", "rome, for a week"),
    ],
)
def test_an_act_is_seen(act, text):
    assert is_seen(act, ASKED, text)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        ("thanks", "write it again"),
        ("asks", "add a third day"),
        ("objects", "add a third day"),
        ("corrects", "add a third day"),
        ("answers", "what is the weather like there?"),
        ("answers", "write a poem about the sea"),
    ],
)
def test_another_act_is_not(act, text):
    assert not is_seen(act, ASKED, text)


def test_only_what_was_asked_can_be_answered():
    assert askable("answers", ASKED)
    assert not askable("answers", TOLD)
    share = seen_share("answers", [ASKED, TOLD], {ASKED.id: "rome", TOLD.id: "rome"})
    assert (share.value, share.n) == (1.0, 1)
    assert FREE not in ("objects", "corrects", "asks", "answers", "thanks")


def number(value, low=None, high=None, n=100):
    return Estimate(value=value, low=value if low is None else low, high=value if high is None else high, n=n)


@pytest.mark.parametrize(
    ("rule", "is_fulfilled"),
    [
        ("<= 0.88", True),
        (">= 0.88", False),
        ("low > 0.8", False),
        ("low > 0.7", True),
        ("high <= 0.9", True),
        ("abs <= 0.5", False),
    ],
)
def test_rules(rule, is_fulfilled):
    assert is_met(number(0.85, 0.8, 0.9), rule) is is_fulfilled


def test_the_size_of_a_negative_number_counts():
    assert is_met(number(-0.05), "abs <= 0.1")
    assert not is_met(number(-0.2), "abs <= 0.1")


def test_a_ratio_has_the_interval_of_the_delta_method():
    # excess 0.1 ± 0.0196 over 0.2: se 0.01 and 0.01; value 0.5, se sqrt(0.05² + (0.5 · 0.05)²)
    half = 1.959963984540054 * 0.01
    one = ratio(number(0.6, 0.6 - half, 0.6 + half), number(0.7, 0.7 - half, 0.7 + half), 0.5)
    assert one.value == pytest.approx(0.5)
    assert one.high - one.value == pytest.approx(1.959963984540054 * math.hypot(0.05, 0.025))


def test_an_aim_without_a_number_is_listed_as_not_measured():
    aims = check_aims({"a": number(1)}, {"b": "<= 1"})
    assert (aims["b"].value, aims["b"].met, aims["b"].aim) == (None, None, "<= 1")
    assert "| `b` | not measured | 0 | <= 1 |  |" in markdown(aims)


def test_a_rule_that_is_none_is_an_error(tmp_path):
    table = tmp_path / "aims.toml"
    table.write_text('[aims]\n"a" = "about 1"\n')
    with pytest.raises(ConfigError, match="rule"):
        read_aims(table)


def test_the_shipped_aims_are_rules(request):
    assert "assistant_voice" in read_aims(request.config.rootpath / "configs/eval/userlm-135m-aims.toml")


def test_aims_are_written_beside_their_numbers():
    aims = check_aims({"a": number(0.5), "b": number(2.0)}, {"a": "<= 0.6"})
    assert json.loads(aims["a"].model_dump_json()) == {
        "value": 0.5, "low": 0.5, "high": 0.5, "n": 100, "aim": "<= 0.6", "met": True
    }  # fmt: skip
    assert aims["b"].aim is None
    assert aims["b"].met is None


def test_the_table_for_a_card_marks_what_was_missed():
    aims = check_aims({"a": number(0.5), "b": number(2.0), "c": number(1.0)}, {"a": "<= 0.6", "b": "<= 1"})
    assert markdown(aims).splitlines()[2:] == [
        "| `a` | 0.500 [0.500, 0.500] | 100 | <= 0.6 | yes |",
        "| `b` | 2.000 [2.000, 2.000] | 100 | <= 1 | **no** |",
        "| `c` | 1.000 [1.000, 1.000] | 100 |  |  |",
    ]
