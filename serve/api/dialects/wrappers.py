"""The user's own part of the prompts that clients wrap around it: what the person wants, and who they are.

A User LM was trained on goals, not on rules for actors, so only what the client marks as the person's is given
to it. Text without such marks is the goal as a whole, but for the sentence that says how to end.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from serve.api.dialects.histories import between
from serve.api.dialects.reading import as_goal, names_an_end, without_end
from usersim.types import Goal

TAU = re.compile(
    r"\A\s*You are a user interacting with an agent\.\s*Instruction: (.*)\n(Rules:\n.*)\Z", re.DOTALL
)
TAU_WITHOUT_GOAL = re.compile(r"\A\s*You are a user interacting with an agent\.\s*(Rules:\n.*)\Z", re.DOTALL)
LANGWATCH = "You are pretending to be a user, you are testing an AI Agent"
TAU2 = "# User Simulation Guidelines"
SECTIONS = ("Domain", "Reason for call", "Known info", "Unknown info", "Task instructions")


@dataclass(frozen=True)
class Unwrapped:
    goal: Goal | None
    persona: str | None
    rules: str
    """What the client tells its actor besides; the whole text where nothing is marked."""
    known: bool
    """Written by a client that always flips roles."""
    has_end: bool
    """Whether the client knows an end that the user decides."""


def unwrap(system: str) -> Unwrapped:
    if tau := TAU.match(system) or TAU_WITHOUT_GOAL.match(system):
        goal = tau[1] if tau.lastindex == 2 else ""
        return Unwrapped(as_goal(goal), None, tau[tau.lastindex or 1], known=True, has_end=True)
    goal, persona, rules = None, None, system
    scenario = between(system, "<scenario>", "</scenario>", last=True)
    if scenario:
        goal, persona = _scenario(scenario.text)
        rules = system[: scenario.start] + system[scenario.end :]
    if described := between(rules, "<persona>", "</persona>", last=True):
        persona = described.text.strip()
        rules = rules[: described.start] + rules[described.end :]
    langwatch = LANGWATCH in rules
    known = langwatch or rules.lstrip().startswith(TAU2)
    if scenario and not known and not names_an_end(rules):
        goal, persona_told = _scenario(without_end(scenario.text))
        persona = persona or persona_told
    return Unwrapped(
        goal=goal if scenario else as_goal(without_end(rules)),
        persona=persona,
        # A prompt of somebody's own may name the end within its scenario; these clients do not.
        rules=rules if known or names_an_end(rules) else system,
        known=known,
        # A word that the client does not know would reach the agent as the user's.
        has_end=names_an_end(rules) or (not known and names_an_end(system)),
    )


def _scenario(text: str) -> tuple[Goal | None, str | None]:
    """tau2 writes a persona and instructions in indented sections; everybody else plain text."""
    parts = _sections(text, ("Persona", "Instructions"))
    if "Instructions" not in parts:
        return as_goal(text), None
    said = _sections(parts["Instructions"], SECTIONS)
    if "Reason for call" not in said:
        return as_goal(parts["Instructions"]), parts.get("Persona")
    unknown = said.get("Unknown info", "").strip()
    details = (
        said.get("Known info", ""),
        f"you do not know: {unknown}" if unknown else "",
        said.get("Task instructions", ""),
    )
    return as_goal(said["Reason for call"], details), parts.get("Persona")


def _sections(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """`Name:` at the start of a line, what is said behind it or indented below; empty where text has others."""
    heads = re.compile(rf"^({'|'.join(names)}):[ \t]*", re.MULTILINE)
    found = list(heads.finditer(text))
    if not found or text[: found[0].start()].strip():
        return {}
    ends = [head.start() for head in found[1:]] + [len(text)]
    return {
        head[1]: textwrap.dedent(text[head.end() : end].lstrip("\n")).strip()
        for head, end in zip(found, ends, strict=True)
    }
