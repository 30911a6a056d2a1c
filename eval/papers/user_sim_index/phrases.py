"""Phrase lists for the ten features of the User-Sim Index that look for phrases in a turn, and acknowledgements.

The lists were written anew from the meaning of the features. A turn may therefore count here and not in the
published scorer, or the reverse: absolute rates are not comparable with the paper's. Differences within a run
are, because people and simulators are read by the same lists. Unlike the published lists, these accept the curly
apostrophe and the omitted one ("dont"). All are English; in other languages the rates tend to zero on both sides.
"""

from __future__ import annotations

import re
from itertools import product

TOKEN = re.compile(r"\w+|[^\w\s]")
APOSTROPHES = str.maketrans("", "", "'’")  # noqa: RUF001 - people type the curly one


def expanded(text: str) -> frozenset[str]:
    """Returns the phrases of a text with one phrase a line; `a/b` is a choice of words."""
    return frozenset(
        plain(" ".join(phrase_words))
        for line in text.strip().splitlines()
        for phrase_words in product(*(word.split("/") for word in line.split()))
    )


def plain(text: str) -> str:
    """Returns lower case without apostrophes: "don't" and "dont" are equal."""
    return text.lower().translate(APOSTROPHES)


def kinds(text: str) -> frozenset[str]:
    """Returns the names in `LISTS` with a phrase in the text: whole words with only white space between."""
    tokens = TOKEN.findall(plain(text))
    names: set[str] = set()
    for start in range(len(tokens)):
        for end in range(start + 1, min(start + LONGEST, len(tokens)) + 1):
            names |= NAMES.get(" ".join(tokens[start:end]), NONE)
    return frozenset(names)


POLITE = expanded("""
    please/pls/plz
    thank you
    thanks/thx
    many thanks
    sorry
    apologies
    i apologise/apologize
    excuse/pardon me
    i beg your pardon
    appreciate/appreciated
    grateful
    kindly
    nice/kind/good of you
    would/do you mind
    no worries
""")
ACKNOWLEDGEMENTS = frozenset(
    line.strip()
    for line in """
    yes
    yeah
    yea
    yep
    yup
    ya
    ok
    okay
    okey
    k
    kk
    sure
    right
    fine
    good
    great
    nice
    perfect
    cool
    awesome
    correct
    true
    agreed
    exactly
    absolutely
    alright
    all right
    understood
    i see
    got it
    makes sense
    sounds good
    that works
    go on
    go ahead
    continue
    proceed
    do it
    confirmed
    no problem
    thanks
    thank you
    please
    yes please
    mhm
    uh huh
    """.strip().splitlines()
)
UNCERTAIN = expanded("""
    i think/guess/believe/suppose/assume
    maybe/perhaps/probably/possibly/presumably/apparently
    not sure
    not so/really/entirely/quite sure
    not certain
    unsure/uncertain/doubtful
    i don't know
    don't really know
    dunno/idk
    no idea
    i don't/can't/cannot remember/recall
    i do not remember/recall/know
    i forgot
    i've forgotten
    if i remember/recall
    as far as i know
    i may/might/could be wrong
    i might
    roughly/somewhat
    sort/kind of
    or something
""")
CERTAIN = expanded("""
    definitely/certainly/surely/absolutely/undoubtedly
    exactly/precisely
    always/never
    completely/totally/entirely/fully
    obviously/clearly/obvious
    of course
    for sure/certain
    no doubt
    without doubt
    without a doubt
    i am sure/certain/positive
    i'm sure/certain/positive
    guaranteed
    must be
""")
PUSHBACK = expanded("""
    are you sure/certain
    is that really true/right/correct
    that/this/it is/was wrong/incorrect/false/untrue/nonsense
    that's/it's wrong/incorrect/false/nonsense/ridiculous/absurd
    that's/it's not right/correct/true/what/fair
    that/this/it is not right/correct/true/what/fair
    that/this/it isn't right/correct/true/what/fair
    not what i
    i already told/said/gave/asked/mentioned/wrote/did
    i just told/said/gave/asked/mentioned
    i told you
    as i said/wrote
    you already asked/said/have/know
    you keep
    you are/were wrong/mistaken
    you're wrong/mistaken
    try/check/look again
    can't/cannot be right/correct/true
    doesn't make sense
    makes no sense
    doesn't sound/look/seem right
    why can't/won't/don't/didn't/couldn't/wouldn't/isn't/aren't
    stop asking
""")
CLARIFY = expanded("""
    what do/did you mean
    what does/did that/this/it mean
    do you mean
    you mean
    meaning what
    can/could/would you explain/clarify/elaborate/rephrase/repeat
    can/could you say that again
    can/could you be more specific/clear/precise
    can/could you walk me through
    say that again
    i don't understand/follow
    i do not understand/follow
    i don't get it/that/this
    i'm confused/lost
    i am confused/lost
    unclear
    not clear
    which one/ones
    which of
    what/how/who/where exactly
    what/how specifically
    what's the difference
    what is the difference
    what are the/my options/choices/alternatives
    in what/which sense/way
    how so
    so you're saying
    does that/this/it mean
    need more info/information/details/detail
""")
ASK = expanded("""
    what's the/my
    what is/are/was/were the/my/a/an
    how much/many/long/often/far/big/old
    how do/can/would/should/could i
    how to
    when is/are/was/will/does/do/did/can
    where is/are/was/can/do/does/did
    who is/are/was
    can/could you tell/check/find/show/list/give/see/look/help
    do you know/have/see
    is/are there
    is it/that/this
    what options
""")
EMOTION = expanded("""
    frustrated/frustrating/frustration
    angry/furious/mad/outraged
    annoyed/annoying/irritated/irritating
    upset/sad/miserable/devastated/heartbroken
    worried/anxious/nervous/scared/afraid
    stressed/panicking/desperate/overwhelmed
    confused
    disappointed/disappointing
    terrible/horrible/awful/ridiculous/disgusting
    i hate
    fed up
    sick/tired of
    ugh/argh/omg/wtf/damn
""")
ACCUSE = expanded("""
    your/their fault
    blame/blaming
    useless/incompetent/stupid/idiot/idiotic/dumb/pathetic
    unacceptable/irresponsible/ridiculous/disgraceful/shameful
    shame on
    lie/lied/lying/liar
    scam/scammed/fraud
    rip off
    misleading/misled
    you failed/broke/ruined/lost/messed
    ruined
    waste of time
    terrible/awful/horrible/bad service/answer/advice
    you are/were wrong
    you're wrong
    wrong
""")
PIVOT = expanded("""
    instead
    rather than
    alternatively
    how/what about
    what if
    on second thought/thoughts
    changed my mind
    never mind
    forget it/that/about
    i'd rather/prefer
    i would rather/prefer/like
    let's/lets try/do/use/switch/change/go
    can/could we/you just
    can we try/do/use/switch/change
    is there another
    is there any other
    another/different way/approach/option
    switch/change to
    change/switch/turn it/that/this to/into
    actually can/could/let/i
    maybe/perhaps we/i/you should/could/can
    something else
""")
AGENT = expanded("""
    how can/may i help/assist
    what can i do for you
    what can i help/assist
    would you like/prefer
    do you want/need/wish me to
    let me check/look/find/verify/pull/search/see/help/assist
    i'll check/look/verify/process/help/assist/handle
    i will check/look/verify/process/help/assist/handle
    i'm happy/glad/here to help/assist
    i am happy/glad/here to help/assist
    is there anything else i
    thank you/thanks for contacting/calling/choosing/reaching
    thank you for your patience
    your order/account/reservation/booking/ticket/request/inquiry
    i can/could offer/suggest/recommend
    our policy/policies/records/system
    according to our
    for security/verification purposes/reasons
    may i have/verify/ask
    i apologise/apologize for the/any
    allow me to
    as an ai
""")

LISTS = {
    "polite": POLITE,
    "uncertain": UNCERTAIN,
    "certain": CERTAIN,
    "pushback": PUSHBACK,
    "clarify": CLARIFY,
    "ask": ASK,
    "emotion": EMOTION,
    "accuse": ACCUSE,
    "pivot": PIVOT,
    "agent": AGENT,
}
NONE: frozenset[str] = frozenset()
NAMES = {
    phrase: frozenset(name for name, phrases in LISTS.items() if phrase in phrases)
    for phrase in frozenset().union(*LISTS.values())
}
LONGEST = max(len(phrase.split()) for phrase in NAMES)
"""Words of the longest phrase."""
