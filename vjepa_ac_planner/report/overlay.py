"""Marks over a camera image: where the fingertips were, where the plan expects them, where the goal is."""

from __future__ import annotations

import numpy as np

from vjepa_ac_planner.report.records import Points

PLAN, GOAL, TRAIL = "#ffd400", "#ff5c8a", "#ffffff"
"""Colours that stand out from wood, walls and the arm alike."""


def overlay(
    size: tuple[int, int], goal: tuple[float, float], trail: Points, path: Points | None = None
) -> str:
    """SVG that covers an image.

    Args:
        size: width and height of the image [pixels].
        goal: where the goal lies [pixels].
        trail: [N, 2] where the fingertips have been.
        path: [H + 1, 2] where the plan expects them to go, or None.
    """
    width, height = size
    u = width / 512  # strokes keep their weight whatever the resolution
    parts = [
        f'<svg viewBox="0 0 {width} {height}" fill="none" stroke-linecap="round" stroke-linejoin="round">',
        _ring(*goal, 13 * u, "#000", 5 * u, 0.45),
        _ring(*goal, 13 * u, GOAL, 3 * u),
    ]
    if len(trail) > 1:
        parts += [_polyline(trail, "#000", 5 * u, 0.4), _polyline(trail, TRAIL, 2.6 * u)]
    parts += [_dot(x, y, 4 * u, TRAIL, u) for x, y in trail]
    if path is not None and np.isfinite(path).all():
        parts += [_polyline(path, "#000", 7 * u, 0.5), _polyline(path, PLAN, 4 * u)]
        parts += [_dot(x, y, 5.5 * u, PLAN, 1.2 * u) for x, y in path[1:]]
    return "".join(parts) + "</svg>"


def legend() -> str:
    """What the marks of :func:`overlay` mean."""

    def item(marks: str, text: str) -> str:
        return f'<li><svg viewBox="0 0 26 14" fill="none" stroke-linecap="round">{marks}</svg>{text}</li>'

    line = np.array([[3.0, 7.0], [22.0, 7.0]])
    plan = _polyline(line, "#000", 5, 0.5) + _polyline(line, PLAN, 3) + _dot(21, 7, 4, PLAN, 1)
    trail = _polyline(line, "#000", 5, 0.4) + _polyline(line, TRAIL, 2.6)
    return (
        '<ul class="legend">'
        + item(plan, "where the plan expects the fingertips to go")
        + item(trail, "where they have been")
        + item(_ring(13, 7, 5, GOAL, 2.4), "where the goal lies (for you; the planner does not know)")
        + "</ul>"
    )


def _polyline(points: Points, color: str, width: float, opacity: float = 1.0) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{text}" stroke="{color}" '
        f'stroke-width="{width:.1f}" stroke-opacity="{opacity:g}"/>'
    )


def _ring(x: float, y: float, radius: float, color: str, width: float, opacity: float = 1.0) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" stroke="{color}" '
        f'stroke-width="{width:.1f}" stroke-opacity="{opacity:g}"/>'
    )


def _dot(x: float, y: float, radius: float, color: str, rim: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{color}" '
        f'stroke="#000" stroke-opacity=".55" stroke-width="{rim:.1f}"/>'
    )
