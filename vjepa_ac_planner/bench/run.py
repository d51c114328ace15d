"""One run of the benchmark: its sections in order, each with its share of the time, into one record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vjepa_ac_planner.bench import comparison, engine, plans, profile, scaling, targets
from vjepa_ac_planner.bench.device import environment, matmul_flops
from vjepa_ac_planner.bench.models import Models
from vjepa_ac_planner.bench.reference import require_checkout
from vjepa_ac_planner.bench.timing import Budget, Clock
from vjepa_ac_planner.errors import ConfigError, InputError, PlannerError
from vjepa_ac_planner.planning.presets import PlannerConfig, preset_names

FULL_SIZE = "vjepa2-ac-vitg"
"""The published architecture."""
WEIGHTS: Mapping[str, float] = {
    "engine": 4.0,
    "encoder": 0.7,
    "ratio": 4.0,
    "presets": 5.0,
    "curve": 4.0,
    "scaling": 4.0,
    "variants": 1.5,
    "profile": 1.0,
    "targets": 10.0,
}
"""Sections in their order, and the share of the time that each may take."""
USUAL = ("engine", "encoder", "ratio", "presets", "curve", "scaling")
QUICK_SECONDS, SECONDS = 40.0, 300.0
LEAST = 0.2
"""A section with less time than this is left out, and named in the record [s]."""
ALWAYS = ("engine", "ratio", "presets")
"""Sections that are never left out: one round of few candidates, and estimates from it, are soon done."""


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, on what, and for how long."""

    model: str = "panda-sim"
    """A model by name or path."""
    device: str = "auto"
    """Where it runs."""
    dtype: str = "auto"
    """What it computes in: float32, bfloat16, float8, or what suits the device."""
    untrained: bool = False
    """Random weights in place of the model's own."""
    compile: bool | None = None
    """Whether ``torch.compile`` fuses the networks; None: on a GPU."""
    quick: bool = False
    """Fewer cells."""
    seconds: float = SECONDS
    """How long all measurements together may take, about [s]."""
    sections: tuple[str, ...] = USUAL
    """Which of ``WEIGHTS``."""
    reference: Path | None = None
    """A checkout of the public reference, to compare with."""
    samples: int | None = None
    """Candidates of a measurement; None: what the time is enough for."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    """Horizons of the engine."""
    presets: tuple[str, ...] | None = None
    """Which presets to time; None: all."""
    plans: int = 20
    """At most so many plans of each preset."""


class Bench:
    """Runs the sections of a configuration.

    Args:
        config: what to measure.
        say: told what is being done.
        clock: what the time is.
        begun: when the command began, on this clock; what has passed since is taken off the time.
    """

    def __init__(
        self,
        config: BenchConfig,
        say: Callable[[str], None] = lambda text: None,
        clock: Clock = time.perf_counter,
        begun: float | None = None,
    ) -> None:
        unknown = [name for name in config.sections if name not in WEIGHTS]
        if unknown:
            raise InputError(f"sections: received {unknown[0]!r}, allowed {', '.join(WEIGHTS)}")
        for name in config.presets or ():
            PlannerConfig.preset(name)
        if config.reference is not None:
            require_checkout(config.reference)
        self.config, self._say, self._clock = config, say, clock
        self._begun = clock() if begun is None else begun
        self._peaks: dict[str, float] = {}
        self.models: Models
        """Loaded by :meth:`run`."""

    def run(self) -> dict[str, Any]:
        """Measure, and return the record that is written as JSON.

        Raises:
            PlannerError: no such model, device or checkout.
        """
        import torch

        config = self.config
        passed = self._clock() - self._begun
        budget = Budget(config.seconds - passed, self._clock)
        self.models = models = Models(
            config.model,
            device=config.device,
            dtype=config.dtype,
            compile=config.compile,
            untrained=config.untrained,
        )
        device = models.model.device
        record: dict[str, Any] = {
            "model": models.model.description.name,
            "weights": "random" if config.untrained else "its own",
            "dtype": models.name,
            "compiled": models.compiled,
            "quick": config.quick,
            "environment": environment(device),
            "engine": {},
            "presets": {},
            "ratio_to_reference": {},
            "curve": None,
            "skipped": [],
        }
        names = [models.name] + [n for n in ("float32", "bfloat16") if n != models.name]
        self._peaks = {
            name: matmul_flops(device, getattr(torch, name), 0.2 if config.quick else 1.0)
            for name in names
            if name != "float8"
        }
        if models.name == "float8":
            self._peaks["float8"] = self._peaks["bfloat16"]  # a share above 100 % is what float8 is for
        record["matmul_tflops"] = {name: peak / 1e12 for name, peak in self._peaks.items()}
        todo = [name for name in WEIGHTS if name in config.sections and self._has_part(name)]
        for number, name in enumerate(todo):
            share = budget.share(WEIGHTS[name], sum(WEIGHTS[n] for n in todo[number:]))
            if share.left < LEAST and name not in ALWAYS:
                record["skipped"].append(name)
                continue
            self._say(f"{name} ({share.left:.0f} s) ...")
            record |= getattr(self, f"_{name}")(share, record)
        record["seconds"] = self._clock() - self._begun
        return record

    def _has_part(self, section: str) -> bool:
        return section != "ratio" or self.config.reference is not None

    def _engine(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """By horizon in the model's own dtype, and at the first horizon in the others."""
        horizons = self.config.horizons[:3] if self.config.quick else self.config.horizons
        cells = [(self.models.name, h) for h in horizons]
        cells += [(name, horizons[0]) for name in self._peaks if name != self.models.name]
        by_horizon: dict[str, dict[str, Any]] = {}

        def cell(of: tuple[str, int], share: Budget) -> dict[str, Any]:
            name, horizon = of
            row = engine.score_rate(
                self.models.of(name), horizon, self.config.samples, self._peaks[name], share
            )
            by_horizon.setdefault(str(horizon), {})[name] = row
            return row

        engine.sweep(cell, cells, budget)
        headline = by_horizon[str(horizons[0])][self.models.name]
        return {"engine": {**headline, "dtype": self.models.name, "by_horizon": by_horizon}}

    def _encoder(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"encoder": engine.encoder_rate(self.models.model, self._peaks[self.models.name], budget)}

    def _ratio(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Ours against the reference."""
        config = self.config
        assert config.reference is not None
        found = comparison.against_reference(
            self.models,
            config.reference,
            self._peaks,
            config.samples,
            lambda: self._rate(record),
            budget,
            few=config.quick,
        )
        return {"ratio_to_reference": found["ratio"], "reference": found}

    def _presets(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Every preset, the cheapest first."""
        rate = self._rate(record)
        description = self.models.model.description
        configs = {}
        for name in self.config.presets or preset_names():
            config = PlannerConfig.preset(name)
            if config.search.stay_in_workspace and description.workspace is None:
                config = PlannerConfig.preset(name, {"search": {"stay_in_workspace": False}})
            configs[name] = config
        work = {n: plans.count_evaluations(description, c) * c.horizon for n, c in configs.items()}
        rows: dict[str, Any] = {}
        notes = []
        for number, name in enumerate(sorted(configs, key=work.__getitem__)):
            share = budget.share(1, len(configs) - number)
            try:
                rows[name] = plans.bench_preset(
                    self.models.model, configs[name], rate, share, self.config.plans
                )
            except ConfigError as error:  # no gradients in float8; the others are timed all the same
                notes.append(f"{name}: {error}")
        return {"presets": rows, "presets_note": "; ".join(notes)}

    def _curve(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Quality against evaluations on the stored problems, as many of them as fit."""
        from vjepa_ac_planner.bench import curve, problems

        rate = self._rate(record)
        budgets = curve.BUDGETS[:3] if self.config.quick else curve.BUDGETS
        try:
            stored = problems.load_problems(seeds=problems.SHOWING)
        except PlannerError as error:
            return {"curve": None, "curve_note": str(error)}
        # How long a problem takes is seen on one: small populations and gradients are not the engine's.
        least = len(curve.OPTIMISERS) * sum(budgets) / rate
        if least > budget.left:
            return {"curve": None, "curve_note": f"one problem would take more than {least:.0f} s here"}
        begin = self._clock()
        try:
            found = curve.quality_curve(
                self.models.model, stored[:1], budgets=budgets, with_reference=False
            )
        except ConfigError as error:  # no gradients in float8
            return {"curve": None, "curve_note": str(error)}
        count = min(len(stored), int(budget.left / max(self._clock() - begin, 1e-9)))
        if count > 1:
            spread = stored[:: len(stored) // count][:count]
            found = curve.quality_curve(self.models.model, spread, budgets=budgets, with_reference=False)
        return {"curve": found}

    def _scaling(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "scaling": scaling.scaling(
                self.models, self._peaks[self.models.name], budget, few=self.config.quick
            )
        }

    def _variants(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Two ways of doing the same thing, timed in turn: cached or not, float32 or bfloat16."""
        models = {name: self.models.of(name) for name in ("float32", "bfloat16")}
        return {"variants": comparison.variants(models, self.config.samples or 16, budget)}

    def _targets(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        rate = self._rate(record)
        encoder = record.get("encoder") or self._encoder(budget.share(1, 20), record)["encoder"]
        realtime = PlannerConfig.preset("realtime") if "realtime" in preset_names() else None
        dtype = "bfloat16" if self.models.name == "float8" else self.models.name
        description, device = self.models.model.description, self.models.model.device
        self.models.forget()  # their memory would count in the peaks
        bench = targets.Bench(self.models.load, description, device, rate, budget)
        rows = bench.rows(dtype, self._peaks[dtype], encoder["p50_s"], realtime)
        return {"targets": [row.record() for row in rows]}

    def _profile(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"profile": profile.of_scoring(self.models.model, self.config.samples or 64)}

    def _rate(self, record: Mapping[str, Any]) -> float:
        """Candidate steps a second as measured; roughly, if the engine's section was not asked for."""
        if record["engine"]:
            return float(record["engine"]["candidate_steps_per_s"])
        budget = Budget(2.0, self._clock)
        row = engine.score_rate(self.models.model, 1, self.config.samples, 1.0, budget, rounds=2)
        return float(row["candidate_steps_per_s"])


def plot(record: Mapping[str, Any], path: Path) -> None:
    """Draw the scaling section as an SVG: candidates a second against candidates, and image tokens.

    Raises:
        InputError: the section was not measured.
    """
    from vjepa_ac_planner.bench.chart import loglog_chart

    scaling = record.get("scaling") or {}
    lines = {
        f"against {label}": [(row[key], row["candidates_per_s"]) for row in scaling.get(part, ())]
        for part, key, label in (
            ("samples", "samples", "candidates"),
            ("image_tokens", "tokens", "tokens"),
        )
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        raise InputError(
            "plot: draws the section 'scaling', which was not measured; add it to the sections"
        )
    svg = loglog_chart(
        lines,
        {},
        title=f"{record['model']}, {record['dtype']}, {record['environment']['device']}",
        x_label="candidates at a time, or tokens of an image",
        y_label="candidates per second, horizon 1",
    )
    path.write_text(svg, encoding="utf-8")
