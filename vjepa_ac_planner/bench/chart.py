"""One chart for documents: lines and marks on logarithmic axes, as an SVG that needs no style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760.0, 460.0
LEFT, RIGHT, TOP, BOTTOM = 78.0, 150.0, 40.0, 56.0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind readers too (Okabe and Ito)."""
FLOOR = 1e-5
"""Values below it are drawn at it."""

Point = tuple[float, float]


def loglog_chart(
    lines: Mapping[str, Sequence[Point]],
    marks: Mapping[str, Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """The chart as the text of an SVG file; points that are not finite are left out."""
    shown = {
        name: [(x, max(y, FLOOR)) for x, y in points if _drawable(x, y)] for name, points in lines.items()
    }
    dots = {name: (x, max(y, FLOOR)) for name, (x, y) in marks.items() if _drawable(x, y)}
    points = [*(p for line in shown.values() for p in line), *dots.values()] or [(1.0, 1.0)]
    x0, x1 = _decades([x for x, _ in points], exact=True)
    y0, y1 = _decades([y for _, y in points], exact=False)

    def px(x: float) -> float:
        return LEFT + (math.log10(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(y) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="{escape(y_label)}" font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for power in range(math.floor(y0), math.ceil(y1) + 1):
        if y0 - 1e-9 <= power <= y1 + 1e-9:
            y = py(10.0**power)
            parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(10.0**power)}</text>'
            )
    for value in _x_ticks(10.0**x0, 10.0**x1):
        x = px(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    legend = TOP + 8
    for (name, line), colour in zip(shown.items(), COLOURS, strict=False):
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in line]
        parts.append(
            f'<line x1="{right + 14}" x2="{right + 38}" y1="{legend}" y2="{legend}" stroke="{colour}" '
            f'stroke-width="2"/><text x="{right + 44}" y="{legend + 4}">{escape(name)}</text>'
        )
        legend += 20
    for name, (x, y) in dots.items():
        parts.append(
            f'<path d="M{px(x):.1f} {py(y) - 6:.1f} l6 6 l-6 6 l-6 -6 z" fill="#fff" stroke="#000" '
            f'stroke-width="1.6"/><text x="{px(x) + 9:.1f}" y="{py(y) - 7:.1f}">{escape(name)}</text>'
        )
    return "".join(parts) + "</svg>\n"


def _drawable(x: float, y: float) -> bool:
    return math.isfinite(x) and math.isfinite(y) and x > 0


def _decades(values: Sequence[float], *, exact: bool) -> tuple[float, float]:
    """Logarithms of the ends of an axis: a little beyond the values, or whole decades around them."""
    low, high = math.log10(min(values)), math.log10(max(values))
    if exact:
        return low - 0.08, max(high, low + 0.5) + 0.08
    return math.floor(low + 1e-9), max(math.ceil(high - 1e-9), math.floor(low + 1e-9) + 1)


def _x_ticks(low: float, high: float) -> list[float]:
    """Powers of two times ten to a power, as budgets are: 10, 20, 50, 100 ..."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _number(value: float) -> str:
    return f"{value:g}" if value >= 1e-4 else f"1e{round(math.log10(value))}"
