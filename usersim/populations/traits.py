"""Persona traits: generic phrases about a person, recognised in descriptions.

A population stores trait frequencies, never a description. A sampled persona is composed of these phrases. Writing
style
is not a trait; `Style` holds it as numbers.
"""

from __future__ import annotations

import re

TRAITS = {
    "student": r"students?|pupil|undergraduate|homework",
    "software developer": r"(?<!business )developer|programmer|coder|software|full-stack|back-?end|front-?end",
    "engineer": r"(?<!software )(?<!prompt )engineer",
    "works with data": r"analyst|data (?:scientist|engineer|worker)|statistician|machine[- ]learning",
    "researcher": r"researcher|scientist|academic|scholar|phd",
    "teacher": r"teacher|instructor|lecturer|educator|tutor|professor",
    "writer": r"writer|author|novelist|blogger|copywriter|editor|journalist",
    "works in marketing": r"marketer|marketing|seo|advertis\w+|sales\w*",
    "runs a business": r"founder|entrepreneur|startup|start-up|business owner|shop owner|freelancer|consultant",
    "office worker": r"manager|office|administrator|assistant|secretary|human resources|hr",
    "hobbyist": r"hobb\w+|enthusiast|fan|gamer|player|amateur|dungeon master|game master",
    "learning the subject": r"beginner|learner|novice|newcomer|learning|layperson|non-expert|aspiring",
    "experienced in the subject": r"experienced|expert|professional|practitioner|specialist|senior|knowledgeable",
    "tries out what the assistant can do": r"tester|testing|tests|evaluator|experimenter|prompter|probing|tinkerer",
    "not a native speaker of English": r"non-native",
    "curious": r"curious",
    "playful": r"playful|humou?r\w*|witty|joking",
    "patient": r"patient",
}
"""Regular expression by trait phrase, matched to whole words of a lower-case description. Personas keep this order."""
EXCLUSIVE = (("learning the subject", "experienced in the subject"),)
"""Groups of traits of which a sampled persona has at most one."""
_FINDERS = {trait: re.compile(rf"(?<![\w-])(?:{finder})(?![\w-])") for trait, finder in TRAITS.items()}


def traits_of(description: str) -> frozenset[str]:
    """Returns the traits in a description."""
    text = description.lower()
    return frozenset(trait for trait, finder in _FINDERS.items() if finder.search(text))
