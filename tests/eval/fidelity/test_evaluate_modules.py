import os

import numpy as np
import pytest

from eval.fidelity.metrics.hugging_face import plain_turns as turns
from eval.fidelity.metrics.texts.classifier import Classifier
from eval.fidelity.metrics.texts.marginals import Marginals
from usersim.errors import DataError


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evaluate = pytest.importorskip("evaluate")
    folder = os.path.dirname(turns.__file__)  # noqa: PTH120 - `evaluate` wants a string
    return lambda name: evaluate.load(f"{folder}/evaluate_{name}.py", cache_dir=str(tmp_path))


def test_profile(load):
    people = [["hi there", "ok"], ["Please help me with this."]]
    found = load("profile").compute(predictions=[["ok?", "no?"], ["Why not?"]], references=people)
    # All turns are questions, none of the people's; people's spread of zero counts as 0.05.
    assert found["questions.w1"] == pytest.approx(1 / 0.05)
    assert found["questions.jsd"] == pytest.approx(1.0)


def test_c2st(load):
    names = ("ann", "bob", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "jo")
    people = [[f"hi, i am {name}", "ok"] for name in names]
    loud = [[f"HI, I AM {name.upper()}", "OK"] for name in names]
    found = load("c2st").compute(predictions=loud, references=people, views=["text"])
    assert found == {"auc_text": 1.0}
    # The same words on both sides share a fold: none of them is scored by one that has read them.
    assert load("c2st").compute(predictions=people, references=people, views=["text"])["auc_text"] <= 0.5


def test_coverage(load):
    long = "could you please help me with the long letter that i have to write to my boss about"
    people = [["ok"], ["no"], ["go"], [f"{long} rain"], [f"{long} snow"], [f"{long} wind"]]
    module = load("coverage")
    # A short one lies in the balls of the three short people, each a neighbour of the other two.
    found = module.compute(predictions=[["hm"]] * 6, references=people, neighbours=2)
    assert found == pytest.approx({"coverage": 0.5, "density": 1.5, "density_gap": np.log2(1.5)})


def test_diversity(load):
    people, same = [["a b c"], ["d e f"]], [["a b c"], ["a b c"]]
    found = load("diversity").compute(predictions=same, references=people)
    # Word pairs: 2 kinds of 4 against 4 of 4.
    assert found["distinct_2"] == pytest.approx(1.0)
    assert set(found) == {"distinct_2", "vendi_text", "similarity_text"}


@pytest.mark.parametrize(
    ("simulated", "human", "message"),
    [
        ([], [], "no simulated conversations"),
        ([["a"]], [["a"], ["b"]], "equally many"),
        ([["a"], []], [["a"], ["b"]], "simulated conversation 2 has no user turn"),
    ],
)
def test_what_cannot_be_compared_is_said(simulated, human, message):
    with pytest.raises(DataError, match=message):
        turns.values(Marginals(), simulated, human)


def test_nothing_measured_is_an_error_and_not_an_empty_answer():
    # One matter on both sides: no classifier can be trained without it.
    with pytest.raises(DataError, match=r"cannot be measured.*text classifier"):
        turns.values(Classifier("text"), [["a b"]], [["a b"]])


def test_single_turns_have_no_variation_rather_than_none():
    found = turns.values(Marginals(), [["a"], ["b"]], [["a"], ["b"]])
    assert "word_variation.w1" not in found
    assert not np.any(list(found.values()))
