"""Two actions as arrows in the corner of an image: from above, and their height.

Where the camera stands is not known in a recording, so arrows cannot be drawn where the arm is; they are
drawn as on a map, in the robot's base frame.
"""

from __future__ import annotations

import numpy as np

from vjepa_ac_planner.report.records import Points

PLANNED, RECORDED = "#ffd400", "#ffffff"
_SIDE, _RADIUS = 140.0, 15.0
"""Side of the drawing, and the length of the longest arrow in it."""


def compass(recorded: Points | None, planned: Points | None, scale: float) -> str:
    """SVG that covers an image and draws in its upper left corner.

    Args:
        recorded: [7] action, or None.
        planned: [7] action, or None.
        scale: size of the longest arrow along one axis [m].
    """
    body = "".join(
        _arrows(action, scale, color, width)
        for action, color, width in ((recorded, RECORDED, 1.7), (planned, PLANNED, 1.7))
        if action is not None and np.isfinite(action[:3]).all()
    )
    return (
        f'<svg viewBox="0 0 {_SIDE:g} {_SIDE:g}" preserveAspectRatio="xMinYMin meet" fill="none" '
        f'stroke-linecap="round" stroke-linejoin="round">{_frame()}{body}</svg>'
    )


def compass_legend(scale: float) -> str:
    """What the arrows mean."""

    def item(color: str, text: str) -> str:
        line = '<path d="M3 7H21" stroke="#000" stroke-opacity=".5" stroke-width="6"/>'
        line += f'<path d="M3 7H21" stroke="{color}" stroke-width="3.4"/>'
        return (
            '<li><svg viewBox="0 0 26 14" fill="none" stroke-linecap="round">'
            f"{line}</svg><span>{text}</span></li>"
        )

    return (
        '<ul class="legend">'
        + item(PLANNED, "what the planner would have done")
        + item(RECORDED, "what the robot did")
        + "<li><span></span><span>left: from above, x (forward) up and y to the left; right: z up; "
        f"the edge is {100 * scale:.1f} cm in one step</span></li></ul>"
    )


def _frame() -> str:
    return (
        '<rect x="2" y="2" width="50" height="36" rx="4" fill="#000" fill-opacity=".55"/>'
        '<g stroke="#fff" stroke-opacity=".35" stroke-width=".7">'
        f'<circle cx="20" cy="20" r="{_RADIUS}"/>'
        f'<path d="M20 {20 - _RADIUS}V{20 + _RADIUS}M{20 - _RADIUS} 20H{20 + _RADIUS}'
        f'M44 {20 - _RADIUS}V{20 + _RADIUS}M40 20H48"/></g>'
    )


def _arrows(action: Points, scale: float, color: str, width: float) -> str:
    x, y, z = (_RADIUS * float(value) / scale for value in action[:3])
    side = -1.2 if color == RECORDED else 1.2  # the two heights stand side by side
    return _arrow(20, 20, 20 - y, 20 - x, color, width) + _arrow(
        44 + side, 20, 44 + side, 20 - z, color, width
    )


def _arrow(x0: float, y0: float, x1: float, y1: float, color: str, width: float) -> str:
    length = float(np.hypot(x1 - x0, y1 - y0))
    if length < 0.3:
        return f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="1.2" fill="{color}"/>'
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    head = min(4.0, length)
    left = (x1 - head * ux + 0.6 * head * uy, y1 - head * uy - 0.6 * head * ux)
    right = (x1 - head * ux - 0.6 * head * uy, y1 - head * uy + 0.6 * head * ux)
    path = (
        f"M{x0:.1f},{y0:.1f}L{x1:.1f},{y1:.1f}M{left[0]:.1f},{left[1]:.1f}L{x1:.1f},{y1:.1f}"
        f"L{right[0]:.1f},{right[1]:.1f}"
    )
    return f'<path d="{path}" stroke="{color}" stroke-width="{width}"/>'
