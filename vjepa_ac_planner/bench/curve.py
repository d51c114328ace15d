"""Quality against budget: how low an energy each optimiser reaches with how many evaluations.

Everything runs on the same problems in the search space of one preset, ``paper`` unless told otherwise, so
energies can be compared. The energy is that of the sequence that would be executed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from vjepa_ac_planner.bench.budget import with_budget
from vjepa_ac_planner.bench.chart import loglog_chart
from vjepa_ac_planner.bench.problems import Problem
from vjepa_ac_planner.bench.timing import settle
from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.planning.planner import Planner, PlanningModel
from vjepa_ac_planner.planning.presets import OptimiserName, PlannerConfig, preset_names

OPTIMISERS: tuple[OptimiserName, ...] = get_args(OptimiserName)
BUDGETS = (32, 64, 128, 256, 512)
DRAWS = 4000
"""Of the bootstrap."""


def quality_curve(
    model: PlanningModel,
    problems: Sequence[Problem],
    names: Sequence[str] = OPTIMISERS,
    budgets: Sequence[int] = BUDGETS,
    seed: int = 0,
    *,
    reference: str = "paper",
    with_reference: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run optimisers at several budgets, and presets as they are, over the same problems.

    Args:
        model: the world model.
        problems: see :func:`~vjepa_ac_planner.bench.problems.load_problems`.
        names: optimisers and presets. A preset searches in its own way, but in the reference's space.
        budgets: evaluations to give each optimiser.
        seed: of the searches; problem i uses ``seed + i``, whoever searches.
        reference: preset whose space, horizon and energy everything uses.
        with_reference: also run the reference itself, and compare with it. It may take long.
        progress: called with the number of problems done and of all.

    Returns:
        Ready for JSON: ``model``, ``problems``, ``seeds``, ``reference``, ``zero_energy`` (median of
        standing still) and ``runs``. Each run has

        - ``name``, ``budget`` (None for presets) and ``evaluations`` (mean),
        - ``median_energy``, and ``energies`` of every problem,
        - ``excess``: median of the energy above the least that any run found, as a share of what standing
          still has above it,
        - ``seconds``: median of a search,
        - with the reference: ``of_reference``, median energy over the reference's, and ``less_reference``,
          see :func:`paired_difference`.

    Raises:
        ConfigError: an unknown name, or a seed out of range.
        InputError: no problems.
    """
    check_range("seed", seed, 0, 2**62)
    if not problems:
        raise InputError("problems: received none, at least one is needed")
    base = PlannerConfig.preset(reference)
    methods = _methods(names, budgets, base)
    if with_reference:
        methods.setdefault((reference, None), base)
    rows = {key: _Row() for key in methods}
    zero = []
    for index, problem in enumerate(problems):
        with torch.inference_mode():
            z_goal = model.encode([problem.goal])[0]
        # One scorer for all: it does not know who asks.
        planner = Planner(model, base)
        energy = planner.energy(problem.observation, z_goal)
        still = torch.zeros(1, base.horizon, 7, device=model.device)
        with torch.inference_mode():
            zero.append(float(energy(still)))
        for key, config in methods.items():
            rows[key].run(model, config, energy, problem, seed + index)
        if progress is not None:
            progress(index + 1, len(problems))
    return _summary(model, problems, seed, reference, rows, np.array(zero))


class _Row:
    """What one method did on all problems so far."""

    def __init__(self) -> None:
        self.energies: list[float] = []
        self.evaluations: list[int] = []
        self.seconds: list[float] = []

    def run(
        self, model: PlanningModel, config: PlannerConfig, energy: Any, problem: Problem, seed: int
    ) -> None:
        planner = Planner(model, config)
        wait = settle(model.device)
        begin = time.perf_counter()
        found = planner.optimiser.optimise(
            energy, planner.space(problem.observation), generator=torch.Generator().manual_seed(seed)
        )
        wait()
        self.seconds.append(time.perf_counter() - begin)
        self.evaluations.append(found.evaluations)
        with torch.inference_mode():
            self.energies.append(float(energy(found.actions[None])))


def _methods(
    names: Sequence[str], budgets: Sequence[int], base: PlannerConfig
) -> dict[tuple[str, int | None], PlannerConfig]:
    methods: dict[tuple[str, int | None], PlannerConfig] = {}
    for name in names:
        if name in OPTIMISERS:
            chosen = replace(base, optimiser=OPTIMISERS[OPTIMISERS.index(name)])
            methods |= {(name, budget): with_budget(chosen, budget) for budget in budgets}
        elif name in preset_names():
            preset = PlannerConfig.preset(name)
            # The scoring of candidates belongs to how it searches; bounds and axes are the reference's.
            search = replace(base.search, dead_zone_in_search=preset.search.dead_zone_in_search)
            methods[name, None] = replace(
                preset, horizon=base.horizon, energy_over=base.energy_over, search=search
            )
        else:
            raise ConfigError(
                f"names: received {name!r}, allowed {', '.join((*OPTIMISERS, *preset_names()))}"
            )
    return methods


def _summary(
    model: PlanningModel,
    problems: Sequence[Problem],
    seed: int,
    reference: str,
    rows: dict[tuple[str, int | None], _Row],
    zero: npt.NDArray[np.float64],
) -> dict[str, Any]:
    floor = np.stack([zero, *(np.array(row.energies) for row in rows.values())]).min(axis=0)
    span = np.maximum(zero - floor, np.finfo(np.float64).tiny)
    known = rows.get((reference, None))
    runs = []
    for (name, budget), row in rows.items():
        energies = np.array(row.energies)
        run: dict[str, Any] = {
            "name": name,
            "budget": budget,
            "evaluations": float(np.mean(row.evaluations)),
            "median_energy": median(row.energies),
            "excess": float(np.median((energies - floor) / span)),
            "seconds": median(row.seconds),
            "energies": row.energies,
        }
        if known is not None:
            run["of_reference"] = median(row.energies) / median(known.energies)
            run["less_reference"] = paired_difference(energies, np.array(known.energies))
        runs.append(run)
    return {
        "model": getattr(model.description, "name", "unknown"),
        "problems": len(problems),
        "seeds": [problem.seed for problem in problems],
        "kinds": [problem.kind for problem in problems],
        "distances": [problem.distance for problem in problems],
        "seed": seed,
        "reference": reference if known is not None else None,
        "zero_energy": float(np.median(zero)),
        "zero_energies": zero.tolist(),
        "runs": runs,
    }


def paired_difference(
    energies: npt.NDArray[np.float64], others: npt.NDArray[np.float64], draws: int = DRAWS
) -> dict[str, Any]:
    """How much lower or higher than another's energies on the same problems, with 95% bootstrap intervals.

    Args:
        energies: [P].
        others: [P].
        draws: problems are drawn anew this often, in pairs.

    Returns:
        ``of_medians`` and ``median`` (of the differences over the problems), each a mapping with ``value``
        and ``ci95``; ``lower`` and ``higher``, on how many problems it is so by more than rounding.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(energies), size=(draws, len(energies)))
    a, b, difference = energies[drawn], others[drawn], (energies - others)[drawn]

    def estimate(value: float, samples: npt.NDArray[np.float64]) -> dict[str, Any]:
        return {"value": value, "ci95": np.percentile(samples, [2.5, 97.5]).tolist()}

    rounding = 1e-6 * np.abs(others)
    return {
        "of_medians": estimate(
            float(np.median(energies) - np.median(others)), np.median(a, axis=1) - np.median(b, axis=1)
        ),
        "median": estimate(float(np.median(energies - others)), np.median(difference, axis=1)),
        "lower": int((energies < others - rounding).sum()),
        "higher": int((energies > others + rounding).sum()),
    }


def plot_curve(curve: dict[str, Any], path: str | Path) -> None:
    """Draw what :func:`quality_curve` gave as an SVG: a line per optimiser, a mark per preset."""
    lines: dict[str, list[tuple[float, float]]] = {}
    marks: dict[str, tuple[float, float]] = {}
    for run in curve["runs"]:
        point = (run["evaluations"], run["excess"])
        if run["budget"] is None:
            marks[run["name"]] = point
        else:
            lines.setdefault(run["name"], []).append(point)
    svg = loglog_chart(
        {name: sorted(points) for name, points in lines.items()},
        marks,
        title=f"{curve['model']}: {curve['problems']} planning problems",
        x_label="evaluations per plan (a gradient counts three)",
        y_label="median energy above the best found, standing still = 1",
    )
    Path(path).write_text(svg, encoding="utf-8")
