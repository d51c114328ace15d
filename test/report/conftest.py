from __future__ import annotations

import numpy as np
import pytest

from vjepa_ac_planner.report.records import EpisodeRow, Landscape, Report, StepRecord


@pytest.fixture
def make_report():
    """A report over made-up records; options replace its fields."""
    rng = np.random.default_rng(0)

    def picture(size: int = 64) -> np.ndarray:
        return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)

    def step(distance: float, **options) -> StepRecord:
        values = {
            "image": picture(),
            "distance": distance,
            "energy": 0.21,
            "zero_energy": 0.34,
            "plan_seconds": 0.123,
            "kind": "move",
            "reason": "",
            "path": np.array([[10.0, 20.0], [30.5, 40.25]]),
            "best_energy": (0.3, 0.25, 0.21),
            "elite_energy": (0.33, 0.28, 0.24),
        }
        return StepRecord(**{**values, **options})

    def make(steps: tuple[dict, ...] = ({}, {}), **options) -> Report:
        records = tuple(step(0.2 - 0.05 * i, **more) for i, more in enumerate(steps))
        energies = np.add.outer(np.arange(5.0), np.arange(5.0))
        values = {
            "task": "reach",
            "seed": 7,
            "model": "panda-sim",
            "preset": "demo",
            "threshold": 0.04,
            "reached": True,
            "stop_reason": "no plan improved on standing still",
            "goal_image": picture(),
            "final_image": picture(),
            "final_distance": 0.0123,
            "steps": records,
            "goal_pixel": (33.0, 44.0),
            "trail": np.array([[5.0 + i, 6.0] for i in range(len(records) + 1)]),
            "model_views": {key: picture(16) for key in ("start", "goal", "final")},
            "landscapes": (Landscape("Step 1", ("dx", "dy"), 0.075, energies, (0.01, 0.02), (0.0, 0.05)),),
            "episodes": (EpisodeRow(8, 0.25, 0.01, 5, True, 0.1), EpisodeRow(9, 0.3, 0.2, 12, False, 0.1)),
            "timings": {"encode": (0.01, 0.02), "total": (0.123, 0.2)},
            "limits": "One camera only.",
            "command": "vjepa-ac demo --seed 7",
            "versions": {"torch": "2.0"},
        }
        return Report(**{**values, **options})

    return make
