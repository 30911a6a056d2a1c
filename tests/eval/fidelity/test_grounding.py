import numpy as np
import pytest

from eval.fidelity.metrics.interaction.grounding import ROWS, Grounding, tally
from eval.fidelity.metrics.interaction.user_acts import USER_ACTS, user_act
from eval.fidelity.samples.events import assistant_acts, exchanges, is_english
from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, Split
from usersim.types import Conversation, Persona, Turn, UserProfile

PASTA = (
    "What should I cook for six people on Sunday evening?",
    "Lasagne feeds six: layer pasta sheets, ragout and bechamel, then bake for forty minutes.",
)
WHICH = (
    "Help me choose a present for my sister",
    "Happy to help! How old is she, and what does she enjoy?",
)

USER = [
    ("followup", PASTA, "How long does the ragout have to simmer?"),
    ("followup", PASTA, "Add a vegetarian version"),
    ("followup", PASTA, "continue"),
    ("followup", PASTA, "please go on"),
    ("followup", PASTA, "shorter"),
    ("followup", PASTA, "with a shopping list"),
    ("followup", PASTA, "ok now write it as a table"),
    ("followup", PASTA, "I want something with less cheese, for children"),
    ("followup", PASTA, "What about a dessert?"),
    ("followup", PASTA, "can i freeze the lasagne"),
    ("followup", PASTA, "Thanks! Now give me a wine to go with it"),
    ("clarification", PASTA, "What do you mean by bechamel?"),
    ("clarification", PASTA, "what is that"),
    ("clarification", PASTA, "I don't understand the layers"),
    ("clarification", PASTA, "So you're saying the sheets go in raw?"),
    ("clarification", PASTA, "Which one goes first?"),
    ("clarification", PASTA, "huh?"),
    ("clarification", PASTA, "Does that mean I need a big oven?"),
    ("clarification", PASTA, "could you be more specific"),
    ("repair", PASTA, "No, I said six people, not four"),
    ("repair", PASTA, "That's not what I asked for"),
    ("repair", PASTA, "you forgot the salt"),
    ("repair", PASTA, "this is wrong, lasagne needs longer"),
    ("repair", PASTA, "still doesn't work"),
    ("repair", PASTA, "I asked for something quick"),
    ("repeat", PASTA, "What should I cook for six people on Sunday evening?"),
    ("repeat", PASTA, "what should I cook for six people on sunday evening"),
    ("repeat", PASTA, "So what should I cook for six people on Sunday evening?"),
    ("followup", ("shorter", "Lasagne."), "shorter"),
    ("followup", ("7 times 12 is what", "84."), "7 times 13 is what"),
    ("repair", PASTA, "That is a wrong answer. Try again."),
    ("repair", PASTA, "Sorry, I meant a dish for children"),
    ("topic switch", PASTA, "Write a python function to parse dates from log files"),
    ("topic switch", PASTA, "Who won the football championship in Brazil?"),
    ("topic switch", PASTA, "Different question: is my landlord allowed to raise the rent?"),
    ("topic switch", PASTA, "forget about that, explain inflation"),
    ("acknowledgement", PASTA, "thanks!"),
    ("acknowledgement", PASTA, "ok great"),
    ("acknowledgement", PASTA, "Got it, thank you so much"),
    ("acknowledgement", PASTA, "That makes sense."),
    ("acknowledgement", PASTA, "wow, awesome"),
    ("next turn", PASTA, "My oven is rather small and the lasagne dish does not fit"),
    ("next turn", PASTA, "I cooked lasagne last Sunday already and the guests were happy"),
    ("next turn", WHICH, "She is thirty and collects old maps of the moon"),
    ("next turn", WHICH, "thirty, likes chess"),
    ("next turn", WHICH, "yes"),
]


@pytest.mark.parametrize(("act", "before", "reply"), USER)
def test_acts_of_the_person(act, before, reply):
    conversation = talk(*before, reply, "Fine.")
    assert user_act(exchanges(conversation)[0]) == act


ASSISTANT = [
    ({"asks"}, "Sure! Which language should the script be in?"),
    ({"asks"}, "I can look at it. Please provide the error message and the file."),
    ({"asks"}, "Hello! How can I help you today?"),
    ({"asks"}, "Let me know what size of dish you have."),
    ({"answers"}, "Paris is the capital of France. Is there anything else you would like to know?"),
    ({"answers"}, "Bake for forty minutes. Let me know if you have any other questions!"),
    ({"answers"}, "1. Who discovered radium?\n2. When was it first isolated?"),
    ({"answers"}, "Why did the chicken cross the road? To get to the other side."),
    ({"refuses"}, "I'm sorry, but I can't help with picking locks."),
    ({"refuses"}, "As an AI language model, I don't have access to your calendar."),
    ({"refuses"}, "I am unable to open links. The page would have to be pasted here."),
    ({"refuses"}, "That request goes against the content policy."),
    ({"refuses"}, "Unfortunately I cannot draw pictures; here is a description instead."),
    ({"answers"}, "You cannot divide by zero, so the result is undefined."),
    ({"errs"}, "I apologize for the confusion. The year was 1969."),
    ({"errs"}, "You're right, there are two r's in it. Here is the corrected word."),
    ({"errs"}, "My mistake! The loop has to start at one."),
    ({"errs"}, "Sorry about that. Here is the full list."),
    ({"errs"}, "Thank you for pointing that out, the unit should be metres."),
    ({"offers"}, "Here are some options: a book, a map, a chess set."),
    ({"offers"}, "There are several ways to do this. First, with a loop; second, with a map."),
    ({"offers"}, "The trip takes two hours. I can also look up trains if you like."),
    ({"offers", "asks"}, "Done. Would you like me to add tests?"),
    ({"offers", "asks"}, "It is ready. Do you prefer a table or plain text?"),
    ({"refuses", "asks"}, "I can't open attachments. Could you paste the text here?"),
    ({"answers"}, "The sky is blue because short waves scatter more."),
]


@pytest.mark.parametrize(("acts", "text"), ASSISTANT)
def test_acts_of_the_assistant(acts, text):
    assert assistant_acts(text) == acts


def talk(*texts: str, ended_by="user", id_="x", language="en") -> Conversation:
    """The person begins; turns alternate."""
    turns = [Turn(role="assistant" if index % 2 else "user", text=text) for index, text in enumerate(texts)]
    return Conversation(
        id=id_,
        origin="human",
        source="t",
        turns=tuple(turns),
        ended_by=ended_by,
        profile=UserProfile(persona=Persona(language=language)),
    )


def test_an_exchange_knows_what_came_before_and_what_followed():
    first, second = exchanges(talk("a", "b", "no, that's wrong", "c"))
    assert (first.user_turns, first.answers, first.reply, first.is_left) == (
        ("a",),
        ("b",),
        "no, that's wrong",
        False,
    )
    assert (second.user_turns, second.reply, second.is_left) == (("a", "no, that's wrong"), None, True)
    # The second answer is to an objection.
    assert (first.acts, second.acts) == ({"answers"}, {"errs"})


def test_leaving_is_unknown_where_a_cap_cut():
    (only,) = exchanges(talk("a", "b", ended_by="turn_cap"))
    assert only.is_left is None
    assert exchanges(talk("an unanswered question")) == ()


def test_an_exchange_without_a_reply_has_no_act():
    with pytest.raises(ValueError, match="without a reply"):
        user_act(exchanges(talk("a", "b"))[0])


def test_other_languages_are_left_out():
    german = "kannst du mir bitte ein rezept mit kartoffeln und zwiebeln für heute abend schreiben"
    assert not is_english(talk(german, "Gerne."))
    assert exchanges(talk(german, "Gerne.")) == ()
    assert not is_english(talk("hello", "hi", language="fr"))
    assert is_english(talk("hello there", "hi"))


def test_rates_weigh_conversations_alike():
    long = talk("cook something", "Lasagne.", "thanks", "Welcome.", "continue", "More.")
    short = talk("cook something", "Lasagne.", "thanks", "Welcome.", id_="y")
    rates = tally(Sample.of([long, short])).rates(np.ones((1, 2)))[0].reshape(len(ROWS), len(USER_ACTS))
    # One of two turns of the first, the only one of the second: (1/2 + 1) / 2.
    assert rates[0][USER_ACTS.index("acknowledgement")] == pytest.approx(0.75)
    assert rates[0][USER_ACTS.index("followup")] == pytest.approx(0.25)


def people(n: int, reply: str, answer: str = "Lasagne.") -> Sample:
    return Sample.of([talk("cook something", answer, reply, "Fine.", id_=str(i)) for i in range(n)])


def ones(n: int) -> Draws:
    return Draws(np.ones((2, n)), np.ones((2, n)))


def test_total_variation_by_hand():
    # Humans: 12 acknowledge, 12 go on. Simulated: all go on. Half of the turns would have to change.
    human = Sample.of([*people(12, "thanks").conversations, *people(12, "continue").conversations])
    simulated = people(24, "continue")
    found = Grounding().measure(simulated, human, pool=human, draws=ones(24))
    assert found["grounding.rates"].value == pytest.approx(0.5)
    assert found["grounding.transitions"].value == pytest.approx(0.5)
    assert found["grounding.rates"].replicates.tolist() == pytest.approx([0.5, 0.5])


def test_transitions_see_what_rates_do_not():
    asks = "Which dish do you have?"
    human = Sample.of(
        [*people(12, "thanks", asks).conversations, *people(12, "continue", "Lasagne.").conversations]
    )
    swapped = Sample.of(
        [*people(12, "continue", asks).conversations, *people(12, "thanks", "Lasagne.").conversations]
    )
    found = Grounding().measure(swapped, human, pool=human, draws=ones(24))
    assert found["grounding.rates"].value == pytest.approx(0.0)
    assert found["grounding.transitions"].value == pytest.approx(1.0)


def test_what_the_data_cannot_give_is_left_out_and_nan_in_the_floor():
    silent = Sample.of([talk("cook something", "Lasagne.", id_=str(i)) for i in range(24)])
    assert Grounding().measure(silent, people(24, "ok"), pool=people(24, "ok"), draws=ones(24)) == {}
    split = Split(np.arange(12), np.arange(12, 24))
    assert np.isnan(Grounding().floor(silent, [split])["grounding.rates"]).all()
    assert Grounding().floor(people(24, "ok"), [split])["grounding.rates"].tolist() == [0.0]


def test_curves_have_a_bar_for_every_act():
    plain, *after = Grounding().curves(people(24, "continue"), people(24, "thanks"), draws=ones(24))
    assert plain.x == USER_ACTS
    assert plain.categories
    assert plain.human[USER_ACTS.index("acknowledgement")].value == 1.0
    assert plain.simulated[USER_ACTS.index("acknowledgement")].value == 0.0
    # No person was asked, refused or offered anything.
    assert [curve.key for curve in after] == ["grounding.answers"]
