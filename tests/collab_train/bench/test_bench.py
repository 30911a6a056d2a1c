"""`usersim collab bench` against scripts: scores, paired differences and failures worked out by hand; resuming."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from collab_train.bench.ablation import commands
from collab_train.bench.benchmark import jobs_of, plan
from collab_train.bench.command import bench, selected_parts
from collab_train.bench.conditions import Ablation, AssistantSpec, BenchConfig
from collab_train.bench.measures import intervals
from collab_train.bench.play import ConversationJob
from collab_train.bench.report.bench_record import leaves_out_zero
from collab_train.bench.stage import Speakers, split_jobs
from collab_train.contexts import Context
from collab_train.rewards import Episode
from collab_train.rewards.clarify import clarifies
from collab_train.run_lock import exclusive
from usersim.errors import BackendError, ConfigError
from usersim.testing import ScriptedUser
from usersim.types import Conversation, Turn
from usersim.users.protocols import User

Answer = Callable[[Sequence[Turn]], str]
OPENINGS = ("plan trip one", "plan trip two", "plan trip three")
BEST = dict(zip(OPENINGS, ("By train for 350 euros.", "Go by train.", "Fly there."), strict=True))


class Scripts(Speakers):
    """An assistant is a function of the turns, by its address; `heard` counts the replies it gave."""

    def __init__(self, config: BenchConfig, assistants: dict[str, Answer], user: User | None = None) -> None:
        super().__init__(config)
        self.answers, self.speaker = assistants, user or ScriptedUser("plan", "350 euros", "and?", "ok")
        self.heard = dict.fromkeys(assistants, 0)
        self.systems = list[str | None]()

    def user(self, spec: Any) -> User:
        return self.speaker

    def assistant(self, address: str) -> Any:
        scripts = self

        class Script:
            async def __call__(
                self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
            ) -> str:
                scripts.heard[address] += 1
                scripts.systems.append(system)
                return scripts.answers[address](turns)

            async def aclose(self) -> None:
                pass

        return Script()

    async def cache_keys(self, job: ConversationJob) -> tuple[str, str]:
        return job.assistant.address, job.user.name if job.user else ""


def asks(turns: Sequence[Turn]) -> str:
    return "What may it cost?"


def serves(turns: Sequence[Turn]) -> str:
    return BEST[turns[0].text]


def config(tmp_path: Path, *names: str, **more: Any) -> BenchConfig:
    """Three held-out contexts of two facets, one of them told; assistants at addresses of their own names."""
    facets = [{"text": "at most 350 euros"}, {"text": "by train"}]
    rows = [
        {
            "id": f"c{number}",
            "turns": [{"role": "user", "text": opening}],
            "goal": {"summary": "plan a trip", "facets": facets},
            "phrases": [["350 euro*"], ["by train"]],
            "split": "heldout",
        }
        for number, opening in enumerate(OPENINGS)
    ]
    file = tmp_path / "contexts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings: dict[str, Any] = {
        "out": str(tmp_path / "bench"),
        "assistants": tuple(AssistantSpec(name=name, address=name) for name in names),
        "tasks": [{"name": "trips", "contexts": str(file)}],
        "turns": 1,
        "token_penalty": 0.01,
        "retries": 0,
        "safety": None,
    }
    return BenchConfig.model_validate(settings | more)


def play(config: BenchConfig, answers: dict[str, Answer], user: User | None = None) -> tuple[Any, Scripts]:
    scripts = Scripts(config, answers, user)
    return bench(config, config.parts, speakers=scripts), scripts


def by_assistant(report: Any, part: str = "table") -> dict[str, Any]:
    return {one["assistant"]: one for one in report[part]}


def test_scores_and_paired_differences_worked_by_hand(tmp_path: Path) -> None:
    report, _ = play(config(tmp_path, "Base", "DPO"), {"Base": asks, "DPO": serves})
    found = by_assistant(report)
    # Twice 5 tokens and the user's 2, of which 0.01 each is lost; it serves nothing.
    base = found["Base"]["measures"]
    assert base["score"]["value"] == 0.0
    assert base["reward"]["value"] == pytest.approx(-0.12)
    assert (base["tokens"]["value"], base["assistant_tokens"]["value"]) == (12.0, 10.0)
    assert (base["question_rate"]["value"], base["user_words"]["value"]) == (1.0, 2.0)
    assert (base["user_turns"]["value"], base["user_left"]["value"]) == (1.0, 0.0)
    # R of the other: 1 - 0.14, 0.5 - 0.10, 0 - 0.08; so it gains 0.98, 0.52 and 0.04.
    gap = found["DPO"]["differences"]["Base"]
    assert gap["reward"]["value"] == pytest.approx(1.54 / 3)
    # All three resamples the same has probability 1/27, more than 2.5 %: the interval ends at the extremes.
    assert (gap["reward"]["low"], gap["reward"]["high"]) == pytest.approx((0.04, 0.98))
    assert gap["score"]["value"] == pytest.approx(0.5)
    assert gap["tokens"]["value"] == pytest.approx((14 + 10 + 8) / 3 - 12)
    assert gap["reward"]["n"] == 3
    assert found["Base"]["differences"] == {}


def test_a_failed_conversation_is_counted_and_its_context_left_out_of_the_pair(tmp_path: Path) -> None:
    def breaks(turns: Sequence[Turn]) -> str:
        if turns[0].text == OPENINGS[1]:
            raise BackendError("engine gone")
        return serves(turns)

    report, _ = play(config(tmp_path, "Base", "DPO"), {"Base": asks, "DPO": breaks})
    cell = by_assistant(report)["DPO"]
    assert (cell["contexts"], cell["conversations"], cell["failed"]) == (2, 2, 1)
    assert cell["failures"] == {"BackendError: engine gone": 1}
    assert cell["differences"]["Base"]["reward"]["n"] == 2
    assert cell["differences"]["Base"]["reward"]["value"] == pytest.approx((0.98 + 0.04) / 2)


def test_a_cell_of_failures_has_no_numbers_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    def gone(turns: Sequence[Turn]) -> str:
        raise BackendError("engine gone")

    asked = config(tmp_path, "Base", "DPO")
    report, _ = play(asked, {"Base": asks, "DPO": gone})
    cell = by_assistant(report)["DPO"]
    assert (cell["contexts"], cell["failed"], cell["measures"]) == (0, 3, {})
    assert cell["differences"] == {"Base": {}}
    with pytest.raises(BackendError, match=r"every conversation failed; .*engine gone"):
        play(asked.model_copy(update={"out": str(tmp_path / "none")}), {"Base": gone, "DPO": gone})


def test_one_context_has_no_interval(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base", "DPO")
    one = asked.tasks[0].model_copy(update={"limit": 1})
    report, _ = play(asked.model_copy(update={"tasks": (one,)}), {"Base": asks, "DPO": serves})
    gap = by_assistant(report)["DPO"]["differences"]["Base"]["reward"]
    assert (gap["low"], gap["high"], gap["n"]) == (None, None, 1)
    assert gap["value"] == pytest.approx(0.98)


def test_after_a_kill_only_what_is_missing_is_played(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base", "DPO", concurrency=1)

    def killed(turns: Sequence[Turn]) -> str:
        if turns[0].text == OPENINGS[2]:
            raise ZeroDivisionError  # stands for a kill: no UsersimError, so the run ends
        return serves(turns)

    with pytest.raises(ZeroDivisionError):
        play(asked, {"Base": asks, "DPO": killed})
    report, scripts = play(asked, {"Base": asks, "DPO": serves})
    assert scripts.heard == {"Base": 0, "DPO": 2}
    assert (report["cost"]["resumed"], report["cost"]["conversations"]) == (5, 6)
    fresh = asked.model_copy(update={"out": str(tmp_path / "fresh")})
    assert play(fresh, {"Base": asks, "DPO": serves})[0]["table"] == report["table"]


def test_a_bench_is_played_by_one_process(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base", "DPO")
    with exclusive(asked.out), pytest.raises(ConfigError, match="in use by another run"):
        play(asked, {"Base": asks, "DPO": serves})
    assert play(asked, {"Base": asks, "DPO": serves})[0]["cost"]["resumed"] == 0


def test_another_assistant_may_join_a_run_but_not_another_turn_cap(tmp_path: Path) -> None:
    play(config(tmp_path, "Base"), {"Base": asks})
    _, scripts = play(config(tmp_path, "Base", "DPO"), {"Base": asks, "DPO": serves})
    assert scripts.heard == {"Base": 0, "DPO": 6}
    with pytest.raises(ConfigError, match="differs in: turns"):
        play(config(tmp_path, "Base", turns=2), {"Base": asks})


def test_seeds_are_common_to_assistants_and_repetitions_are_averaged_by_context(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base", "DPO", repeats=2)
    report, _ = play(asked, {"Base": asks, "DPO": serves})
    lines = [json.loads(line) for line in (tmp_path / "bench/conversations.jsonl").read_text().splitlines()]
    seeds = {(row["assistant"], row["context"], row.get("index", 0)): row["seed"] for row in lines}
    assert len(set(seeds.values())) == 6
    assert all(seed == seeds["Base", *place[1:]] for place, seed in seeds.items())
    gap = by_assistant(report)["DPO"]["differences"]["Base"]["reward"]
    assert (gap["n"], gap["value"]) == (3, pytest.approx(1.54 / 3))


def test_a_user_who_leaves_ends_the_conversation_early(tmp_path: Path) -> None:
    report, _ = play(config(tmp_path, "Base", turns=3), {"Base": asks}, ScriptedUser("plan", "350 euros"))
    measures = by_assistant(report)["Base"]["measures"]
    assert (measures["user_left"]["value"], measures["user_turns"]["value"]) == (1.0, 1.0)


def test_the_proactive_prompt_stands_before_the_system_prompts_of_the_assistant_and_the_task() -> None:
    context = Context(id="c", turns=(Turn(role="user", text="hi"),), system="Of the task.")
    told = AssistantSpec(name="P", proactive=True, system="Of the assistant.").system_for(context)
    assert told is not None
    first, *rest = told.split("\n\n")
    assert "ask one short question" in first
    assert rest == ["Of the assistant.", "Of the task."]
    bare = context.model_copy(update={"system": None})
    assert AssistantSpec(name="B").system_for(bare) is None


def test_report_table_and_plots_are_written(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base", "DPO")
    play(asked, {"Base": asks, "DPO": serves})
    out = tmp_path / "bench"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["config"] == asked.model_dump(mode="json")
    assert report["identities"]["assistants"] == {"Base": "Base", "DPO": "DPO"}
    assert report["versions"]["scipy"]
    assert len(report["contexts"]["table"]["trips"]) == 16
    text = (out / "table.md").read_text(encoding="utf-8")
    # Not bold: three contexts are too few to claim anything by.
    assert "| DPO - Base | +0.500 (+0.000 to +1.000) | +0.513 (+0.040 to +0.980) |" in text
    assert 'class="whisker"' in (out / "report.html").read_text(encoding="utf-8")


def test_the_ablation_compares_windows_with_base_and_draws_them(tmp_path: Path) -> None:
    trained = [{"name": f"w={w}", "address": f"w{w}", "w": w} for w in (0, 2)]
    asked = config(tmp_path, "Base", "DPO", ablation={"assistants": trained})
    report, scripts = play(asked, {"Base": asks, "DPO": serves, "w0": asks, "w2": serves})
    found = by_assistant(report, "ablation")
    assert (found["w=2"]["w"], found["w=2"]["rewards"], found["Base"]["w"]) == (2, "both", None)
    assert found["w=2"]["differences"]["Base"]["reward"]["value"] == pytest.approx(1.54 / 3)
    assert found["w=0"]["differences"]["Base"]["reward"]["value"] == pytest.approx(0.0)
    assert scripts.heard["Base"] == 6  # its conversations serve the table and the ablation
    drawn = (tmp_path / "bench/report.html").read_text(encoding="utf-8")
    assert drawn.count('<svg class="plot"') == 2


def test_the_ablation_says_how_its_assistants_are_made() -> None:
    lines = commands(
        Ablation(w=(0, 2), immediate=("intrinsic",), folder="runs/a", pairs="p.toml", dpo="d.toml")
    )
    assert lines == [
        "usersim collab pairs p.toml out=runs/a/w2/pairs w=2",
        "usersim collab dpo d.toml train=runs/a/w2/pairs/train.jsonl out=runs/a/w2/dpo",
        "usersim collab pairs p.toml out=runs/a/w0-intrinsic/pairs w=0 turns=1 rewards='{facet_coverage = 0}' "
        "reuse=runs/a/w2/pairs",
        "usersim collab dpo d.toml train=runs/a/w0-intrinsic/pairs/train.jsonl out=runs/a/w0-intrinsic/dpo",
        "usersim collab pairs p.toml out=runs/a/w0/pairs w=0 turns=1 reuse=runs/a/w2/pairs",
        "usersim collab dpo d.toml train=runs/a/w0/pairs/train.jsonl out=runs/a/w0/dpo",
    ]


def test_the_ablation_may_go_on_from_pairs_that_are_there() -> None:
    lines = commands(Ablation(w=(0, 3), reuse="runs/p", options=("n=4", "turns=1")))
    assert lines[0].endswith("w=3 n=4 turns=1 reuse=runs/p")
    assert lines[2].endswith("w=0 n=4 turns=1 reuse=runs/collab-ablation/w3/pairs")


REPLIES = [
    ("Which Paris do you mean, the one in Texas?", True),
    ("Do you mean the first visit or the second?", True),
    ("There are two. Which one interests you?", True),
    ("Before I answer: is this about the book or the film?", True),
    ("Whose house?", True),
    ("He went to Rome in 1910.", False),
    ("She did. Anything else?", False),
    ("It was blue. Would you like me to say more?", False),
    ('The sign said "open".', False),
    ("Because nobody knew why he had left.", False),
]


@pytest.mark.parametrize(("reply", "asks_back"), REPLIES)
def test_what_counts_as_asking_back(reply: str, asks_back: bool) -> None:
    for ambiguous in ("yes", "no"):
        opening = Turn(role="user", text="where did he go?")
        context = Context(id="c", turns=(opening,), metadata={"ambiguous": ambiguous})
        said = Conversation(
            id="c", origin="simulated", source="x", turns=(opening, Turn(role="assistant", text=reply))
        )
        assert clarifies(Episode(context, said)) == float(asks_back == (ambiguous == "yes"))


def test_generalisation_is_the_mean_of_asking_and_answering(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"s{number}",
            "story": "Anna and Bea went out.",
            "history_turns": [],
            "target_turn": {"question": f"who {kind} {number}", "answer": "Anna"},
            "ambiguity": kind,
        }
        for number, kind in enumerate(["ambiguous"] * 4 + ["non_ambiguous"] * 6)
    ]
    file = tmp_path / "abg.json"
    file.write_text(json.dumps({"data": rows}), encoding="utf-8")
    asked = config(tmp_path, "Base", "DPO", clarify={"path": str(file), "limit": 4})

    def right(turns: Sequence[Turn]) -> str:
        return "Which one?" if "who ambiguous" in turns[-1].text else "Anna."

    scripts = Scripts(asked, {"Base": asks, "DPO": right})
    report = bench(asked, ("clarify",), speakers=scripts)
    found = by_assistant(report, "clarify")
    # Four of each kind: always asking is right on the ambiguous half.
    assert (found["Base"]["ambiguous"]["value"], found["Base"]["clear"]["value"]) == (1.0, 0.0)
    assert found["Base"]["macro"]["value"] == 0.5
    # Wilson at 4 of 4 begins at 4 / (4 + 3.8415) = 0.5101; two such halves: 1 - 0.4899 · √2 / 2.
    assert found["DPO"]["macro"]["low"] == pytest.approx(1 - 0.4899 * 2**0.5 / 2, abs=1e-4)
    assert found["DPO"]["differences"]["Base"]["value"] == 0.5
    assert found["DPO"]["differences"]["Base"]["n"] == 8
    assert all(system and "Anna and Bea" in system for system in scripts.systems)


def test_intervals_worked_by_hand() -> None:
    # Two values: a quarter of the resamples is all the one, a quarter all the other.
    assert intervals.mean([1.0, 3.0]) == intervals.IntervalEstimate(value=2.0, low=1.0, high=3.0, n=2)
    # Wilson at 0 of 10: 3.8415 / 13.8415.
    none = intervals.share([False] * 10)
    assert (none.value, none.low, none.high) == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)


def test_a_claim_takes_ten_contexts_and_an_interval_without_zero() -> None:
    assert leaves_out_zero(intervals.IntervalEstimate(value=0.2, low=0.1, high=0.3, n=10))
    assert not leaves_out_zero(intervals.IntervalEstimate(value=0.2, low=0.1, high=0.3, n=9))
    assert not leaves_out_zero(intervals.IntervalEstimate(value=0.2, low=-0.1, high=0.5, n=99))
    assert not leaves_out_zero(intervals.IntervalEstimate(value=0.2, n=10))


def test_paired_shares_keep_a_width_where_nothing_differs() -> None:
    same = intervals.share_difference([True] * 40, [True] * 40)
    assert (same.value, same.low, same.high) == pytest.approx((0.0, -0.0876, 0.0876), abs=1e-4)
    opposite = intervals.share_difference([True] * 10, [False] * 10)
    assert (opposite.low, opposite.high) == pytest.approx((1 - 0.2775 * 2**0.5, 1.0), abs=1e-4)
    # Shares of a half with φ = -1/3: half-widths of 0.3124 each, times √(8/3).
    crossed = intervals.share_difference([True] * 3 + [False] * 3, [True, False, False, True, True, False])
    assert (crossed.low, crossed.high) == pytest.approx((-0.5101, 0.5101), abs=1e-3)


def test_a_plan_counts_conversations_and_says_what_is_not_there(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base", "DPO", repeats=2, ablation={"w": [1], "folder": str(tmp_path)})
    planned = plan(asked, jobs_of(asked, asked.parts))
    # 3 contexts times 2 repetitions times 2 assistants; the ablation has Base and one trained assistant.
    assert planned["conversations"] == {"table": 12, "ablation": 12}
    assert planned["user_tokens_at_most"] == 24 * 64
    assert planned["assistant_tokens_at_most"] == 48 * 160
    assert planned["not_there"] == ["Base", "DPO", "w=1"]
    assert len(planned["ablation_commands"]) == 2


def test_bad_configs_are_refused(tmp_path: Path) -> None:
    asked = config(tmp_path, "Base")
    with pytest.raises(ConfigError, match="--only clarify: the config has only the parts table"):
        selected_parts(asked, ["clarify"])
    with pytest.raises(ConfigError, match="assistants Base: no model at"):
        bench(asked, asked.parts)
    with pytest.raises(ValueError, match="each with its own name"):
        config(tmp_path, "Base", "Base")
    with pytest.raises(ValueError, match="no such policy"):
        config(tmp_path, "Base", users=[{"name": "u", "policy": "nosuch"}])


def test_engines_all_have_something_to_do_from_the_start() -> None:
    asked = BenchConfig.model_validate(
        {
            "assistants": [{"name": n, "address": f"http://a{n}/v1"} for n in "12"] + [{"name": "here"}],
            "users": [{"name": "u", "address": "http://u"}, {"name": "v", "address": "http://v"}],
            "tasks": [{"name": "hidden_facets", "limit": 3}],
        }
    )
    jobs = {str(n): job for n, job in enumerate(jobs_of(asked, ["table"])["table"])}
    remote, here = split_jobs(jobs)
    order = [(job.assistant.name, job.user.name) for job in remote.values() if job.user]
    assert set(order[:4]) == {("1", "u"), ("2", "u"), ("1", "v"), ("2", "v")} == set(order[4:8])
    assert [job.assistant.name for job in here["local"]["hidden_facets"].values()] == ["here"] * 6
    assert len(remote) == 12
