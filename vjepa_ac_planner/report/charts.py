"""Line charts as inline SVG; colours come from the page's CSS, so that charts follow its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 36.0


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    y: Sequence[float]
    color: str = "a"
    """Name of a CSS class: a, b or c."""
    dashed: bool = False
    dots: bool = True
    first: int = 0
    """Position of the first value; the others follow at ``every``."""
    every: int = 1
    """Distance between two values."""
    step: int | None = None
    """The step of the run this line belongs to: the page highlights it together with that step."""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover ``low .. high``: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * k for k in range(first, last + 1)]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    y_from_zero: bool = True,
    reference: tuple[float, str] | None = None,
    cursor: bool = False,
) -> str:
    """Lines over integer positions.

    Args:
        series: what to draw; values that are not finite are left out.
        x_label: text under the horizontal axis.
        y_label: text beside the vertical axis.
        y_from_zero: start the vertical axis at zero.
        reference: a level to mark, and its name.
        cursor: include the vertical line that follows the step shown on the page.
    """
    xs = [x for s in series for x in _positions(s)]
    ys = [y for s in series for y in s.y if math.isfinite(y)] + ([reference[0]] if reference else [])
    low, high = (min(ys, default=0.0), max(ys, default=1.0))
    low = min(0.0, low) if y_from_zero else low
    if high - low < 1e-9:
        high = low + 1.0
    y_ticks = ticks(low, high)
    y0, y1 = y_ticks[0], y_ticks[-1]
    x0, x1 = min(xs, default=0.0), max(max(xs, default=1.0), min(xs, default=0.0) + 1.0)

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(y_label)}">'
    ]
    digits = _digits(y_ticks)
    for y in y_ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.{digits}f}</text>')
    every = max(1, math.ceil((x1 - x0) / 12))
    for x in range(math.ceil(x0), math.floor(x1) + 1, every):
        parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    if reference:
        y = py(reference[0])
        parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="axis" x="{WIDTH - RIGHT}" y="{y - 5:.1f}" text-anchor="end">'
            f"{escape(reference[1])}</text>"
        )
    if cursor:
        parts.append(
            f'<line class="cursor" data-first="{px(x0):.2f}" data-step="{px(x0 + 1) - px(x0):.3f}" '
            f'data-last="{px(max(xs)):.2f}" x1="{px(x0):.1f}" x2="{px(x0):.1f}" '
            f'y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    for s in series:
        parts.append(_line(s, px, py))
    parts.append("</svg>")
    return "".join(parts)


def scatter_chart(x: Sequence[float], y: Sequence[float], *, x_label: str, y_label: str) -> str:
    """One dot per pair of finite values; both axes cover them in round numbers."""
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a + b)]
    x_ticks = _covering([a for a, _ in points])
    y_ticks = _covering([b for _, b in points])

    def px(value: float) -> float:
        return LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def py(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(y_label)}">'
    ]
    for value in y_ticks:
        at = f'y1="{py(value):.1f}" y2="{py(value):.1f}"'
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {at}/>')
        text = f"{value:.{_digits(y_ticks)}f}"
        parts.append(f'<text x="{LEFT - 8}" y="{py(value) + 4:.1f}" text-anchor="end">{text}</text>')
    for value in x_ticks:
        text = f"{value:.{_digits(x_ticks)}f}"
        parts.append(
            f'<text x="{px(value):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    dots = "".join(f'<circle cx="{px(a):.1f}" cy="{py(b):.1f}" r="3"/>' for a, b in points)
    return "".join(parts) + f'<g class="series a">{dots}</g></svg>'


def _covering(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return ticks(low, high if high - low > 1e-9 else low + 1.0)


def _digits(values: Sequence[float]) -> int:
    """Decimals that tell ticks apart."""
    return max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))


def _positions(s: Series) -> Sequence[float]:
    return [float(s.first + s.every * i) for i in range(len(s.y))]


def _line(s: Series, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    points = [(px(x), py(y), y) for x, y in zip(_positions(s), s.y, strict=True) if math.isfinite(y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    group = f' data-step="{s.step}"' if s.step is not None else ""
    body = f'<polyline class="line{" dashed" if s.dashed else ""}" points="{path}"/>'
    if s.dots:
        body += "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(s.label)}: {value:.4g}</title></circle>"
            for x, y, value in points
        )
    return f'<g class="series {s.color}"{group}>{body}</g>'
