"""`usersim eval judge`: judges pairs, naturalness and grounding acts with any OpenAI-compatible endpoint.

Answers are cached on disk, so a repeated or interrupted run asks only the missing questions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.fidelity.samples.prepare import check_origin
from eval.llm_judge.agreement import Label, LabelAgreement, agreement, between_raters, consensus, read_labels
from eval.llm_judge.asking import ask
from eval.llm_judge.judge_record import JudgeReport, tables
from eval.llm_judge.plan import HUMAN, JudgedPair, SampledItem, chats, messages, pairs
from eval.llm_judge.questions import PROMPTS, TASKS, Item, Task
from eval.llm_judge.scores import act_rows, pair_rates, rules_against_judge, score_rows, unanswered
from usersim.chat_models.client import ChatSampling
from usersim.chat_models.judge import Judge
from usersim.cli import console, emit_json, load_conversations
from usersim.errors import BackendError, ConfigError, DataError
from usersim.storage.records import atomic_writer, write_json
from usersim.types import Conversation
from usersim.users.prompted import prompt_hash
from usersim.weights.default_model import file_hash

TRUSTED_LABELS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--human", type=Path, required=True, metavar="FILE", help="held-out human conversations (JSONL)")
    add(
        "--simulated",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="simulated conversations (JSONL); repeat for more simulators",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory for judge.json and the answers (cache/)",
    )
    add("--judge-url", metavar="URL", help="OpenAI-compatible chat endpoint of the judge")
    add("--judge-model", metavar="NAME")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the endpoint's key")
    add(
        "--tasks",
        default=",".join(TASKS),
        help="which (is human), natural (1 to 5), act (grounding acts); default: all",
    )
    add(
        "--pairs",
        type=int,
        default=100,
        help="pairs per simulator and control, asked in both orders (default: 100)",
    )
    add("--chats", type=int, default=100, help="chats of each source rated for naturalness (default: 100)")
    add(
        "--messages",
        type=int,
        default=200,
        help="messages of each source labelled with an act (default: 200)",
    )
    add("--turns", type=int, default=6, help="most user turns of a chat that are shown (default: 6)")
    add(
        "--show-replies",
        action="store_true",
        help="also show the assistant's replies; only where all sides have the same assistant",
    )
    add("--labels", type=Path, metavar="FILE", help="labels of people, to measure and correct the judge")
    add(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the items for people to label (chat text!) and stop",
    )
    add("--seed", type=int, default=0)
    add("--concurrency", type=int, default=8)
    add("--timeout", type=float, default=120.0, metavar="SECONDS")
    add("--max-tokens", type=int, default=1024, help="tokens per answer, thinking included (default: 1024)")
    add("--price-in", type=float, metavar="PRICE", help="price per million prompt tokens, to show the cost")
    add("--price-out", type=float, metavar="PRICE", help="price per million answer tokens")
    add("--dry-run", action="store_true", help="count the questions and stop")
    add("--json", action="store_true")
    add("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    tasks, files = _tasks(args.tasks), _files(args)
    sides = {name: _read(name, path) for name, path in files.items()}
    couples, rated, labelled = _plan(args, tasks, sides)
    items = _items(couples, rated, labelled)
    if args.dry_run:
        counts = {task: sum(item.task == task for item in items) for task in tasks}
        emit_json({"questions": len(items), **counts}, stdout=True, path=args.json_out)
        return 0
    if args.export is not None:
        _export(args.export, items)
        return 0
    labels = _labels(args, items)
    judge = _judge(args)
    answers = asyncio.run(ask(judge, items, args.seed))
    if not answers:
        raise BackendError(f"{args.judge_url}: no usable answer ({judge.usage.summary()['failures']})")
    report = _report(args, files, couples, rated, labelled, labels, answers, judge)
    write_json(args.out / "judge.json", report.model_dump(mode="json"))
    for table in tables(report):
        console.print(table)
    for note in report.notes:
        console.print(f"- {note}", style="dim")
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def _tasks(text: str) -> list[Task]:
    names = text.split(",")
    if unknown := set(names) - set(TASKS):
        raise ConfigError(f"--tasks {', '.join(sorted(unknown))}: choose from {', '.join(TASKS)}")
    return [task for task in TASKS if task in names]


def _files(args: argparse.Namespace) -> dict[str, Path]:
    files = {HUMAN: args.human}
    for option in args.simulated:
        name, equals, path = option.partition("=")
        if not (name and equals and path) or name in files:
            raise ConfigError(f"--simulated {option!r}: write NAME=FILE, every name once and none `{HUMAN}`")
        files[name] = Path(path)
    if len(files) == 1:
        raise ConfigError("nothing to judge: give --simulated NAME=FILE at least once")
    return files


def _read(name: str, path: Path) -> list[Conversation]:
    conversations = load_conversations(path)
    check_origin(name, conversations, "human" if name == HUMAN else "simulated")
    with_user_text = [
        c for c in conversations if any(turn.role == "user" and turn.text.strip() for turn in c.turns)
    ]
    if not with_user_text:
        raise DataError(f"{path}: no conversation with a user's words")
    return with_user_text


def _plan(
    args: argparse.Namespace, tasks: Sequence[Task], sides: Mapping[str, Sequence[Conversation]]
) -> tuple[list[JudgedPair], list[SampledItem], list[SampledItem]]:
    simulated = {name: conversations for name, conversations in sides.items() if name != HUMAN}
    show = {"seed": args.seed, "user_turns": args.turns, "replies": args.show_replies}
    return (
        pairs(sides[HUMAN], simulated, args.pairs, **show) if "which" in tasks else [],
        chats(sides, args.chats, **show) if "natural" in tasks else [],
        messages(sides, args.messages, seed=args.seed) if "act" in tasks else [],
    )


def _items(
    couples: Sequence[JudgedPair], rated: Sequence[SampledItem], labelled: Sequence[SampledItem]
) -> list[Item]:
    """Returns each item once, even where several pairs or samples share it."""
    items = [item for pair in couples for item in (pair.forward, pair.backward)]
    items += [sampled.item for sampled in (*rated, *labelled)]
    if not items:
        raise DataError("nothing to ask: no pair, chat or message is left")
    return list({item.key: item for item in items}.values())


def _export(path: Path, items: Sequence[Item]) -> None:
    with atomic_writer(path) as stream:
        for item in items:
            row = {
                "item": item.key,
                "label": "",
                "rater": "",
                "asked": PROMPTS[item.task],
                "shown": item.text,
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    console.print(
        f"{len(items)} items in {path}: fill in `label` (and `rater`), then give it as --labels", markup=False
    )


def _labels(args: argparse.Namespace, items: Sequence[Item]) -> list[Label]:
    """Reads the labels of people and checks them before any question is paid for."""
    if args.labels is None:
        return []
    labels = read_labels(args.labels)
    if not {label.item for label in labels} & {item.key for item in items}:
        raise DataError(
            f"{args.labels}: none of its items is asked here; use the files and settings of --export"
        )
    return labels


def _judge(args: argparse.Namespace) -> Judge:
    if not (args.judge_url and args.judge_model):
        raise ConfigError("give --judge-url and --judge-model, or --export FILE for people")
    key = None
    if args.api_key_env is not None and not (key := os.environ.get(args.api_key_env, "").strip()):
        raise ConfigError(f"--api-key-env {args.api_key_env}: that variable is not set")
    return Judge(
        args.judge_url,
        args.judge_model,
        api_key=key,
        cache=args.out / "cache",
        concurrency=args.concurrency,
        timeout_s=args.timeout,
        sampling=ChatSampling(max_tokens=args.max_tokens),
        price_in=args.price_in,
        price_out=args.price_out,
    )


def _report(
    args: argparse.Namespace,
    files: Mapping[str, Path],
    couples: Sequence[JudgedPair],
    rated: Sequence[SampledItem],
    labelled: Sequence[SampledItem],
    labels: Sequence[Label],
    answers: Mapping[str, str],
    judge: Judge,
) -> JudgeReport:
    people = consensus(labels)
    acts, transitions = act_rows(labelled, answers, people, args.seed)
    clusters = {s.item.key: s.cluster for s in (*rated, *labelled)}
    clusters |= {item.key: p.cluster for p in couples for item in (p.forward, p.backward)}
    agreements: list[LabelAgreement | None] = [rules_against_judge(labelled, answers, args.seed)]
    for task in TASKS if labels else ():
        compared = {
            "people and judge": (people, answers),
            "two people": between_raters([label for label in labels if label.item.startswith(f"{task}:")]),
        }
        for between, (first, second) in compared.items():
            task_labels = {key: text for key, text in first.items() if key.startswith(f"{task}:")}
            agreements.append(agreement(task, between, task_labels, second, clusters, seed=args.seed))
    known_agreements = tuple(entry for entry in agreements if entry is not None)
    return JudgeReport(
        judge=args.judge_model,
        prompts={task: prompt_hash(text) for task, text in PROMPTS.items()},
        seed=args.seed,
        settings={
            key: getattr(args, key)
            for key in ("pairs", "chats", "messages", "turns", "show_replies", "tasks")
        },
        files={name: file_hash(path) for name, path in files.items()},
        pairs=tuple(pair_rates(couples, answers, args.seed)),
        naturalness=tuple(score_rows(rated, answers, args.seed)),
        acts=tuple(acts),
        transitions=tuple(transitions),
        agreement=known_agreements,
        unanswered={str(k): v for k, v in unanswered(_items(couples, rated, labelled), answers).items()},
        usage=judge.usage.summary(),
        notes=tuple(_notes(args, known_agreements)),
    )


def _notes(args: argparse.Namespace, agreements: Sequence[LabelAgreement]) -> list[str]:
    notes = [
        f"All of this is the opinion of {args.judge_model}; no other result depends on it. LLM judges favour LLM text.",
        "Chats of a pair are shown up to the same number of user turns, and without how they ended.",
    ]
    if not args.show_replies:
        notes.append("The assistant's replies were hidden: assistants differ between the sides.")
    people = [entry for entry in agreements if entry.between == "people and judge"]
    if not people:
        notes.append("No labels of people were given: the accuracy of this judge here is unknown.")
    notes += [
        f"{entry.task}: {entry.n} labels of people; {TRUSTED_LABELS} are needed."
        for entry in people
        if entry.n < TRUSTED_LABELS
    ]
    return notes
