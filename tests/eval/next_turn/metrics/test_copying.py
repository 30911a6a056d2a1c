"""Runs of eight words that a turn shares with the true turn or with training turns."""

from eval.next_turn.metrics.copying import Copying, most_alike
from eval.next_turn.prefixes import Prefix
from usersim.types import Conversation, Goal, Turn

TRUE = "please tell me which of the two red bikes is lighter"
TRAINING = Conversation(
    id="t",
    source="invented",
    origin="human",
    turns=(
        Turn(role="user", text="One two three four five six seven eight nine"),
        Turn(role="assistant", text="a b c d e f g h i j"),
    ),
)


def prefix(
    name: str, text: str | None, *, position: int = 1, goal: Goal | None = None, history: str = ""
) -> Prefix:
    turns = (Turn(role="user", text=history), Turn(role="assistant", text="Yes.")) if history else ()
    return Prefix(
        id=f"{name}@{position}",
        conversation=name,
        cluster=name,
        source="invented",
        position=position,
        history=turns,
        goal=goal,
        text=text,
    )


def test_runs_of_the_true_turn():
    plain = prefix("a", TRUE)
    quoted = prefix("b", TRUE, history=TRUE, position=2)
    read_out = prefix("c", TRUE, goal=Goal("choose", facets=[TRUE]))
    seven = "please tell me which of the two blue bikes is lighter"
    texts = ["so, Please tell me which of the two red ones", seven, TRUE, TRUE]
    values = Copying().values([plain, plain, quoted, read_out], texts)
    assert values["copying.reference"].numerator_P.tolist() == [1, 0, 0, 0]
    assert values["copying.reference"].denominator_P.tolist() == [1, 1, 1, 1]
    assert list(values) == ["copying.reference"]


def test_runs_of_training_users():
    metric = Copying([TRAINING])
    texts = [
        "say two three four five six seven eight nine",
        "a b c d e f g h i j",
        "two three four five six seven eight",
    ]
    values = metric.values([prefix("a", "x")] * 3, texts)
    # Answers of the training split are not what its users wrote; seven words are no run.
    assert values["copying.training"].numerator_P.tolist() == [1, 0, 0]
    assert [spec.key for spec in metric.specs] == ["copying.reference", "copying.training"]
    assert Copying([]).values([prefix("a", "x")], texts[:1])["copying.training"].numerator_P.tolist() == [0]


def test_people_are_compared_with_another_person():
    same = f"{TRUE} and cheaper"
    prefixes = [
        prefix("a", TRUE),
        prefix("b", same),
        prefix("c", "a short one"),
        prefix("d", "alone at its position", position=2, history="hello"),
    ]
    assert most_alike(prefixes)[:2] == [same, TRUE]
    assert most_alike(prefixes)[3] is None
    values = Copying([TRAINING]).people(prefixes)
    assert values["copying.reference"].numerator_P.tolist() == [1, 1, 0, 0]
    assert values["copying.reference"].denominator_P.tolist() == [1, 1, 1, 0]
    assert values["copying.training"].numerator_P.tolist() == [0, 0, 0, 0]
