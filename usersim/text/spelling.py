"""Typo detection for English prose: unknown words at an edit distance of one from a common word.

The dictionary is the English one inside `pyspellchecker`, loaded on first use (0.3 s, 60 MiB).
"""

from __future__ import annotations

import logging
import re
from functools import cache

log = logging.getLogger(__name__)


def word_set(words: str) -> frozenset[str]:
    """Returns the set of whitespace-separated words."""
    return frozenset(words.split())


COMMON = 20_000
"""Number of most frequent dictionary words, of four letters or more, that a typo can come from."""
SHORTEST = 4
REMEMBERED = 500_000
"""Number of tokens whose marks are cached, so that memory stays bounded."""

LOWER_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
FOREIGN_WORD = re.compile(r"[^\W\d_]+")
EDGES = "\"'()[]{}“”‘’«»*_.,!?:;…`~"  # noqa: RUF001
OTHER_SPELLINGS = (
    ("our", "or"), ("is", "iz"), ("ys", "yz"), ("tre", "ter"), ("bre", "ber"), ("lled", "led"), ("lling", "ling"),
    ("ller", "ler"), ("ogue", "og"), ("ae", "e"), ("oe", "e"), ("mme", "m"), ("ence", "ense"), ("wards", "ward"),
)  # fmt: skip
"""British and American spelling; the dictionary has the American one."""
CHAT = word_set(
    "u r ur n k y ya yea yeah yep yup nah pls plz plss plzz thx thnx tnx tysm ty thanx im ive youre "
    "theyre dont cant wont didnt doesnt isnt arent wasnt couldnt shouldnt wouldnt havent hasnt thats "
    "whats theres heres hows wanna gonna gotta kinda sorta gimme lemme dunno cuz coz cos bc b4 idk btw "
    "lol lmao omg tho thru tbh imo lmk ppl msg abt bro wtf nvm brb gud wat wut dat dis hv bcz bcoz smth "
    "sth w/o w/"
)
"""Abbreviations of chat and dropped apostrophes; never typos."""
FIRST_PERSON = word_set("i i'm i've i'd i'll im ive my mine myself")
"""First-person words. "me" is left out, since "give me" and "tell me" are not informative."""
NOT_TYPOS = word_set(
    "ajax alles analytics api apis args argv async auth axios backend backends bash blockchain bool "
    "boolean booleans bootcamp bundler cafe carb carbs char chatbot chatbots chmod chown codec codecs "
    "codebase colab conda config configs const cors cout covid cron crypto css csv cyber dataframe "
    "dataset datasets datetime defi denim dev devs dict dicts dist div divs docx downloader dropdown "
    "dtype ebook ebooks ecommerce elif elven email emails emoji emojis enum enums eval excel expr fetch "
    "financials fintech foreach forex frontend func getter getters gmail gpus graphql grep gzip hardcode "
    "hashtag hashtags hotkey html https iframe impactful influencer influencers init insta instagram ipad "
    "iphone jira jquery json jupyter kanban lambda learnings lexer linkedin linq logit lookup lookups "
    "markdown metaverse microservice middleware mins minecraft mixin mixins modal mutex namespace "
    "natively nginx node nodejs numpy oauth onboarding outro pandas param params passwd pdfs perceptron "
    "plugin podcast postgres prefetch preload printf prompt prompts pytorch qubit qubits rebase "
    "recommender reddit redis refactor regex repo repos roadmap runtime saas sass scala schema schemas "
    "serverless setter setters shader shaders sharding spotify stablecoin startup startups stdin stdout "
    "storytelling strategize strategise struct structs subnet sudo tailwind timeline timelines todo todos "
    "toolbar tuple tuples tweets tweet typescript uber umami unary untrusted uploader utils venv vitro "
    "webapp webpage webpages webpack webhook wget whatsapp widget wifi wiki yaml yoga zoom zillow "
    "pinterest moodle ideate bolded haha hehe upskill upskilling apps tech admin admins intro maths stat "
    "popup popups url urls meme memes diff modulo stateful cafes tbsp subnets versa resize resizes "
    "pretrained attaches manga modding compositing trans unix macos ctrl keras gradle bestie addon incl "
    "algo desc noir orcs meth grpc "
    "fulfil fulfils fulfilment enrol enrols enrolment instil skilful wilful"
)
"""Words newer than the dictionary that are one letter away from an older word."""


@cache
def dictionary() -> tuple[frozenset[str], frozenset[str], frozenset[str]] | None:
    """Returns all words, common words, and common words less one letter; None if the package is missing."""
    try:
        from spellchecker import SpellChecker
    except ImportError:
        log.warning("typos are not measured: run `pip install pyspellchecker`")
        return None
    counts = SpellChecker(language="en").word_frequency.dictionary
    ranked = sorted(
        (word for word in counts if len(word) >= SHORTEST and word.isalpha()), key=lambda w: -counts[w]
    )
    common = ranked[:COMMON]
    return (
        frozenset(counts),
        frozenset(common),
        frozenset(less for word in common for less in _less_one(word)),
    )


def _less_one(word: str) -> set[str]:
    return {word[:index] + word[index + 1 :] for index in range(len(word))}


def is_known(word: str) -> bool:
    """Returns True if a lower-case word, with or without 's, is in the dictionary or the lists here."""
    loaded = dictionary()
    if loaded is None or word in CHAT:
        return True
    stem = word.removesuffix("'s")
    return word in loaded[0] or stem in loaded[0] or stem in NOT_TYPOS


def is_typo(word: str) -> bool:
    """Returns True for an unknown word of four letters or more that is one edit away from a common word."""
    loaded = dictionary()
    if loaded is None or len(word) < SHORTEST or not word.isalpha() or is_known(word):
        return False
    all_words, common, less = loaded
    shorter = _less_one(word)
    slipped = word in less or not shorter.isdisjoint(common) or not shorter.isdisjoint(less)
    return slipped and not _other_spelling(word, all_words)


def _other_spelling(word: str, all_words: frozenset[str]) -> bool:
    """Returns True if the dictionary has the American spelling of the word: "colour", "organise", "fulfil"."""
    return any(
        word[:start] + american + word[start + len(british) :] in all_words
        for british, american in OTHER_SPELLINGS
        for start in range(2, len(word) - len(british) + 1)
        if word.startswith(british, start)
    )


class Marks(dict[str, str]):
    """Cache of marks per whitespace-separated token: a string of the letters below.

    w: lower-case word (its typos are counted), u: unknown word, t: typo, c: chat speak, f: first person, x: lower-case
    word with other letters than a-z. Capitalised words, numbers, addresses and code have no mark.
    """

    def __missing__(self, token: str) -> str:
        marks = _marks(token)
        if len(self) >= REMEMBERED:
            self.clear()
        self[token] = marks
        return marks


def _marks(token: str) -> str:
    if len(token) > 30 or "`" in token:
        return ""
    core = token.strip(EDGES).replace("’", "'")  # noqa: RUF001
    folded = core.lower()
    marks = ("c" if folded in CHAT else "") + ("f" if folded in FIRST_PERSON else "")
    if core != folded:
        return marks
    if LOWER_WORD.fullmatch(core):
        return marks + ("w" if is_known(core) else "wut" if is_typo(core) else "wu")
    return marks + "x" if FOREIGN_WORD.fullmatch(core) else marks
