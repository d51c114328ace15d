from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner.report.charts import Series, line_chart, ticks
from vjepa_ac_planner.report.heatmap import colorize, heat_map
from vjepa_ac_planner.report.records import Landscape


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_cover_the_range_with_round_numbers(low, width):
    high = low + width
    found = ticks(low, high)
    step = found[1] - found[0]
    slack = 1e-6 * max(abs(low), abs(high), step)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 8
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(math.isclose(mantissa, m, rel_tol=1e-4) for m in (1, 2, 5, 10))


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'<polyline[^>]* points="([^"]*)"', svg)
    ]


def test_higher_values_are_drawn_higher():
    (line,) = points(line_chart([Series("s", [1.0, 3.0, 2.0])], x_label="x", y_label="y"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x0 < x1 < x2 and y1 < y2 < y0
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)


def test_a_chart_from_zero_shows_zero():
    svg = line_chart([Series("s", [5.0, 6.0])], x_label="x", y_label="y")
    assert ">0</text>" in svg
    assert ">0</text>" not in line_chart(
        [Series("s", [5.0, 6.0], first=1)], x_label="x", y_label="y", y_from_zero=False
    )


def test_the_reference_lies_where_a_value_of_its_height_would():
    svg = line_chart([Series("s", [4.0, 8.0])], x_label="x", y_label="y", reference=(4.0, "limit"))
    level = float(re.search(r'class="reference"[^>]* y1="([\d.]+)"', svg)[1])
    assert level == points(svg)[0][0][1]


def test_values_that_are_not_finite_are_left_out():
    svg = line_chart([Series("s", [1.0, math.nan, math.inf, 2.0])], x_label="x", y_label="y")
    assert len(points(svg)[0]) == 2


def test_the_lowest_energy_is_the_lightest():
    values = np.array([[0.3, 0.1], [0.2, np.nan]])
    light = colorize(values).sum(axis=2)
    assert light[0, 1] > light[1, 0] > light[0, 0] == light[1, 1]


def test_a_mark_lies_on_the_cell_whose_action_it_is():
    """The map's cells and its marks must share one scale: put the chosen action on a grid point."""
    count, span = 5, 0.1
    grid = np.linspace(-span, span, count)
    energies = np.ones((count, count))
    row, column = 4, 1
    svg = heat_map(
        Landscape("t", ("dx", "dy"), span, energies, chosen=(grid[column], grid[row]), truth=(0, 0))
    )
    x, y, side = (
        float(re.search(rf'<image [^>]*\b{name}="([\d.]+)"', svg)[1]) for name in ("x", "y", "width")
    )
    cx, cy = (float(v) for v in re.search(r'class="chosen" d="M([\d.]+),([\d.]+)h14', svg).groups())
    assert (cx + 7 - x) / side * count == pytest.approx(column + 0.5, abs=0.01)
    assert (cy - y) / side * count == pytest.approx(count - 1 - row + 0.5, abs=0.01), "up is positive"
