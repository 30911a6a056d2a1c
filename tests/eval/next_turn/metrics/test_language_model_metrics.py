import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.next_turn.metrics.chat_contexts import ANSWER_TOKENS, CONTEXT_TOKENS, SCORED_TOKENS
from eval.next_turn.metrics.coherence import MOST_NATS, Coherence, Contexts
from eval.next_turn.metrics.fluency import LanguageModelFluency, NgramFluency, TurnModel, WittenBell
from eval.next_turn.metrics.language_model import LanguageModelScorer, ScoreJournal
from eval.next_turn.prefixes import Prefix, prefixes_of
from usersim.errors import DataError
from usersim.types import Conversation, Goal, Turn, UserProfile

DTYPE = torch.float32


@pytest.fixture(scope="module")
def scorer(tiny_base):
    return LanguageModelScorer.from_pretrained(tiny_base, dtype=DTYPE)


def conversation(name: str, *texts: str, goal: str | None = None, source: str = "invented") -> Conversation:
    roles = ("user", "assistant") * len(texts)
    return Conversation(
        id=name,
        source=source,
        origin="human",
        profile=UserProfile(goal=Goal(goal) if goal else None),
        turns=tuple(Turn(role=role, text=text) for role, text in zip(roles, texts, strict=False)),
    )


def corpus(people: int = 4) -> list[Prefix]:
    chats = [
        conversation(
            f"c{i}", f"ask {i}", f"answer {i}", f"more {i}", f"again {i}", f"last {i}", goal=f"goal {i}"
        )
        for i in range(people)
    ]
    return [prefix for chat in chats for prefix in prefixes_of(chat)]


def alone(scorer: LanguageModelScorer, context: tuple[int, ...], turn: tuple[int, ...]) -> float:
    """The score by one plain forward pass."""
    with torch.inference_mode():
        logits = scorer.model(input_ids=torch.tensor([[*context, *turn]])).logits[0].log_softmax(-1)
    return -sum(float(logits[len(context) - 1 + i, token]) for i, token in enumerate(turn))


def test_branches_score_as_separate_sequences(scorer):
    histories = [(), (Turn(role="user", text="hi"), Turn(role="assistant", text="hello, what is it"))]
    contexts = [scorer.rendering.history(turns) for turns in histories]
    pairs = [(context, text) for context in contexts for text in ("y", "a much longer turn", "other words")]
    for (context, text), score in zip(pairs, scorer.score(pairs), strict=True):
        ids, characters = scorer.rendering.turn(context, text)
        assert score.nats == pytest.approx(alone(scorer, context.ids, ids), abs=1e-3)
        assert (score.tokens, score.characters) == (len(text), len(text)) == (len(ids), characters)


def test_many_turns_of_one_context_need_several_rows(scorer):
    context = scorer.rendering.history(())
    texts = [f"{i:03d} " + "word " * 20 for i in range(30)]
    whole = scorer.score([(context, text) for text in texts])
    ids, _ = scorer.rendering.turn(context, texts[-1])
    assert whole[-1].nats == pytest.approx(alone(scorer, context.ids, ids), abs=1e-3)


def test_context_is_the_end_of_the_history(scorer):
    old = [Turn(role=role, text=f"old {i} " + "x" * 40) for i in range(20) for role in ("user", "assistant")]
    last = [Turn(role="user", text="Q" * 500), Turn(role="assistant", text="A" * 300 + "the end")]
    context = scorer.rendering.history([*old, *last])
    text = scorer.rendering.tokenizer.decode(context.ids)
    assert text.endswith("the end<|im_end|>\n<|im_start|>user\n")
    assert "A […] A" in text
    assert "Q […] Q" in text
    assert text.index("old") < text.index("QQ")
    assert text.startswith("<|im_start|>user\n")
    message_tokens = len(context.ids) - 12 * text.count("<|im_start|>")
    assert ANSWER_TOKENS < message_tokens <= 2 * CONTEXT_TOKENS
    assert text.count("A") <= ANSWER_TOKENS


def test_typed_control_tokens_are_text(scorer):
    end = scorer.rendering.tokenizer.convert_tokens_to_ids("<|im_end|>")
    context = scorer.rendering.history(
        [Turn(role="user", text="<|im_end|>"), Turn(role="assistant", text="fine")]
    )
    assert context.ids.count(end) == 2  # the template's own
    assert end not in scorer.rendering.turn(context, "a <|im_end|> b")[0]


def test_only_the_beginning_of_a_long_turn_is_scored(scorer):
    context = scorer.rendering.history(())
    (score,) = scorer.score([(context, "z" * 5000)])
    assert (score.tokens, score.characters) == (SCORED_TOKENS, SCORED_TOKENS)


def test_model_without_template_reads_plain_lines(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = None
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=DTYPE)
    rendering = LanguageModelScorer(model, tokenizer).rendering
    context = rendering.history([Turn(role="user", text="hi"), Turn(role="assistant", text="yes?")])
    assert tokenizer.decode(context.ids) == "User: hi\n\nAssistant: yes?\n\nUser:"
    assert tokenizer.decode(rendering.turn(context, "ok")[0]) == " ok"


def test_journal_resumes_and_holds_no_text(tiny_base, tmp_path):
    path = tmp_path / "scores.jsonl"
    first = LanguageModelScorer.from_pretrained(tiny_base, journal=path, dtype=DTYPE)
    context = first.rendering.history(())
    (before,) = first.score([(context, "a secret")])
    with path.open("a") as stream:
        stream.write('{"cut')  # a kill
    again = LanguageModelScorer.from_pretrained(tiny_base, journal=path, dtype=DTYPE)
    calls = []
    scores = again.score([(context, "a secret"), (context, "new")], lambda *done: calls.append(done))
    assert scores[0] == before
    assert calls == [(1, 1)]  # the new one alone
    assert "secret" not in path.read_text()
    assert len(ScoreJournal(path).nats) == 2


def test_partners_are_other_people_at_like_positions():
    prefixes = corpus(6)
    contexts = Contexts.of(prefixes, seed=3)
    for prefix in prefixes:
        assert contexts.goals[prefix.id] != prefix.goal
        if prefix.history:
            other = contexts.histories[prefix.id]
            assert other.cluster != prefix.cluster
            assert abs(other.position - prefix.position) <= 1
            swapped = contexts.other_history("answer", prefix)
            assert swapped[:-1] == prefix.history[:-1]
            assert swapped[-1] == other.history[-1]
    assert Contexts.of(prefixes, seed=3) == contexts
    assert Contexts.of(corpus(1), seed=3).histories == {}


def test_partner_is_of_the_same_source_where_there_is_one():
    chats = [
        conversation(f"{s}{i}", "a", f"{s}{i}", "b", source=s)
        for s, n in (("x", 3), ("y", 1))
        for i in range(n)
    ]
    contexts = Contexts.of([p for chat in chats for p in prefixes_of(chat)], seed=0)
    assert {contexts.histories[f"x{i}@2"].source for i in range(3)} == {"x"}
    assert contexts.histories["y0@2"].source == "x"  # the only one of y


def test_embedding_contrast_by_hand():
    vectors = {"cats": (1.0, 0.0), "dogs": (0.0, 1.0), "on cats": (0.6, 0.8)}

    def embedding(texts):
        return np.array([vectors.get(text, (0.0, 1.0)) for text in texts])

    chats = [conversation("a", "dogs", "cats", "on cats"), conversation("b", "dogs", "dogs", "x")]
    prefixes = [prefix for chat in chats for prefix in prefixes_of(chat)]
    metric = Coherence(None, Contexts.of(prefixes, seed=0), embedding)
    values = metric.values(prefixes, [prefix.text or "" for prefix in prefixes])
    answer = values["coherence.answer.embedding"]
    assert answer.denominator_P.tolist() == [0, 1, 0, 1]
    assert answer.numerator_P[1] == pytest.approx(0.6 - 0.8)
    # (0.6 + 0.8) / √2 for the mean of a cat and a dog.
    assert values["coherence.history.embedding"].numerator_P[1] == pytest.approx(1.4 / math.sqrt(2) - 0.8)
    assert values["coherence.history.embedding.3+"].denominator_P.sum() == 0
    assert values["coherence.goal.embedding"].denominator_P.sum() == 0
    assert set(values) == {spec.key for spec in metric.specs}


def test_language_model_contrasts_are_differences_of_scores(scorer):
    prefixes = corpus()
    texts = [prefix.text or "" for prefix in prefixes]
    contexts = Contexts.of(prefixes, seed=0, per_conversation=2)
    metric = Coherence(scorer, contexts, None)
    metric.prepare(prefixes, {"people": texts, "other": texts[::-1]})
    known = len(scorer.journal.nats)
    values = metric.values(prefixes, texts)
    bits = LanguageModelFluency(metric).values(prefixes, texts)["fluency.lm"]
    assert len(scorer.journal.nats) == known  # all was prepared
    place = 1  # position 2 of the first
    own, other = (
        scorer.rendering.history(turns)
        for turns in (prefixes[place].history, contexts.other_history("history", prefixes[place]))
    )
    one, two = scorer.score([(own, texts[place]), (other, texts[place])])
    assert values["coherence.history.lm"].numerator_P[place] == pytest.approx(
        max(-MOST_NATS, min(MOST_NATS, two.nats - one.nats))
    )
    assert values["coherence.history.lm"].denominator_P.tolist() == [0, 1, 0] * 4  # two a conversation
    assert values["coherence.goal.lm"].denominator_P.tolist() == [1, 1, 0] * 4
    assert bits.numerator_P[place] == pytest.approx(one.nats / math.log(2))
    assert bits.denominator_P.tolist() == [5, 6, 0] * 4  # "ask 0", "more 0"


def test_witten_bell_by_hand():
    model = WittenBell(["aab"], 2, lambda _: 0.25)
    # p(a) = (2 + 2 · ¼) / (3 + 2) = ½; after a: successors a and b, so p(a | a) = (1 + 2 · ½) / (2 + 2) = ½.
    # At the start only a was seen: p(a | start) = (1 + 1 · ½) / (1 + 1) = ¾.
    assert model.bits("aa") == pytest.approx(-math.log2(0.75 * 0.5))
    # p(c) = (0 + 2 · ¼) / 5 = 0.1, and nothing has followed c.
    assert model.bits("c") == pytest.approx(-math.log2(0.1 / 2))


def test_turn_model_prefers_words_in_order():
    model = TurnModel(["how do i cook rice", "how do i cook beans", "what is the best way to cook rice"] * 3)
    ordered, shuffled, noise = "how do i cook rice", "rice i how cook do", "xqz vvk jw qqqq zz"
    assert model.bits(ordered) < model.bits(shuffled) < model.bits(noise)
    assert math.isfinite(model.bits("日本語 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")))


def test_cross_fitted_model_has_not_seen_its_person():
    prefixes = corpus(4)
    metric = NgramFluency.cross_fitted(prefixes, seed=0)
    others = [p.text for p in prefixes if p.cluster != prefixes[0].cluster and p.text]
    bits = metric.values(prefixes, [p.text or "" for p in prefixes])["fluency.ngram"]
    assert bits.numerator_P[0] == pytest.approx(
        NgramFluency.fitted(others).values(prefixes[:1], ["ask 0"])["fluency.ngram"].numerator_P[0]
    )
    assert bits.denominator_P[0] == 5
    with pytest.raises(DataError, match="two people"):
        NgramFluency.cross_fitted(corpus(1), seed=0)


def test_a_token_without_end_costs_bits_and_no_error() -> None:
    model = TurnModel(["how do i bake bread", "bake it slowly"])
    assert model.bits("ж" * 3000) > model.bits("bake bread")
    assert math.isfinite(model.bits("ж" * 3000))
