"""Phrases for a person's style and for the lines of a profile. The first phrase of each tuple is the canonical one.

Canonical phrases of opposite levels differ by more than a negation: a small model confuses "full stops" and "no full
stops". Lengths have names too, since digits say little: "15" and "11" begin with one token.
"""

from __future__ import annotations

from usersim.text.style_bins import Level

Phrases = tuple[str, ...]

PREFACES: Phrases = (
    "You are a person typing to an AI assistant.",
    "You are a human chatting with an AI assistant.",
    "You are somebody who writes to an AI assistant.",
    "You are the human in a chat with an AI assistant.",
)
GOALS: Phrases = (
    "You want to {}.",
    "Your goal: to {}.",
    "You are here to {}.",
    "What you are after is to {}.",
    "You came to {}.",
)
FACETS: Phrases = (
    "What matters to you: {}.",
    "Details on your mind: {}.",
    "In particular: {}.",
    "You also have this in mind: {}.",
)
DESCRIPTIONS: Phrases = (
    "About you: {}.",
    "Who you are: {}.",
    "You, in short: {}.",
    "Your character: {}.",
)
STYLES: Phrases = (
    "How you write: {}.",
    "Your way of writing: {}.",
    "You write like this: {}.",
    "Your messages: {}.",
    "Your habits when typing: {}.",
)

COUNTED: dict[str, Phrases] = {
    "words_per_turn": (
        "{size} messages of around {n} words",
        "around {n} words a message",
        "about {n} words at a time",
        "roughly {n} words each time",
        "writes {words}",
        "usually {words}",
        "messages of {words}",
    ),
    "opening_words": (
        "a {size} opening of {n} words",
        "opens with {n} words",
        "a first message of about {n} words",
        "starts with {words}",
        "{words} to begin with",
        "opening: {words}",
    ),
    "turns": (
        "leaves after about {n} messages",
        "gone after {n} message{s} or so",
        "sends about {n} message{s} in all",
        "stops after {n} message{s}",
        "stays for roughly {n} message{s}",
    ),
}

SIZES: dict[int, str] = {4: "tiny", 8: "short", 15: "medium", 30: "lengthy", 70: "long"}
"""Name of a length by its upper limit in words."""
LONGEST = "huge"

LENGTH_WORDS: dict[int, str] = {
    2: "two or three words",
    4: "four words or so",
    6: "half a dozen words",
    8: "about eight words",
    11: "ten or eleven words",
    15: "fifteen words or so",
    20: "some twenty words",
    30: "about thirty words",
    45: "forty to fifty words",
    70: "some seventy words",
    110: "about a hundred words",
    180: "two hundred words or so",
}

LEVELLED: dict[str, dict[Level, Phrases]] = {
    "lowercase_starts": {
        "low": ("capital letters", "begins with capitals", "proper capitals", "capitalises as one should"),
        "middle": ("some capitals", "capitals now and then", "capitals only sometimes", "mixed capitals"),
        "high": ("all lower case", "no capitals", "never a capital letter", "lower case throughout"),
    },
    "end_punctuation": {
        "low": (
            "bare endings",
            "no full stops",
            "leaves off the full stop",
            "no punctuation at the end",
            "never ends with a dot",
        ),
        "middle": ("some full stops", "full stops now and then", "often forgets the full stop"),
        "high": (
            "full stops",
            "ends with punctuation",
            "full stops where they belong",
            "punctuates to the end",
        ),
    },
    "questions": {
        "low": (
            "statements only",
            "no questions",
            "does not ask questions",
            "no question marks",
            "rarely asks",
        ),
        "middle": ("some questions", "asks now and then", "a question here and there"),
        "high": ("asks questions", "mostly questions", "nearly always asks", "question after question"),
    },
    "politeness": {
        "low": (
            "matter-of-fact",
            "no pleases",
            "rarely says please",
            "no please and no thanks",
            "skips the courtesies",
        ),
        "middle": ("polite now and then", "says please sometimes", "an occasional thank you"),
        "high": ("polite", "says please and thank you", "courteous", "pleases and thanks"),
    },
    "typos": {
        "low": (),
        "middle": ("a few typos", "the odd typo", "mistypes now and then"),
        "high": ("many typos", "makes typos", "careless spelling", "hasty typing with slips"),
    },
    "imperatives": {
        "low": ("never commands", "no orders", "never opens with a command", "does not give commands"),
        "middle": (),
        "high": ("gives orders", "opens with a command", "bare commands", "commands, no preamble"),
    },
    "pushback": {
        "low": (),
        "middle": ("objects now and then", "sometimes says that an answer is wrong", "may disagree"),
        "high": (
            "objects often",
            "pushes back on answers",
            "quick to say that it is wrong",
            "hard to satisfy",
        ),
    },
    "chat_speak": {
        "low": (),
        "middle": ("some chat abbreviations", "an abbreviation here and there", "u or pls now and then"),
        "high": ("chat abbreviations", "writes u, pls, dont", "texts more than writes", "drops apostrophes"),
    },
    "first_person": {
        "low": ("never says I", "no I or my", "leaves themselves out of it"),
        "middle": (),
        "high": ("often says I", "speaks of themselves", "many an I and my"),
    },
    "expressive_marks": {
        "low": (),
        "middle": (
            "an exclamation mark or dots now and then",
            "the odd ! or ...",
            "marks of feeling sometimes",
        ),
        "high": ("exclamation marks and dots", "! and ... all over", "excited or trailing punctuation"),
    },
    "code_share": {
        "low": (),
        "middle": ("pastes a little code", "some code", "a snippet now and then"),
        "high": ("pastes code", "much of it code", "long snippets of code"),
    },
    "line_breaks": {
        "low": ("one line a message", "never a line break", "single lines"),
        "middle": (),
        "high": ("several lines a message", "breaks messages into lines", "line breaks and blocks"),
    },
    "length_spread": {
        "low": ("messages of even length", "each message as long as the last", "steady length"),
        "middle": (),
        "high": ("messages of very uneven length", "now long, now short", "length goes up and down"),
    },
}
"""Phrases by attribute and level. A level that is common or says little has no phrase and is left out."""

ACTS = {
    "objects": "You object to the answer.",
    "corrects": "You put right what you said.",
    "asks": "You ask about it.",
    "answers": "You answer the question.",
    "thanks": "You say thanks.",
}
"""Notes that announce the act of the next user turn."""
