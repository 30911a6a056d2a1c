"""The page that reports and datasheets share."""

from __future__ import annotations

from usersim.report.html import clipped, details, render_page, table, talk
from usersim.report.svg import histogram, percent, share_bars
from usersim.types import Turn


def test_a_page_is_whole_and_its_own_style_comes_last() -> None:
    page = render_page("A & B", ["<h1>one</h1>", "<p>two $5 ${x}</p>"], style=".own { color: red; }\n")
    assert "<title>A &amp; B</title>" in page
    assert "<h1>one</h1>\n<p>two $5 ${x}</p>" in page
    assert page.index(".own {") > page.index("@media (max-width")
    assert "$style" not in render_page("t", [])
    assert "prefers-color-scheme: dark" in page


def test_what_people_wrote_is_escaped_and_clipped() -> None:
    shown = talk(
        [Turn(role="user", text="<script>"), Turn(role="assistant", text="x" * 2000)], "ended by: <me>"
    )
    assert '<p class="user">&lt;script&gt;</p>' in shown
    assert f'<p class="assistant">{"x" * 700} […]</p>' in shown
    assert "ended by: &lt;me&gt;" in shown
    assert "<summary>a &lt; b</summary><b>x</b>" in details("a < b", "<b>x</b>")
    assert clipped("short") == "short"


def test_a_table_holds_html() -> None:
    assert "<tr><th>a</th></tr><tr><td><b>1</b></td></tr>" in table(["a"], [["<b>1</b>"]])


def test_bars_are_as_long_as_their_share() -> None:
    assert [percent(0.004), percent(0.5), percent(0)] == ["0.4 %", "50 %", "0 %"]
    shown = share_bars([("<a>", "human", 0.25), ("b", "c0", None)])
    assert 'title="' not in shown
    assert "&lt;a&gt;" in shown
    assert 'class="human" style="width:25.0%"' in shown
    # The second bin of the second series is the largest of all: it has the full height.
    drawn = histogram("x", ["1", "2"], [("human", [0.1, 0.1]), ("c0", [0.0, 0.4])])
    assert drawn.count('height="96.0"') == 1
    assert drawn.count('height="24.0"') == 2
    assert drawn.count('height="0.0"') == 1
