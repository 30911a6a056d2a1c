"""SVG plot of a population comparison: distances of marginals, and pair correlations of users against people."""

from __future__ import annotations

from html import escape

from usersim.populations.compare import PopulationComparison
from usersim.populations.record import TRAIT

STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fff}text{fill:#222}.axis{stroke:#999}.chance{stroke:#c33}"
    ".interval{stroke:#2563a8;stroke-width:2}.point{fill:#2563a8}.trait{fill:#d98a1f;fill-opacity:.6}"
)
ROW, LEFT, SPAN, TOP = 17, 250, 330, 62
SQUARE = 360


def comparison_svg(comparison: PopulationComparison) -> str:
    """Returns a self-contained SVG of the comparison."""
    height = TOP + max(ROW * len(comparison.marginals), SQUARE) + 60
    width = LEFT + SPAN + 90 + SQUARE + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Drawn users against held-out people"><style>{STYLE}</style>'
        f"{_marginals(comparison)}{_pairs(comparison, LEFT + SPAN + 90)}</svg>\n"
    )


def _marginals(comparison: PopulationComparison) -> str:
    most = max(max(m.high, m.by_chance) for m in comparison.marginals) or 1.0
    marks = [
        f'<text x="{LEFT}" y="16">Marginals: Kolmogorov-Smirnov distance,</text>'
        f'<text x="{LEFT}" y="32">{comparison.users:,} users and {comparison.people:,} held-out people</text>'
        f'<text x="{LEFT}" y="48">red: 95 % quantile by chance</text>'
    ]
    for row, marginal in enumerate(comparison.marginals):
        y = TOP + ROW * (row + 0.5)
        value, low, high, chance = (
            LEFT + SPAN * each / most
            for each in (marginal.ks, marginal.low, marginal.high, marginal.by_chance)
        )
        name = marginal.name.removeprefix(TRAIT).replace("_", " ")
        marks.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="point" cx="{value:.1f}" cy="{y:.1f}" r="3.5"/>'
            f'<line class="chance" x1="{chance:.1f}" x2="{chance:.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}"/>'
        )
    bottom = TOP + ROW * len(comparison.marginals) + 4
    marks.append(
        f'<line class="axis" x1="{LEFT}" x2="{LEFT + SPAN}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{LEFT}" y="{bottom + 16}" text-anchor="middle">0</text>'
        f'<text x="{LEFT + SPAN}" y="{bottom + 16}" text-anchor="middle">{most:.2f}</text>'
    )
    return "".join(marks)


def _pairs(comparison: PopulationComparison, left: int) -> str:
    summary = comparison.style_pairs
    marks = [
        f'<text x="{left}" y="16">Pairs: Spearman correlation, blue style, orange persona and style</text>'
        f'<text x="{left}" y="32">style: mean difference {summary.mean_difference:.3f}, by chance '
        f'{summary.by_chance:.3f},</text><text x="{left}" y="48">of independent attributes '
        f"{summary.mean_spearman_people:.3f}</text>"
        f'<rect x="{left}" y="{TOP}" width="{SQUARE}" height="{SQUARE}" fill="none" class="axis"/>'
        f'<line class="axis" x1="{left}" y1="{TOP + SQUARE}" x2="{left + SQUARE}" y2="{TOP}"/>'
    ]
    for pair in comparison.pairs:
        x = left + SQUARE * (pair.spearman_people + 1) / 2
        y = TOP + SQUARE * (1 - pair.spearman_users) / 2
        kind = "trait" if pair.second.startswith(TRAIT) else "point"
        marks.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    for value in (-1, 0, 1):
        offset = SQUARE * (value + 1) / 2
        marks.append(
            f'<text x="{left + offset:.0f}" y="{TOP + SQUARE + 16}" text-anchor="middle">{value}</text>'
            f'<text x="{left - 6}" y="{TOP + SQUARE - offset + 4:.0f}" text-anchor="end">{value}</text>'
        )
    marks.append(
        f'<text x="{left + SQUARE / 2:.0f}" y="{TOP + SQUARE + 34}" text-anchor="middle">held-out people</text>'
        f'<text transform="translate({left - 30} {TOP + SQUARE / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "drawn users</text>"
    )
    return "".join(marks)
