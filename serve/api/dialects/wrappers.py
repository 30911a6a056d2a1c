"""Extraction of goal and persona from clients' system prompts.

A User LM was trained on goals, not on instructions for actors, so it gets only the parts that the client marks as the
person's. Text without such marks is the goal as a whole, without the sentence about the stop marker.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from serve.api.dialects.histories import between
from serve.api.dialects.parsed_prompt import as_goal, drop_end_instructions, names_end_marker
from usersim.types import Goal

TAU = re.compile(
    r"\A\s*You are a user interacting with an agent\.\s*Instruction: (.*)\n(Rules:\n.*)\Z", re.DOTALL
)
TAU_WITHOUT_GOAL = re.compile(r"\A\s*You are a user interacting with an agent\.\s*(Rules:\n.*)\Z", re.DOTALL)
LANGWATCH = "You are pretending to be a user, you are testing an AI Agent"
TAU2 = "# User Simulation Guidelines"
SECTIONS = ("Domain", "Reason for call", "Known info", "Unknown info", "Task instructions")


@dataclass(frozen=True)
class UnwrappedPrompt:
    """Goal, persona and remaining instructions of a system prompt."""

    goal: Goal | None
    persona: str | None
    rules: str
    """Instructions for the actor; the whole text if nothing is marked as the person's."""
    flips_roles: bool
    """True for a known client that always flips roles."""
    has_stop_marker: bool
    """True if the prompt names a marker with which the user ends the conversation."""


def unwrap(system: str) -> UnwrappedPrompt:
    """Parses a client's system prompt."""
    if match := TAU.match(system) or TAU_WITHOUT_GOAL.match(system):
        goal = match[1] if match.lastindex == 2 else ""
        return UnwrappedPrompt(
            as_goal(goal), None, match[match.lastindex or 1], flips_roles=True, has_stop_marker=True
        )
    goal, persona, rules = None, None, system
    scenario = between(system, "<scenario>", "</scenario>", last=True)
    if scenario:
        goal, persona = _scenario(scenario.text)
        rules = system[: scenario.start] + system[scenario.end :]
    if persona_block := between(rules, "<persona>", "</persona>", last=True):
        persona = persona_block.text.strip()
        rules = rules[: persona_block.start] + rules[persona_block.end :]
    langwatch = LANGWATCH in rules
    flips_roles = langwatch or rules.lstrip().startswith(TAU2)
    if scenario and not flips_roles and not names_end_marker(rules):
        goal, scenario_persona = _scenario(drop_end_instructions(scenario.text))
        persona = persona or scenario_persona
    return UnwrappedPrompt(
        goal=goal if scenario else as_goal(drop_end_instructions(rules)),
        persona=persona,
        # A custom prompt may name the stop marker inside its scenario; the known clients do not.
        rules=rules if flips_roles or names_end_marker(rules) else system,
        flips_roles=flips_roles,
        # A marker that the client does not know would reach the agent as the user's text.
        has_stop_marker=names_end_marker(rules) or (not flips_roles and names_end_marker(system)),
    )


def _scenario(text: str) -> tuple[Goal | None, str | None]:
    """Parses a scenario: tau2's has indented sections for persona and instructions, others are plain text."""
    parts = _sections(text, ("Persona", "Instructions"))
    if "Instructions" not in parts:
        return as_goal(text), None
    instructions = _sections(parts["Instructions"], SECTIONS)
    if "Reason for call" not in instructions:
        return as_goal(parts["Instructions"]), parts.get("Persona")
    unknown = instructions.get("Unknown info", "").strip()
    details = (
        instructions.get("Known info", ""),
        f"you do not know: {unknown}" if unknown else "",
        instructions.get("Task instructions", ""),
    )
    return as_goal(instructions["Reason for call"], details), parts.get("Persona")


def _sections(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """Sections `Name:` with their text; empty if the text begins with anything else."""
    heading = re.compile(rf"^({'|'.join(names)}):[ \t]*", re.MULTILINE)
    heads = list(heading.finditer(text))
    if not heads or text[: heads[0].start()].strip():
        return {}
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {
        head[1]: textwrap.dedent(text[head.end() : end].lstrip("\n")).strip()
        for head, end in zip(heads, ends, strict=True)
    }
