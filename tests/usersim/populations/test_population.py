"""Populations of users: fitted to people made here, drawn from, compared."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import usersim
from usersim.cli import run_main
from usersim.commands.population import main
from usersim.errors import ConfigError, DataError
from usersim.populations.compare import compare_population
from usersim.populations.copula import latent_correlation
from usersim.populations.fit import fit_population
from usersim.populations.people import LoggedPerson, people_of
from usersim.populations.record import PopulationRecord, write_population
from usersim.populations.sample import Population
from usersim.populations.traits import TRAITS, traits_of
from usersim.types import Conversation, Persona, Style, Turn, UserProfile
from usersim.weights.default_model import SHIPPED_ADAPTER


def conversation(name: str, *texts: str, **fields: object) -> Conversation:
    turns = [
        turn for text in texts for turn in (Turn(role="user", text=text), Turn(role="assistant", text="Ok."))
    ]
    return Conversation.model_validate(
        {"id": name, "origin": "human", "source": "logs", "turns": turns, "ended_by": "user", **fields}
    )


def person(
    turns: int, *, leaves: bool = True, traits: frozenset[str] | None = None, **style: float
) -> LoggedPerson:
    return LoggedPerson("logs", Style(turns=turns, **style), leaves, traits)


def crowd(count: int, seed: int = 0, *, questions: float | None = None) -> list[LoggedPerson]:
    """People of one turn (half) or three: those who write long also ask, and developers write code."""
    rng, people = random.Random(seed), []
    for number in range(count):
        skill, turns = rng.gauss(0, 1), 1 if number % 2 else 3
        words = round(10 * 2 ** (skill + rng.gauss(0, 0.3)))
        people.append(
            person(
                turns,
                traits=frozenset(["software developer"] if skill > 0 else ["student"]),
                words_per_turn=words,
                opening_words=words,
                questions=float(skill + rng.gauss(0, 0.5) > 0) if questions is None else questions,
                politeness=float(rng.random() < 0.3),
                first_person=float(rng.random() < 0.4),
                line_breaks=float(rng.random() < 0.4),
                code_share=max(0.0, rng.uniform(-0.5, 0.5)),
                typos=max(0.0, rng.uniform(-5, 5)),
            )
        )
    return people


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(fit_population(crowd(600)))


def styles(profiles: Sequence[UserProfile]) -> list[Style]:
    return [profile.persona.style for profile in profiles if profile.persona and profile.persona.style]


# -- people --------------------------------------------------------------------------------------------


def test_each_person_counts_once_and_without_a_user_each_conversation_is_a_person() -> None:
    chats = [conversation(f"c{n}", "hi", user="ann") for n in range(5)] + [
        conversation("x", "hi there", "ok"),
        conversation("y", "hm", ended_by="cut"),
    ]
    people = people_of(chats)
    assert [(each.turns, each.leaves) for each in people] == [(1, True), (2, True), (1, False)]
    assert people_of(chats[::-1])[-1] == people[0], "which conversation counts does not depend on their order"


def test_simulated_conversations_are_refused() -> None:
    with pytest.raises(DataError, match="c1 is simulated"):
        people_of([conversation("c1", "hi", origin="simulated")])


@pytest.mark.parametrize(
    ("description", "traits"),
    [
        ("Web developer, beginner; short lower-case", {"software developer", "learning the subject"}),
        ("business developer", set()),
        ("PhD student, non-native English", {"student", "researcher", "not a native speaker of English"}),
        ("impatient; fanatic", set()),
    ],
)
def test_traits_are_whole_words_of_a_description(description: str, traits: set[str]) -> None:
    assert traits_of(description) == traits


# -- fit -----------------------------------------------------------------------------------------------


def test_two_yes_or_no_columns_have_the_tetrachoric_correlation() -> None:
    # Half say yes to each, a third to both: 1/3 = 1/4 + arcsin(r) / 2π, so r = sin(π/6) = 0.5.
    both, one, neither = [[1, 1]] * 200, [[1, 0]] * 100 + [[0, 1]] * 100, [[0, 0]] * 200
    latent = latent_correlation(np.array(both + one + neither, dtype=float))
    assert latent[0, 1] == pytest.approx(0.5, abs=0.02)


def test_a_column_that_few_state_with_another_is_independent_of_it() -> None:
    values = np.full((200, 2), np.nan)
    values[:110, 0] = np.arange(110)
    values[90:, 1] = np.arange(110)
    assert latent_correlation(values)[0, 1] == 0


def test_a_cut_conversation_counts_as_staying_that_long() -> None:
    # At turn 1 two hundred of five hundred leave; the hundred who were cut there say nothing about it.
    people = [person(1, words_per_turn=n) for n in range(200)]
    people += [person(1, leaves=False, words_per_turn=n) for n in range(100)]
    people += [person(2, words_per_turn=n) for n in range(300)]
    strata = fit_population(people).strata
    assert [(stratum.first_turns, stratum.share) for stratum in strata] == [(1, 0.4), (2, 0.6)]


def test_a_corpus_without_ends_says_nothing_about_patience() -> None:
    people = [person(1, words_per_turn=n) for n in range(150)] + [
        person(2, words_per_turn=n) for n in range(450)
    ]
    people += [LoggedPerson("cut", Style(turns=8, words_per_turn=n), False, None) for n in range(400)]
    assert [stratum.share for stratum in fit_population(people).strata][:2] == [0.25, 0.75]


def test_what_the_logs_do_not_say_is_not_stated() -> None:
    people = [person(2, leaves=n < 29, words_per_turn=n % 7) for n in range(60)]
    record = fit_population(people)
    assert (record.states_patience, record.described) == (False, 0)
    (profile,) = Population(record).sample(1)
    assert profile.persona
    assert profile.persona.description == ""
    assert profile.persona.style
    assert profile.persona.style.turns is None
    assert profile.persona.style.questions is None


def test_too_few_people_are_refused() -> None:
    with pytest.raises(DataError, match="logs: 29; a population needs at least 30"):
        fit_population(crowd(29))


def test_the_file_holds_no_words_of_anybody() -> None:
    persona = Persona(description="xylophone repairer, student")
    chats = [
        conversation(f"secret{n}", f"quokka {'very ' * (n % 9)}cute", profile=UserProfile(persona=persona))
        for n in range(120)
    ]
    text = fit_population(people_of(chats)).model_dump_json()
    assert "trait:student" in text
    assert not any(word in text for word in ("xylophone", "quokka", "secret"))


# -- draws ---------------------------------------------------------------------------------------------


def test_users_follow_from_the_seed_and_more_begin_with_the_same(population: Population) -> None:
    assert population.sample(20, 5)[:3] == population.sample(3, 5)
    assert population.sample(3, 5) != population.sample(3, 6)
    assert population.sample(0) == []
    with pytest.raises(ConfigError, match="n=-1"):
        population.sample(-1)


def test_users_have_the_peoples_marginals_and_dependencies(population: Population) -> None:
    users = population.sample(1500, 1)
    drawn, people = styles(users), crowd(600)
    assert np.mean([style.turns == 1 for style in drawn]) == pytest.approx(0.5, abs=0.05)
    words = [
        np.log([1 + (s.words_per_turn or 0) for s in each]) for each in (drawn, [p.style for p in people])
    ]
    assert np.quantile(words[0], [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(words[1], [0.1, 0.5, 0.9]), abs=0.15
    )
    asks = [np.array([s.questions or 0 for s in each]) for each in (drawn, [p.style for p in people])]
    expected = np.corrcoef(words[1], asks[1])[0, 1]
    assert expected > 0.5
    assert np.corrcoef(words[0], asks[0])[0, 1] == pytest.approx(expected, abs=0.1)
    developers = np.array(
        [user.persona.description == "software developer" for user in users if user.persona]
    )
    assert words[0][developers].mean() > words[0][~developers].mean() + 0.5


def test_a_user_of_one_turn_has_the_style_of_one_turn(population: Population) -> None:
    drawn = styles(population.sample(300, 2))
    for style in drawn:
        assert style.turns
        assert style.questions is not None
        assert (style.questions * style.turns) % 1 == pytest.approx(0, abs=1e-9)
        if style.turns == 1:
            assert style.opening_words == style.words_per_turn
    assert {style.turns for style in drawn} == {1.0, 3.0}


def test_every_user_is_farther_from_every_person_than_stated(population: Population) -> None:
    people = crowd(600)
    names = tuple(name for name in Style.model_fields if getattr(people[0].style, name) is not None)
    rank = {name: population.record.scales[name] for name in names}
    ranks_PA = np.array(
        [[np.interp(getattr(p.style, n), rank[n].values, rank[n].ranks) for n in names] for p in people]
    )
    drawn = styles(population.sample(300, 3))
    nearest = []
    for style in drawn:
        own = [np.interp(getattr(style, n), rank[n].values, rank[n].ranks) for n in names]
        nearest.append(np.abs(ranks_PA - own).max(axis=1).min())
    assert min(nearest) > population.distance == 0.01
    assert population.nearest_distances(drawn) == pytest.approx(nearest, abs=0.002)
    assert population.nearest_distances([people[0].style])[0] < 0.004


def test_a_distance_that_leaves_no_room_is_refused() -> None:
    people = [person(1, words_per_turn=n % 5) for n in range(60)]
    with pytest.raises(ConfigError, match="fit with a smaller distance"):
        Population(fit_population(people, distance=0.4)).sample(1)


# -- comparison ----------------------------------------------------------------------------------------


def test_other_people_of_the_same_kind_are_within_chance(population: Population) -> None:
    result = compare_population(population, crowd(300, seed=9), users=1000)
    assert result.mean_ks < 1.3 * result.mean_ks_by_chance
    assert result.style_pairs.mean_difference < 1.5 * result.style_pairs.by_chance
    assert result.style_pairs.mean_spearman_people > 2 * result.style_pairs.mean_difference
    assert result.distances.least_users > 0.009
    assert result.distances.median_users > 0.9 * result.distances.median_people


def test_other_people_of_another_kind_are_told_apart(population: Population) -> None:
    result = compare_population(population, crowd(300, seed=9, questions=1.0), users=1000)
    (questions,) = [row for row in result.marginals if row.name == "questions"]
    users_without = 1 - np.mean([style.questions for style in styles(population.sample(1000))])
    assert questions.ks == pytest.approx(users_without, abs=0.05)
    assert questions.low > questions.by_chance


def test_too_few_to_compare_are_refused(population: Population) -> None:
    with pytest.raises(DataError, match="at least 30 of each"):
        compare_population(population, crowd(20))


# -- the file, the command, the shipped one ------------------------------------------------------------


def test_the_shipped_population_draws_users_who_are_nobodys_copy() -> None:
    population = usersim.population()
    users = population.sample(100, 4)
    assert min(population.nearest_distances(styles(users))) > population.distance - 0.002
    phrases = {phrase for user in users if user.persona for phrase in user.persona.description.split(", ")}
    assert phrases <= {*TRAITS, ""}
    assert (SHIPPED_ADAPTER / "population.json").stat().st_size < 200_000


@pytest.mark.parametrize("layout", ["adapter", "model", "."])
def test_fit_compare_and_sample_by_command(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / layout
    folder.mkdir(parents=True)
    (folder / "userlm.json").write_text("{}")
    chats = [conversation(f"c{n}", "please " * (n % 5) + "help", *["ok?"] * (n % 3)) for n in range(90)]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(chat.model_dump_json() + "\n" for chat in chats))
    run = str(tmp_path / "run")
    assert main(["fit", str(file), "--out", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["people"] == 90
    assert (folder / "population.json").is_file()
    plot = tmp_path / "plot.svg"
    assert main(["compare", str(file), "--model", run, "--users", "60", "--svg", str(plot)]) == 0
    assert "60 drawn users and 90 held-out people" in capsys.readouterr().out
    assert plot.read_text().startswith("<svg")
    assert main(["sample", "--model", run, "-n", "2", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [UserProfile.model_validate_json(line) for line in lines] == usersim.population(run).sample(2, 3)


def test_what_the_operator_can_fix_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, ["sample", "--model", str(tmp_path)]) == 2
    assert "no population there; fit one with `usersim population fit" in capsys.readouterr().err
    damaged = tmp_path / "population.json"
    damaged.write_text("{")
    assert run_main(main, ["sample", "--model", str(damaged)]) == 2
    assert "not a population" in capsys.readouterr().err
    one = tmp_path / "one.jsonl"
    one.write_text(
        "".join(conversation(f"c{n}", "hi", user="ann").model_dump_json() + "\n" for n in range(50))
    )
    assert run_main(main, ["fit", str(one), "--out", str(tmp_path / "p.json")]) == 2
    assert "people in the logs: 1;" in capsys.readouterr().err


def test_a_truncated_table_of_styles_is_damage(population: Population, tmp_path: Path) -> None:
    record: PopulationRecord = population.record.model_copy(update={"styles": population.record.styles[:40]})
    write_population(record, tmp_path / "p.json")
    with pytest.raises(ConfigError, match="damaged"):
        usersim.population(tmp_path / "p.json")
    with pytest.raises(DataError, match="no such folder"):
        write_population(record, tmp_path / "nowhere" / "p.json")
