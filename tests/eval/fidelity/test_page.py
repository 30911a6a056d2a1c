import base64
import json
import re

import pytest

from eval.fidelity.metrics.gates import GateResult
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.pages.drawing import AxisScale, course
from eval.fidelity.pages.plots import number
from eval.fidelity.pages.quiz import hidden
from eval.fidelity.pages.report_page import render_page, write_report
from eval.fidelity.pages.tables import Table, latex, latex_table, latex_text, markdown, markdown_text, tables
from eval.fidelity.report_record import (
    FeatureShape,
    FileFacts,
    Headline,
    QuizItem,
    Report,
    SimulatorReport,
    Telling,
)
from eval.fidelity.samples.prepare import SideFacts
from eval.fidelity.settings import EvalConfig
from usersim.stats.estimates import Estimate, Figure, Floor
from usersim.types import Conversation, Turn

SECRET = "<b>my secret</b>"
SIDE = SideFacts(
    name="human", given=130, excluded={"no user turn": 2}, truncated=3, kept=128, ended_by={"user": 128}
)


def estimate(value, low=None, high=None, n=60):
    return Estimate(value=value, low=value if low is None else low, high=value if high is None else high, n=n)


def figure(key="words", label="words per turn", verdict="different", value=0.9, **more):
    return Figure(
        **{"key": key, "metric": "M1", "label": label, "unit": "human SD", **more},
        value=estimate(value, 0.8, 1.0),
        floor=Floor(median=0.2, low=0.1, high=0.3, repeats=200),
        excess=estimate(value - 0.2, 0.6, 0.8),
        inside_floor=value <= 0.3,
        margin=0.2,
        p=0.0001,
        p_holm=0.0002,
        verdict=verdict,
    )


def talk(text=SECRET, name="1"):
    return Conversation(id=name, origin="human", source="t", turns=(Turn(role="user", text=text),))


def simulator(name="a", figures=None, **more):
    figures = figures or (figure(),)
    gate = GateResult(
        key="empty_turn",
        label="an empty user turn",
        simulated=estimate(0.5, 0.4, 0.6),
        human=estimate(0.0, 0.0, 0.1),
        difference=estimate(0.5, 0.3, 0.6),
        verdict="different",
    )
    head = Headline(
        gates=("an empty user turn",),
        different=("words per turn",),
        equivalent=(),
        not_told=("text classifier",),
        p=0.005,
        is_different=True,
    )
    return SimulatorReport(
        name=name,
        side=SIDE,
        headline=head,
        gates=(gate,),
        figures=figures,
        telling=Telling(simulated_ngrams=("xqz",), human_ngrams=("vwk",), features=(("words", 0.9),)),
        nearest=(talk(),),
        farthest=(talk(),),
        **more,
    )


def report(*simulators, **more):
    simulators = simulators or (simulator(),)
    shape = FeatureShape(
        key="words",
        label="words per turn",
        bins=("1", "2+"),
        is_share=False,
        human=(0.5, 0.5),
        human_average=2.0,
        simulated={s.name: (0.25, 0.75) for s in simulators},
        simulated_average={s.name: 3.0 for s in simulators},
    )
    return Report(
        n=60,
        turn_cap=8,
        turn_cap_from="inferred",
        human=SIDE,
        human_file=FileFacts(path="people.jsonl", sha256="c" * 64),
        simulators=simulators,
        features=(shape,),
        notes=("A note.",),
        config=more.pop("config", EvalConfig(seed=17)),
        versions={"python": "3.11"},
        seconds=12.0,
        human_examples=(talk(),),
        simulated_examples={"a": (talk(),)},
        command="usersim eval run --human people.jsonl",
        costs={"judge tokens": 1234567},
        **more,
    )


def quiz(*humans):
    return tuple(
        QuizItem(first=talk("one"), second=talk("two"), human=human, simulator="a sly name")
        for human in humans
    )


def curve(key="hazard", *, human=None, simulated=None, categories=False):
    points = tuple(estimate(x, x - 0.05, x + 0.05) for x in (0.2, 0.3, 0.4, 0.5))
    return Curve(
        key=key,
        metric="M5",
        label="leaving",
        x_label="turn",
        y_label="share",
        x=("1", "2", "3", "4"),
        human=human or points,
        simulated=simulated or points,
        categories=categories,
    )


def test_the_page_fetches_nothing_and_has_a_script_only_for_the_quiz():
    plain, played = render_page(report()), render_page(report(quiz=quiz("first")))
    for page in (plain, played):
        assert not re.search(r"""https?:|src=|<link|@import|url\(""", page)
    assert "<script" not in plain
    assert played.count("<script>") == played.count("</script>") == 1


def test_everything_that_made_the_numbers_is_on_the_page():
    page = render_page(report())
    wanted = (
        "c" * 64,
        "seed</dt><dd>17",
        "1,234,567",
        "usersim eval run --human people.jsonl",
        "python 3.11",
        "A note.",
    )
    assert [text for text in wanted if text not in page] == []


def test_what_was_not_measured_is_listed_with_its_reason():
    page = render_page(report(simulator(missing={"spread": "no goal occurs <twice>"})))
    assert "<td>spread</td><td>no goal occurs &lt;twice&gt;</td>" in page
    assert '<a href="#missing">Some metrics could not be measured.</a>' in page
    assert 'id="missing"' not in render_page(report())


def test_a_simulator_keeps_its_colour_where_another_lacks_the_figure():
    page = render_page(report(simulator("a"), simulator("b", (figure(), figure("other", "only in b")))))
    row = page[page.index('<div class="name">only in b') :].split('class="row"')[0]
    assert '<span class="lane c1"' in row
    assert "lane c0" not in row


def test_every_picture_says_in_words_what_it_shows():
    page = render_page(report(simulator(curves=(curve(), curve("acts", categories=True)))))
    pictures = re.findall(r'<svg[^>]*>|<div class="track[^>]*>', page)
    assert len(pictures) == 5
    assert all('role="img"' in tag and re.search(r'aria-label="[^"]{5,}"', tag) for tag in pictures)
    assert 'aria-label="human baseline 0.1 to 0.3; values 0.9 (different)"' in page
    assert page.count("<summary>as a table</summary>") == 3


def test_curves_share_a_plot_only_with_the_same_people():
    others = tuple(estimate(0.1) for _ in range(4))
    same = render_page(report(simulator("a", curves=(curve(),)), simulator("b", curves=(curve(),))))
    apart = render_page(
        report(simulator("a", curves=(curve(),)), simulator("b", curves=(curve(human=others),)))
    )
    assert same.count('aria-label="leaving; numbers') == 1
    assert apart.count('aria-label="leaving; numbers') == 2


def test_a_gap_breaks_the_line_and_zero_is_in_the_scale():
    points = [estimate(0.2), estimate(0.4), None, estimate(0.3), None, estimate(0.1)]
    drawn = course("x", list("abcdef"), ("turn", "share"), [("s", "c0", points)])
    assert drawn.count('class="line"') == 1
    assert drawn.count('class="mark"') == 4
    scale = AxisScale.over([("s", "c0", [estimate(0.3, 0.2, 0.83), None])])
    assert (scale.low, scale.high, scale.ticks()) == (0.0, 1.0, [0.0, 0.5, 1.0])
    below = AxisScale.over([("s", "c0", [estimate(0.0, -3.0, 4.0)])])
    assert (below.low, below.high, below.step) == (-4.0, 4.0, 2.0)


def test_what_people_wrote_is_escaped_everywhere():
    items = (QuizItem(first=talk(), second=talk(), human="first", simulator="<i>a</i>"),)
    page = render_page(report(simulator(name="<i>a</i>"), quiz=items))
    assert SECRET not in page
    assert "<i>a</i>" not in page
    assert page.count("&lt;b&gt;my secret") == 5  # nearest, farthest, one human, two in the quiz


def test_the_answers_of_the_quiz_do_not_meet_the_eye():
    items = quiz("first", "second", "second")
    page = render_page(report(quiz=items))
    section = page[page.index('id="quiz"') : page.index('id="conversations"')]
    assert "sly" not in section
    assert not re.search(r"human\"|origin|simulated", section)
    key = re.search(r'data-key="([^"]+)"', section).group(1)
    assert key == hidden(items)
    shown = bytes(byte ^ (i * 73 + 41) & 255 for i, byte in enumerate(base64.b64decode(key)))
    assert json.loads(shown) == [[False, "a sly name"], [True, "a sly name"], [True, "a sly name"]]


def test_without_examples_no_chat_text_is_in_any_file(tmp_path):
    hushed = report(config=EvalConfig(examples=0), quiz=quiz("first"))
    write_report(hushed, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["report.html", "report.json", "report.md", "report.tex"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search("secret|xqz|vwk|sly|<script", text)
    assert "holds no chat text" in files[0].read_text(encoding="utf-8")
    assert "holds no chat text" not in render_page(report())


def test_the_written_record_is_the_report(tmp_path):
    made = report(quiz=quiz("first"))
    file, page = write_report(made, tmp_path)
    assert Report.model_validate_json(file.read_text(encoding="utf-8")) == made
    assert page.read_text(encoding="utf-8") == render_page(made)


def test_numbers_are_never_minus_zero():
    assert [number(-0.001), number(-0.5), number(0.0004, "JSD, bits")] == ["0.00", "-0.50", "0.0004"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"50% & a_b {x} #1 $2", r"50\% \& a\_b \{x\} \#1 \$2"),
        ("a\\b ~c ^d", r"a\textbackslash{}b \textasciitilde{}c \textasciicircum{}d"),
        ("[0, 1] <n>", r"{}[0, 1] \textless{}n\textgreater{}"),
        ("≠ ≤ ↓ 1–2 “x”", r"$\neq$ $\leq$ $\downarrow$ 1--2 ``x''"),  # noqa: RUF001
    ],
)
def test_latex_prints_what_was_meant(text, escaped):
    assert latex_text(text) == escaped


def test_markdown_cells_stay_in_their_column():
    assert markdown_text("a|b_c*\n<d> [e]") == r"a\|b\_c\* \<d\> \[e\]"


def test_a_latex_table_has_rules_and_a_cell_per_column():
    lines = latex_table(Table("C & D", ["x", "y_1"], [["a", "b"], ["c", "d"]])).splitlines()
    assert lines[3:] == [
        r"\caption{C \& D}",
        r"\begin{tabular}{"
        r">{\raggedright\arraybackslash}p{\dimexpr0.366\textwidth-2\tabcolsep\relax}"
        r">{\raggedright\arraybackslash}p{\dimexpr0.634\textwidth-2\tabcolsep\relax}}",
        r"\toprule",
        r"x & y\_1 \\",
        r"\midrule",
        r"a & b \\",
        r"c & d \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]


def test_tables_hold_every_headline_figure_of_every_simulator():
    made = report(
        simulator("a"),
        simulator(
            "b|", (figure(value=0.25, verdict="equivalent"), figure("jsd", "second view", headline=False))
        ),
    )
    assert tables(made)[1].rows == [
        [
            "words per turn",
            "human SD",
            "0.20 [0.10, 0.30]",
            "0.2",
            "0.90 [0.80, 1.00] ≠",
            "0.25 [0.80, 1.00] ≈",
        ]
    ]
    text = markdown(made)
    assert "| metric | unit | human baseline | δ | a | b\\| |" in text
    assert "Different from people: words per turn." in text
    assert text.index("| gate |") < text.index("| metric |")
    assert "usersim eval run --human people.jsonl" in text
    assert latex(made).count(r"\begin{tabular}") == 2


@pytest.mark.parametrize(
    ("different", "too_few", "said"),
    [
        (True, False, "different from human"),
        (False, False, "no difference found"),
        (False, True, "too few for a verdict"),
    ],
)
def test_too_few_conversations_are_not_called_alike(different: bool, too_few: bool, said: str):
    head = simulator("userlm").headline.model_copy(update={"is_different": different, "too_few": too_few})
    assert head.overall == said
