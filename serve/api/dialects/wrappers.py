"""The user's own part of the prompts that clients wrap around it: what the person wants, and who they are.

A User LM was trained on goals, not on rules for actors, so only what the client marks as the person's is given
to it. Text without such marks is the goal as a whole, but for the sentence that says how to end.
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
    goal: Goal | None
    persona: str | None
    rules: str
    """What the client tells its actor besides; the whole text where nothing is marked."""
    flips_roles: bool
    """Written by a client that always flips roles."""
    has_stop_marker: bool
    """Whether the client knows an end that the user decides."""


def unwrap(system: str) -> UnwrappedPrompt:
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
        # A prompt of somebody's own may name the end within its scenario; these clients do not.
        rules=rules if flips_roles or names_end_marker(rules) else system,
        flips_roles=flips_roles,
        # A word that the client does not know would reach the agent as the user's.
        has_stop_marker=names_end_marker(rules) or (not flips_roles and names_end_marker(system)),
    )


def _scenario(text: str) -> tuple[Goal | None, str | None]:
    """tau2 writes a persona and instructions in indented sections; everybody else plain text."""
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
    """`Name:` at the start of a line, what is said behind it or indented below; empty where text has others."""
    heading = re.compile(rf"^({'|'.join(names)}):[ \t]*", re.MULTILINE)
    heads = list(heading.finditer(text))
    if not heads or text[: heads[0].start()].strip():
        return {}
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {
        head[1]: textwrap.dedent(text[head.end() : end].lstrip("\n")).strip()
        for head, end in zip(heads, ends, strict=True)
    }
