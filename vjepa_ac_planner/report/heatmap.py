"""A slice of the energy landscape as a map, inline SVG over one small picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from vjepa_ac_planner.report.images import data_uri
from vjepa_ac_planner.report.records import Image, Landscape, Points

_COLORS = np.array(
    [
        [249, 236, 120],
        [166, 219, 84],
        [74, 186, 116],
        [37, 146, 140],
        [48, 104, 142],
        [59, 60, 130],
        [33, 19, 77],
    ],
    dtype=np.float64,
)
"""From low energy (light) to high (dark), about evenly spaced in lightness."""

STRAIGHT = "the step that leads straight to the goal, seen in this plane"
"""What the ring marks where the goal is known."""

SIDE, LEFT, TOP = 300.0, 34.0, 8.0


def colorize(values: Points) -> Image:
    """[rows, columns] -> RGB image of that size; the least value is lightest, NaN darkest."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    level = (np.nan_to_num(values, nan=high) - low) / max(high - low, 1e-12)
    position = level * (len(_COLORS) - 1)
    index = np.clip(position.astype(int), 0, len(_COLORS) - 2)
    share = (position - index)[..., None]
    return np.rint(_COLORS[index] * (1 - share) + _COLORS[index + 1] * share).astype(np.uint8)


def color_bar() -> str:
    """The colours of :func:`colorize` as a CSS gradient, low energy first."""
    return "linear-gradient(90deg," + ",".join(f"rgb({r:g},{g:g},{b:g})" for r, g, b in _COLORS) + ")"


def heat_map(landscape: Landscape) -> str:
    """The map with its marks: standing still in the middle, the chosen action, the step to the goal."""
    count, span = len(landscape.energies), landscape.span
    edge = span * count / (count - 1)  # a cell lies around its grid point, so the map ends half a cell on

    def px(x: float) -> float:
        return LEFT + SIDE / 2 * (1 + x / edge)

    def py(y: float) -> float:
        return TOP + SIDE / 2 * (1 - y / edge)

    picture = data_uri(colorize(landscape.energies[::-1]), "png")
    right, bottom, zero_x, zero_y = LEFT + SIDE, TOP + SIDE, px(0.0), py(0.0)
    tx, ty = px(landscape.truth[0]), py(landscape.truth[1])
    cx, cy = px(landscape.chosen[0]), py(landscape.chosen[1])
    horizontal, vertical = (escape(name) for name in landscape.axes)
    parts = [
        f'<svg class="map" viewBox="0 0 {right + 16:g} {bottom + 38:g}" role="img" '
        f'aria-label="{escape(landscape.title)}">',
        f'<image href="{picture}" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" '
        'preserveAspectRatio="none"/>',
        f'<line class="zero" x1="{LEFT}" x2="{right}" y1="{zero_y}" y2="{zero_y}"/>',
        f'<line class="zero" x1="{zero_x}" x2="{zero_x}" y1="{TOP}" y2="{bottom}"/>',
        f'<line class="truth" x1="{zero_x}" y1="{zero_y}" x2="{tx:.1f}" y2="{ty:.1f}"/>',
        f'<circle class="truth" cx="{tx:.1f}" cy="{ty:.1f}" r="7"/>',
        f'<path class="chosen" d="M{cx - 7:.1f},{cy:.1f}h14M{cx:.1f},{cy - 7:.1f}v14"/>',
    ]
    for value in (-span, span):
        label = f"{value * 100:+.3g}"
        parts.append(f'<text x="{px(value):.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{py(value) + 4:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{zero_x}" y="{bottom + 32}" text-anchor="middle">{horizontal} [cm]</text>')
    parts.append(
        f'<text x="{LEFT - 10}" y="{zero_y}" text-anchor="middle" '
        f'transform="rotate(-90 {LEFT - 10} {zero_y})">{vertical} [cm]</text>'
    )
    return "".join(parts) + "</svg>"


def section(landscapes: Sequence[Landscape], note: str, truth: str = STRAIGHT) -> str:
    """Several maps with what they show.

    Args:
        landscapes: at least one.
        note: what a reader must know.
        truth: what the ring marks.
    """
    figures = "".join(
        f"<figure><h3>{escape(item.title)}</h3>{heat_map(item)}"
        f'<div class="scale" style="background:{color_bar()}"></div>'
        f'<div class="scale-ends"><span>{float(np.nanmin(item.energies)):.3f}</span><span>energy</span>'
        f"<span>{float(np.nanmax(item.energies)):.3f}</span></div></figure>"
        for item in landscapes
    )
    return (
        f'<section><h2>The energy landscape</h2><p class="note">{note}<br>{legend(truth)}</p>'
        f'<div class="maps">{figures}</div></section>'
    )


def legend(truth: str = STRAIGHT) -> str:
    """What the marks of :func:`heat_map` mean; ``truth`` is what the ring marks."""
    mark = '<svg class="mark" viewBox="0 0 22 14" width="22" height="14">'
    return (
        f'{mark}<path class="chosen" d="M5 7h12M11 1v12"/></svg> what CEM chose &emsp; '
        f'{mark}<rect width="22" height="14" rx="3" fill="#30688e"/>'
        '<circle class="truth" cx="11" cy="7" r="4.5"/></svg> '
        f"{truth}"
    )
