"""Results of tau2-bench: one JSON file, or `results.json` beside a folder `simulations/` of one file a simulation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from eval.convert.files import read_json
from eval.convert.turns import Converted, Excluded, conversation
from usersim.errors import DataError
from usersim.types import Conversation, EndedBy, Facet, Goal, Persona, UserProfile

ENDS: dict[str, EndedBy] = {"user_stop": "user", "max_steps": "turn_cap"}
"""Ending by `termination_reason`; other reasons with a conversation are "cut". A stop mark in the text has priority."""
BROKEN = frozenset(
    {"agent_error", "user_error", "infrastructure_error", "context_window_exceeded", "unexpected_error"}
)
SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:[Nn]o|Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|etc)\.)(?<!\b(?:e\.g|i\.e|a\.m|p\.m)\.)\s+(?![a-z])|\n+"
)
"""End of a sentence: not after an initial or an abbreviation, nor before a lower-case letter."""


def convert(path: Path, *, source: str | None = None) -> Converted:
    """Converts a results file or folder. The goal is the reason for the call; facets are the sentences of the user's
    known information. Behaviour instructions are in neither.

    The assistant's system prompt is the domain's policy. Voice runs (ticks, no messages) and broken runs are
    excluded. `group` is the task, so that trials of one task are a cluster.
    """
    results, runs = _read(path)
    info = results.get("info") or {}
    user = ((info.get("user_info") or {}).get("llm")) or "user"
    environment = info.get("environment_info") or {}
    domain, policy = environment.get("domain_name") or "tau2", environment.get("policy")
    profiles = {str(task.get("id")): _profile(task) for task in results.get("tasks") or []}
    converted = Converted()
    name = source or f"tau2 {user}"
    return converted.take(
        (str(run.get("id")), partial(_one, run, profiles, f"{domain}/", policy, name, converted))
        for run in runs
    )


def _read(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    file = path / "results.json" if path.is_dir() else path
    results = read_json(file)
    if not isinstance(results, dict) or not isinstance(results.get("tasks"), list):
        raise DataError(f"{file}: no tau2 results (needs `tasks` and `simulations`)")
    parts = file.parent / "simulations"
    if isinstance(results.get("simulations"), list):
        return results, iter(results["simulations"])
    if parts.is_dir():
        return results, (read_json(part) for part in sorted(parts.glob("*.json")))
    raise DataError(f"{file}: no `simulations` in it, and no folder {parts}")


def _one(
    run: Mapping[str, Any],
    profiles: Mapping[str, UserProfile],
    prefix: str,
    policy: str | None,
    source: str,
    converted: Converted,
) -> Conversation:
    reason = str(run.get("termination_reason"))
    if reason in BROKEN:
        raise Excluded(f"failed run ({reason})")
    if not run.get("messages"):
        raise Excluded("voice run without messages" if run.get("ticks") else "no messages")
    task = str(run.get("task_id"))
    if task not in profiles:
        converted.notes["no task of that id, so no goal"] += 1
    record = conversation(
        run["messages"],
        source=source,
        ended_by=ENDS.get(reason, "cut"),
        profile=profiles.get(task),
        group=f"{prefix}{task}",
        notes=converted.notes,
    )
    return record.model_copy(update={"system": record.system or run.get("policy") or policy})


def _profile(task: Mapping[str, Any]) -> UserProfile:
    scenario = task.get("user_scenario") or {}
    instructions = scenario.get("instructions") or ""
    known_info = ""
    if isinstance(instructions, Mapping):
        known_info = str(instructions.get("known_info") or "")
        instructions = str(instructions.get("reason_for_call") or "")
    facets = tuple(Facet(text=text.strip()) for text in SENTENCE.split(known_info) if text.strip(" -*\t"))
    goal = Goal(summary=instructions, facets=facets, provenance="tau2") if instructions.strip() else None
    persona = scenario.get("persona")
    return UserProfile(goal=goal, persona=Persona(description=str(persona)) if persona else None)
