"""The figures this planner is held to at the published size: a row for each, with its bound."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.bench.device import GIB, memory_of_at_most, peak_memory, reset_peak_memory
from vjepa_ac_planner.bench.flops import rollout_flops
from vjepa_ac_planner.bench.plans import count_evaluations, time_plans
from vjepa_ac_planner.bench.timing import Budget
from vjepa_ac_planner.errors import PlannerError

if TYPE_CHECKING:
    import torch

    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.world_model import WorldModel

Load = Callable[..., "WorldModel"]
"""``load(dtype)`` or ``load(dtype, memory_limit=bytes)``: the model under test."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    value: float | None
    """None: not measured, and ``note`` says why."""
    unit: str
    bound: float
    at_least: bool = False
    """Whether more is better."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value keeps its bound; None if there is no value."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def record(self) -> dict[str, Any]:
        """As JSON."""
        sign = ">=" if self.at_least else "<="
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": f"{sign} {self.bound:g}",
            "met": self.met,
            "note": self.note,
        }


def paper_plan() -> PlannerConfig:
    """800 candidates, 10 iterations, horizon 1."""
    from vjepa_ac_planner.planning.presets import PlannerConfig

    return PlannerConfig.preset("paper")


def long_plan() -> PlannerConfig:
    """300 candidates, 15 iterations, horizon 8."""
    from vjepa_ac_planner.planning.presets import PlannerConfig

    size = {"samples": 300, "iterations": 15}
    return PlannerConfig.preset("paper", {"horizon": 8, "optimiser": "cem", "cem": size})


@dataclass(frozen=True)
class _Measured:
    seconds: float | None = None
    optimise_s: float = 0.0
    memory: float | None = None
    note: str = ""


class Bench:
    """Fills the table, plan by plan, each on a model of its own, so that memory is its own too.

    A plan that would take longer than the budget has left is not made, and its row says so.

    Args:
        load: makes the model, on the device under test.
        description: what the model is.
        device: the device under test.
        steps_per_s: candidate steps a second, as measured before, to foresee what fits.
        budget: how long, all together.
    """

    def __init__(
        self,
        load: Load,
        description: ModelDescription,
        device: torch.device,
        steps_per_s: float,
        budget: Budget,
    ) -> None:
        self._load, self._description, self._device = load, description, device
        self._steps_per_s, self._budget = steps_per_s, budget
        self._model: tuple[str, WorldModel] | None = None

    def rows(
        self,
        dtype: str,
        peak: float,
        encode_s: float,
        realtime: PlannerConfig | None,
        small_card: float = 8 * GIB,
    ) -> list[Row]:
        """The table.

        Args:
            dtype: what to compute in, but for the row on float8.
            peak: the device's matrix products in ``dtype`` [FLOP/s].
            encode_s: time of encoding one frame [s].
            realtime: the preset of this name, if there is one.
            small_card: memory of the card that is to be enough [bytes].
        """
        paper, long = self.plan(paper_plan(), dtype), self.plan(long_plan(), dtype)
        quick = _Measured() if realtime is None else self.plan(realtime, dtype)
        small = self.plan(paper_plan(), dtype, small_card)
        float8 = self.plan(paper_plan(), "float8")
        share = None
        if paper.seconds is not None:
            work = rollout_flops(self._description.predictor, 1) * 800 * 10
            share = 100.0 * work / paper.optimise_s / peak
        name = "800 x 10, horizon 1"
        return [
            Row(f"{name}: a plan", paper.seconds, "s", 2.5, note=paper.note),
            Row(f"{name}: of the matrix products", share, "%", 65, True, paper.note),
            Row(f"{name}, float8: a plan", float8.seconds, "s", paper.seconds or 2.5, note=float8.note),
            Row("preset realtime: a plan", quick.seconds, "s", 0.15, note=quick.note),
            Row("300 x 15, horizon 8: a plan", long.seconds, "s", 10, note=long.note),
            Row("encode one frame", encode_s * 1e3, "ms", 5),
            Row(f"{name}: peak memory", paper.memory, "GiB", 16, note=paper.note),
            Row(f"{name}, limited: peak memory", small.memory, "GiB", small_card / GIB, note=small.note),
        ]

    def plan(self, config: PlannerConfig, dtype: str, limit: float | None = None) -> _Measured:
        """Time plans of one kind for a share of the budget, or say why not."""
        from vjepa_ac_planner.planning.planner import Planner

        if limit is not None and self._device.type != "cuda":
            return _Measured(note="needs a GPU")
        expected = count_evaluations(self._description, config) * config.horizon / self._steps_per_s
        if 2.2 * expected > self._budget.left:  # one to warm up, one to time
            return _Measured(note=f"not measured: a plan would take about {expected:.0f} s here")
        try:
            with _limited(self._device, limit):
                planner = Planner(self._of(dtype, limit), config)
                reset_peak_memory(self._device)
                figures = time_plans(planner, self._budget.share(1, 4), count=20)
                memory = peak_memory(self._device) / GIB
        except PlannerError as error:  # of this row: the others are measured all the same
            return _Measured(note=str(error))
        note = f"median of {figures['plans']}"
        return _Measured(figures["p50_s"], figures["optimise_s"], memory, note)

    def _of(self, dtype: str, limit: float | None) -> WorldModel:
        """The model in this dtype; only the last one is kept, since two might not fit the device."""
        key = f"{dtype} {limit}"
        if self._model is None or self._model[0] != key:
            self._model = None
            self._model = key, self._load(dtype) if limit is None else self._load(dtype, memory_limit=limit)
        return self._model[1]


def _limited(device: torch.device, limit: float | None) -> AbstractContextManager[None]:
    return nullcontext() if limit is None else memory_of_at_most(device, limit)
