"""A run as an animated picture: what the camera sees, the goal image beside it, and how energy falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vjepa_ac_planner.errors import MissingDependencyError
from vjepa_ac_planner.report.overlay import GOAL, PLAN, TRAIL
from vjepa_ac_planner.report.records import Image, Points, Report

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.Image import Image as Picture

VIEW, SIDE, GAP = 360, 216, 16
"""Edge of the camera image, width of the column beside it, and the space around them [pixels]."""
STEP_MS = 500
"""Time that one step is shown for."""
INK, MUTED, PAPER, RULE, ACCENT = "#16181d", "#656b76", "#f7f7f5", "#dcddd9", "#2458d3"
REACHED = "#16794a"


def require_pillow() -> None:
    """Say that Pillow is missing before the work whose pictures it would write.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("animated pictures need Pillow: pip install pillow") from error


def write_gif(path: str | Path, report: Report, film: Sequence[Image]) -> None:
    """Write the run as a GIF that loops, each step shown for ``STEP_MS``, the last picture for 2 s.

    Args:
        path: file to write.
        report: of the run.
        film: pictures of the run in equal intervals, the first at its start, the last at its end.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    require_pillow()
    from PIL import Image as Pillow

    steps = len(report.steps)
    pictures = [
        _compose(report, image, index * steps / (len(film) - 1)) for index, image in enumerate(film)
    ]
    palette = _palette([pictures[0], pictures[len(pictures) // 2], pictures[-1]])
    flat = [picture.quantize(palette=palette, dither=Pillow.Dither.NONE) for picture in pictures]
    interval = round(STEP_MS * steps / (len(film) - 1))
    durations = [interval] * (len(flat) - 1) + [2000]
    flat[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=flat[1:],
        duration=durations,
        loop=0,
        optimize=False,
    )


def _palette(samples: Sequence[Picture]) -> Picture:
    """One palette for all pictures, so that the still parts stay still and are stored once.

    The colours of the marks are put in by hand: they cover too few pixels to be found.
    """
    from PIL import Image as Pillow
    from PIL import ImageColor

    marks = [
        ImageColor.getrgb(color) for color in (GOAL, PLAN, TRAIL, INK, MUTED, PAPER, RULE, ACCENT, REACHED)
    ]
    sample = Pillow.fromarray(np.concatenate([np.asarray(picture) for picture in samples]))
    found = sample.quantize(128 - len(marks), dither=Pillow.Dither.NONE).getpalette() or []
    palette = Pillow.new("P", (1, 1))
    palette.putpalette([*found, *(value for color in marks for value in color[:3])])
    return palette


def _compose(report: Report, image: Image, position: float) -> Picture:
    """One picture; ``position`` counts steps from the start. Drawn twice as large, for smooth edges."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    width, height = 2 * (VIEW + SIDE + 3 * GAP), 2 * (VIEW + 2 * GAP)
    canvas = Pillow.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    big, small = ImageFont.load_default(40), ImageFont.load_default(24)
    edge = 2 * GAP

    canvas.paste(Pillow.fromarray(_resized(image, 2 * VIEW)), (edge, edge))
    _marks(draw, report, position, edge, 2 * VIEW / image.shape[1])

    left = 2 * (VIEW + 2 * GAP)
    step = min(int(position), len(report.steps) - 1)
    distances = [s.distance for s in report.steps] + [report.final_distance]
    distance = float(np.interp(position, range(len(distances)), distances))
    goal = 2 * 176
    draw.text((left, edge - 4), "goal image", MUTED, small)
    canvas.paste(Pillow.fromarray(_resized(report.goal_image, goal)), (left, edge + 34))
    top = edge + goal + 64
    ended = position >= len(report.steps)
    draw.text((left, top), f"{distance * 100:.1f} cm to the goal", INK, big)
    note = (
        "end" if ended else f"step {step + 1}, planned in {report.steps[step].plan_seconds * 1000:.0f} ms"
    )
    draw.text((left, top + 54), note, MUTED, small)
    _curve(draw, (left, top + 130, width - edge, height - edge), distances, position, report.threshold)
    draw.text((left, top + 96), "distance", MUTED, small)
    return canvas.resize((width // 2, height // 2), Pillow.Resampling.LANCZOS)


def _marks(draw: ImageDraw.ImageDraw, report: Report, position: float, offset: int, scale: float) -> None:
    """The overlay of the page, drawn with lines."""

    def place(points: Points) -> list[tuple[float, float]]:
        return [(offset + scale * float(x), offset + scale * float(y)) for x, y in points]

    count = int(position)
    ((x, y),) = place(np.array([report.goal_pixel]))
    draw.ellipse((x - 18, y - 18, x + 18, y + 18), outline=GOAL, width=5)
    trail = list(report.trail[: count + 1])
    if count < len(report.steps):
        share = position - count
        trail.append((1 - share) * report.trail[count] + share * report.trail[count + 1])
    spots = place(np.array(trail))
    draw.line(spots, TRAIL, 4, joint="curve")
    if count < len(report.steps):
        path = report.steps[count].path
        if len(path) > 1 and np.isfinite(path).all():
            line = place(path)
            draw.line(line, PLAN, 6, joint="curve")
            for x, y in line[1:]:
                draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=PLAN, outline=INK, width=2)


def _curve(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    values: Sequence[float],
    position: float,
    threshold: float,
) -> None:
    """A small line chart that grows with the run; the dashed line is where the goal counts as reached."""
    left, top, right, bottom = box
    highest = 1.05 * max(values)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / (len(values) - 1) * (right - left - 12), bottom - y / highest * (bottom - top)

    draw.line((left, bottom, right, bottom), RULE, 3)
    level = place(0, threshold)[1]
    for dash in range(left, right, 24):
        draw.line((dash, level, min(dash + 12, right), level), REACHED, 3)
    seen = [place(x, values[x]) for x in range(int(position) + 1)]
    if position > int(position):
        seen.append(place(position, float(np.interp(position, range(len(values)), values))))
    if len(seen) > 1:
        draw.line(seen, ACCENT, 6, joint="curve")
    x, y = seen[-1]
    draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=ACCENT)


def _resized(image: Image, size: int) -> Image:
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)
