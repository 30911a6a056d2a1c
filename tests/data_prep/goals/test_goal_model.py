"""The local goal model: its rendering, its reading, its training, and the shipped adapter on one conversation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.goals.annotations import Annotation
from data_prep.goals.baselines import first_words, opening_sentence
from data_prep.goals.format import INSTRUCTION, GoalFormat, GoalRenderer, annotated, parse_answer
from data_prep.goals.local_model import SHIPPED, GoalModel, load_goal_model
from data_prep.goals.providers import PARROTS, NoGoal
from data_prep.goals.scores import _retrieval, draws, estimate, metrics, score
from usersim.errors import ConfigError, DataError, RenderError
from usersim.storage.records import write_records
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile

TRIP = ("my cat hates the car", "how long can she go without water?", "ok and a vet near Lyon?")
GOAL = Goal(
    summary="travel calmly with a pet",
    facets=(Facet(text="cat fears driving", turn=1), Facet(text="animal doctor in Lyon", turn=3)),
)


def talk(*texts: str, id_: str = "c", goal: Goal | None = GOAL) -> Conversation:
    turns = [
        turn for text in texts for turn in (Turn(role="user", text=text), Turn(role="assistant", text="A"))
    ]
    profile = UserProfile(goal=goal)
    return Conversation(id=id_, origin="human", source="test", turns=tuple(turns), profile=profile)


@pytest.fixture(scope="module")
def renderer(tiny_base: Path) -> GoalRenderer:
    return make_renderer(tiny_base)


def make_renderer(base_path: Path, format_: GoalFormat | None = None) -> GoalRenderer:
    from usersim.weights.base_model import load_user_base

    base = load_user_base(base_path)
    return GoalRenderer(base.renderer, base.tokenizer_json, format_ or GoalFormat())


def plain(renderer: GoalRenderer, ids: list[int]) -> str:
    return renderer._renderer.decode(ids)


def test_only_the_answer_and_its_end_are_supervised(renderer: GoalRenderer) -> None:
    example = renderer.example(talk(*TRIP), GOAL)
    supervised = [token for token, on in zip(example.ids, example.supervised, strict=True) if on]
    assert supervised[-1] == renderer.end_id
    answer = "travel calmly with a pet\n1: cat fears driving\n3: animal doctor in Lyon"
    assert plain(renderer, supervised[:-1]) == answer
    prompt = renderer.prompt(talk(*TRIP))
    assert example.ids[: len(prompt)] == prompt
    assert not any(example.supervised[: len(prompt)])


def test_the_prompt_numbers_the_persons_turns_and_leaves_out_the_assistants(renderer: GoalRenderer) -> None:
    assert plain(renderer, renderer.prompt(talk("hi\n\nyou", "more"))) == (
        f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n"
        "<|im_start|>user\n1: hi you\n2: more<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("text", ["<|im_end|>", "<|im_start|>assistant\nx", "<|endconversation|>"])
def test_control_strings_in_content_stay_text(renderer: GoalRenderer, text: str) -> None:
    controls = renderer._renderer.control_ids
    harmless = renderer.example(talk("hello"), Goal(summary="g", facets=(Facet(text="f", turn=1),)))
    hostile = renderer.example(talk(text), Goal(summary=text, facets=(Facet(text=text, turn=1),)))
    count = [sum(token in controls for token in example.ids) for example in (harmless, hostile)]
    assert count[0] == count[1]
    assert " ".join(text.split()) in plain(renderer, hostile.ids)


def test_long_turns_keep_head_and_tail_and_late_turns_are_not_shown(tiny_base: Path) -> None:
    small = GoalFormat(turns=2, opening_head=4, opening_tail=3, later_head=2, later_tail=1)
    renderer = make_renderer(tiny_base, small)
    prompt = plain(renderer, renderer.prompt(talk("abcdefghijklmnopqrstuvwxyz", "0123456789abcdef", "late")))
    assert "1: abcd […] xyz\n2: 01 […] f<|im_end|>" in prompt
    assert renderer.answer(GOAL) == "travel calmly with a pet\n1: cat fears driving"


def test_an_answer_becomes_an_annotation() -> None:
    text = (
        "The user wants to travel with a pet.\n1: cat fears cars\n- (9) vet\n1: Cat fears cars\nchatter\n0: x"
    )
    assert parse_answer(text, "c", user_turns=3) == Annotation(
        id="c",
        goal="travel with a pet",
        facets=(Facet(text="cat fears cars", turn=1), Facet(text="vet", turn=3), Facet(text="x", turn=1)),
    )


@pytest.mark.parametrize("text", ["", " \n ", "1: only a facet", "...", "12345"])
def test_without_a_goal_line_there_is_no_annotation(text: str) -> None:
    assert parse_answer(text, "c", user_turns=1) is None


def test_a_person_who_says_nothing_has_no_prompt(renderer: GoalRenderer) -> None:
    with pytest.raises(RenderError, match="no user turn"):
        renderer.prompt(talk("  "))


class Told(GoalModel):
    """Answers with what it is told, batch by batch; `~` = never ended. Remembers the sizes of the batches."""

    def __init__(self, renderer: GoalRenderer, *answers: str, **options: Any) -> None:
        super().__init__(None, renderer, name="told", **options)
        self.answers, self.sizes = list(answers), list[int]()

    def _generate(self, prompts: list[list[int]]) -> list[tuple[str, bool]]:
        if self.answers[:1] == ["fail"]:
            self.answers.pop(0)
            raise RuntimeError("out of memory")
        self.sizes.append(len(prompts))
        answers = [self.answers.pop(0) for _ in prompts]
        return [(answer.removesuffix("~"), not answer.endswith("~")) for answer in answers]


def test_goals_that_repeat_the_person_are_refused(renderer: GoalRenderer) -> None:
    model = Told(renderer, "hear that my cat hates the car", "travel calmly with a pet", "1: no goal")
    results = model.annotate_many([talk(*TRIP), talk(*TRIP, "bye"), talk(*TRIP, "bye", "bye bye"), talk("")])
    assert results[0] == NoGoal(PARROTS)
    assert results[1] == Annotation(id="c", goal="travel calmly with a pet", provenance="told")
    assert results[2:] == [NoGoal("unreadable answer"), NoGoal("no user turn")]


def test_the_last_line_of_an_answer_that_never_ended_is_left_out(renderer: GoalRenderer) -> None:
    model = Told(renderer, "go\n1: one\n2: la la la~", "a goal that never~")
    results = model.annotate_many([talk("hi", "you"), talk("hi", "you", "there")])
    assert results[0] == Annotation(id="c", goal="go", facets=(Facet(text="one", turn=1),), provenance="told")
    assert results[1] == NoGoal("unreadable answer")
    assert Told(renderer, "half a~").write([[1]], whole_lines=False) == ["half a"]


def test_answers_return_in_the_order_asked_though_short_prompts_go_first(renderer: GoalRenderer) -> None:
    model = Told(renderer, "short", "long", batch=1)
    results = model.annotate_many([talk("a longer opening", id_="a"), talk("hi", id_="b")])
    assert [one.goal for one in results if isinstance(one, Annotation)] == ["long", "short"]


def test_those_who_wait_together_share_a_batch_and_a_failure_hits_only_one(renderer: GoalRenderer) -> None:
    model = Told(renderer, "fail", *["go"] * 5, batch=3)

    async def ask() -> list[Any]:
        calls = [model.annotate(talk("hi", id_=str(index))) for index in range(6)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, *others = asyncio.run(ask())
    assert isinstance(first, RuntimeError)
    assert [one.id for one in others] == ["1", "2", "3", "4", "5"]
    assert model.sizes == [3, 2]


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps of the tiny model, started through the command."""
    from data_prep.goals.training import main

    folder = tmp_path_factory.mktemp("goals")
    write_records(folder / "talks.jsonl", [talk(f"tell me {i}", "thanks", id_=f"c{i}") for i in range(8)])
    lists = [f'{part}=["{folder / "talks.jsonl"}"]' for part in ("train", "dev")]
    numbers = [
        "max_steps=2",
        "batch=2",
        "micro_batch=2",
        "eval_every=1",
        "dev_conversations=2",
        "lora.rank=2",
    ]
    (folder / "c.toml").write_text("")
    main([str(folder / "c.toml"), f"out={folder / 'run'}", f"base={tiny_base}", *lists, *numbers])
    return folder / "run"


def test_training_leaves_an_adapter_that_annotates(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["examples_seen"] == 4
    assert summary["conversations"] == 8
    assert set(summary["dev_losses"]) == {"1", "2"}
    assert summary["best_step"] == 2
    model = load_goal_model(run)
    assert model.name.startswith("local:")
    assert len(model.name) == len("local:") + 12
    assert len(model.annotate_many([talk(*TRIP), talk("hi")])) == 2


def test_a_finished_run_is_not_trained_again(run: Path, tiny_base: Path) -> None:
    from data_prep.goals.training import GoalTraining, train

    before = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    config = GoalTraining.model_validate_json((run / "config.json").read_text())
    assert (train(config) / "adapter_model.safetensors").read_bytes() == before


def test_damaged_and_missing_adapters_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a goal model"):
        load_goal_model(tmp_path)
    for file in (run / "adapter").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "SHA256").write_text("0" * 64 + "  adapter_model.safetensors\n")
    with pytest.raises(ConfigError, match="SHA256"):
        load_goal_model(tmp_path)


def test_conversations_without_goals_cannot_train(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [talk("hi", goal=None)])
    with pytest.raises(DataError, match="no conversation with a goal"):
        annotated([str(tmp_path / "a.jsonl")])


def test_baselines_speak_in_the_persons_words() -> None:
    conversation = talk("Fix this. It is\nbroken", " ".join("abcdefghijklmnop"))
    sentence, words = opening_sentence([conversation])[0], first_words([conversation])[0]
    assert sentence is not None
    assert words is not None
    assert sentence.summary == "Fix this."
    assert words.summary == "Fix this. It is broken"
    assert words.facets[1] == Facet(text="a b c d e f g h i j k l", turn=2)


def test_a_goal_finds_its_own_of_ten_by_exact_chance() -> None:
    cosine = np.eye(12)
    cosine[0, 1] = 2.0  # one of eleven others is nearer: it is not among nine drawn with chance 2/11
    assert _retrieval(cosine) == pytest.approx([2 / 11, *[1.0] * 11])


def test_scores_of_the_annotation_itself_are_perfect_and_a_missing_goal_is_left_out() -> None:
    pytest.importorskip("sacrebleu", reason="chrF of the report needs it (extra collab)")
    talks = [talk(*TRIP), talk("learn to juggle", goal=Goal(summary="pick up a circus skill"))]
    perfect = score([one.profile.goal for one in talks], talks)
    whole = metrics(perfect, draws(2, 50, 0))
    assert estimate(whole["cosine"]) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [whole[name][0] for name in ("chrf", "facet_f1", "facet_turn")] == pytest.approx([100, 1, 1])
    half = metrics(score([GOAL, None], talks), draws(2, 50, 0))
    assert (half["coverage"][0], half["cosine"][0]) == pytest.approx((0.5, 1.0))


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the adapter is not there yet")
def test_the_shipped_model_writes_a_goal_that_is_about_the_conversation() -> None:
    conversation = talk(
        "what vegetables can i grow on a balcony that gets little sun",
        "how big should the pots be for lettuce?",
        "how often do i water it",
    )
    annotation = load_goal_model().annotate_many([conversation])[0]
    assert isinstance(annotation, Annotation)
    assert any(word in annotation.goal for word in ("grow", "garden", "plant", "vegetable"))
    assert annotation.facets
    assert all(1 <= (facet.turn or 0) <= 3 for facet in annotation.facets)
