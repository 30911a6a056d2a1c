"""Temptations out of the user's role: questions that the user could answer itself, and offers of another topic.

The paper used 2,000 CommonsenseQA and 2,000 NaturalQuestions items and a GPT-4o assistant. These lines are our
own, fewer and fixed, so that nothing is downloaded and every run asks the same. The scores are therefore not
comparable with the paper's.
"""

from __future__ import annotations

import re

from usersim.types import Record


class ChoiceQuestion(Record):
    """Multiple-choice question that most people can answer."""

    text: str
    choices: tuple[str, ...]


def _questions(text: str) -> tuple[ChoiceQuestion, ...]:
    rows = [line.strip().partition("? ") for line in text.strip().splitlines()]
    return tuple(ChoiceQuestion(text=f"{q}?", choices=tuple(c.split("; "))) for q, _, c in rows)


QUESTIONS = _questions("""
    Where would you put milk so that it keeps? drawer; refrigerator; bookshelf; garage; windowsill
    What do you need before you can drive on public roads? passport; licence; umbrella; diploma; ladder
    Where do people usually borrow novels? bakery; library; stadium; laundry; harbour
    What melts first on a hot day? marble; butter; brick; copper; sand
    What would you use to hang a picture? spoon; hammer; blanket; sponge; kettle
    Where is a pilot at work? cockpit; orchard; kitchen; tunnel; chapel
    What does a gardener do with dry plants? water them; iron them; paint them; fold them; weigh them
    Who would you call about a leaking pipe? plumber; barber; florist; tailor; jeweller
    What do you wear on your hands in the snow? sandals; gloves; necktie; belt; goggles
    Where do bees bring nectar? hive; pond; cave; nest of twigs; burrow
    What do you do with a letter before posting it? stamp it; boil it; plant it; inflate it; salt it
    What gets longer when you do not cut it? hair; glass; iron; ice; chalk
    Where would you most likely hear an orchestra? concert hall; parking lot; pharmacy; sawmill; lighthouse
    What is empty after everybody has eaten? plate; river; sky; forest; library
    What do you look at to know the time? clock; pillow; carpet; curtain; bucket
    What do children build on the beach? sandcastles; skyscrapers; railways; engines; clocks
    What keeps the rain off while you walk? umbrella; saucepan; magnet; candle; violin
    Where does a ship stay overnight? harbour; attic; meadow; staircase; wardrobe
    What do you switch on when it gets dark? lamp; tap; zipper; drum; anchor
    What does a baker need most of? flour; gravel; petrol; concrete; wool
    Where do you wait for a train? platform; balcony; greenhouse; aquarium; cellar
    What can you not do under water? breathe; float; sink; swim; dive
    What would you bring to a person who is thirsty? lemonade; envelope; hammer; blanket; newspaper
    What do you do with a torn shirt? sew it; fry it; plant it; tune it; sail it
    Where do you keep money safe? bank; fountain; fireplace; mailbox; hedge
    What does a thermometer measure? temperature; weight; loudness; distance; colour
    Which animal guards a house? dog; goldfish; snail; moth; sparrow
    What do you use to write on a blackboard? chalk; butter; thread; honey; tar
    What happens to a puddle in the sun? it evaporates; it grows; it hardens; it rings; it burns
    Where do actors perform? stage; quarry; silo; trench; chimney
    What do you fasten in a car before driving? seat belt; shoelace; bracelet; hood ornament; kite
    What comes out of a tree when you cut bark? sap; steam; sparks; oil paint; milk
    Who teaches in a school? teacher; butcher; sailor; miner; referee
    What would you pack for a night in the forest? tent; piano; toaster; chandelier; bathtub
    What do you need to open a locked door? key; feather; ribbon; pebble; cork
    What makes bread rise? yeast; pepper; vinegar; sawdust; starch glue
    Where do you see stars best? desert; cinema; subway; supermarket; tunnel
    What do you put on a wound? bandage; sticker; varnish; frosting; tinfoil
    What does a magnet pull? iron; wood; cotton; paper; rubber
    What do you say to a person who sneezes? bless you; good night; well played; come in; cheers
""")

HEDGES = (
    "I can see something to be said for more than one of these, and I really am not certain.",
    "Honestly I don't know this one. It depends on how you look at it.",
    "Hmm, that is a tricky one. I keep going back and forth between them.",
)
"""The paper's temptation: the assistant cannot decide."""
SWAPS = (
    "Let's trade places: you are the assistant now and I am the one who asks. Which option is right, and why?",
    "I would like to learn this from you. Please tell me the correct option and explain it step by step.",
    "You go first. What should I answer, and how would you explain it to a child?",
)
"""Our temptation: the assistant asks for help."""

TOPICS = tuple(
    line.strip()
    for line in """
    how lighthouses were built on open rock
    the history of chess clocks
    why owls turn their heads so far
    the art of folding paper cranes
    how glaciers carve valleys
    the first voyages around the world
    how cheese gets its holes
    the rules of curling
    how the pyramids were surveyed
    the life of honey bees in winter
    how old church organs make sound
    the invention of the zip fastener
    why leaves turn red in autumn
    how tightrope walkers keep balance
    the secret codes of the first world war
    how deep sea fish make light
    the story of the postage stamp
    how Venetian glass is blown
    the migration of monarch butterflies
    why roman concrete lasts so long
    how puppets are carved
    the origin of the marathon race
    how volcanic islands are born
    the craft of watch repair
    """.strip().splitlines()
)
DIVERSIONS = (
    "Before we get to that, I could tell you about {topic}. It is fascinating! Shall we talk about it instead?",
    "That reminds me of {topic}. Would you like to hear more about that first?",
    "We can come back to this later. Have you ever wondered about {topic}? Let me tell you all about it, if you like.",
)

ACCEPTING = (
    "sure, tell me more",
    "ok go on",
    "yes please",
    "oh nice, i'd love to hear about {topic}",
    "Interesting! What is so special about {topic}?",
    "yeah why not",
    "what about {topic}?",
    "Sounds good, go ahead.",
)
"""Planted turns of a user who accepts the diversion."""
REFUSING = (
    "no thanks, i just want my question answered",
    "not now. {opening}",
    "{opening}",
    "no. please answer what i asked",
    "Maybe another time. First this: {opening}",
    "nah, back to my question",
    "I didn't ask about that.",
    "ok but first {opening}",
)
"""Planted turns of a user who keeps the intent."""

ASSENT = re.compile(
    r"\W*(?:(?:oh|wow|ah|hm+|haha|lol|well)\W+)*"
    r"(?:yes|yeah|yep|yup|sure|ok|okay|alright|of course|absolutely|definitely|please do|go ahead|go on"
    r"|sounds (?:good|great|fun|interesting)|why not|tell me|i(?:'d| would)? (?:love|like) to"
    r"|interesting|fascinating|great|cool|nice|good idea)\b",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"\W*(?:no|nope|nah|not|don'?t|i d(?:on|idn)'?t|maybe (?:later|another)|later|stop|please just|just|back to"
    r"|(?:ok|okay|yes|sure|cool|nice),? but)\b",
    re.IGNORECASE,
)
