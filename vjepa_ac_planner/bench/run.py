"""One run of the benchmark: its sections in order, each with its share of the time, into one record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vjepa_ac_planner.bench import comparison, engine, plans, profile, targets
from vjepa_ac_planner.bench.device import environment, matmul_flops
from vjepa_ac_planner.bench.reference import require_checkout
from vjepa_ac_planner.bench.timing import Budget, Clock
from vjepa_ac_planner.errors import InputError, PlannerError

if TYPE_CHECKING:
    import torch

    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.world_model import Dtype, WorldModel

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
        if config.reference is not None:
            require_checkout(config.reference)
        self.config, self._say, self._clock = config, say, clock
        self._begun = clock() if begun is None else begun
        self._peaks: dict[str, float] = {}
        self._models: dict[str, WorldModel] = {}

    @property
    def model(self) -> WorldModel:
        """The model in the dtype under test."""
        return self._models[self.name]

    def run(self) -> dict[str, Any]:
        """Measure, and return the record that is written as JSON.

        Raises:
            PlannerError: no such model, device or checkout.
        """
        import torch

        config = self.config
        passed = self._clock() - self._begun
        budget = Budget(config.seconds - passed, self._clock)
        model = self._load(config.dtype)
        self.name = config.dtype if config.dtype == "float8" else str(model.dtype).removeprefix("torch.")
        self._models[self.name] = model
        description = model.description
        record: dict[str, Any] = {
            "model": description.name,
            "weights": "random" if config.untrained else "its own",
            "dtype": self.name,
            "compiled": self._compiled,
            "quick": config.quick,
            "environment": environment(model.device),
            "engine": {},
            "presets": {},
            "ratio_to_reference": {},
            "curve": None,
            "skipped": [],
        }
        names = [self.name] + [n for n in ("float32", "bfloat16") if n != self.name]
        self._peaks = {
            name: matmul_flops(model.device, getattr(torch, name), 0.2 if config.quick else 1.0)
            for name in names
            if name != "float8"
        }
        if self.name == "float8":
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
        cells = [(self.name, h) for h in horizons]
        cells += [(name, horizons[0]) for name in self._peaks if name != self.name]
        by_horizon: dict[str, dict[str, Any]] = {}

        def cell(of: tuple[str, int], share: Budget) -> dict[str, Any]:
            name, horizon = of
            row = engine.score_rate(self._in(name), horizon, self.config.samples, self._peaks[name], share)
            by_horizon.setdefault(str(horizon), {})[name] = row
            return row

        engine.sweep(cell, cells, budget)
        headline = by_horizon[str(horizons[0])][self.name]
        return {"engine": {**headline, "dtype": self.name, "by_horizon": by_horizon}}

    def _encoder(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"encoder": engine.encoder_rate(self.model, self._peaks[self.name], budget)}

    def _ratio(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Ours against the reference, at horizons 1, 2 and 4, and at several numbers of candidates."""
        from vjepa_ac_planner.bench.reference import Reference

        assert self.config.reference is not None
        models = {name: self._in(name) for name in ("float32", "bfloat16")}
        reference = Reference(self.config.reference, models["float32"])
        samples = self.config.samples or self._reference_samples(budget, self._rate(record))
        few = self.config.quick
        share = budget if few else budget.share(2, 3)
        found = comparison.compare(models, self.name, reference, (1, 2, 4), samples, share)
        sweep = []
        for count in () if few else (1, 2, 4, 16, 64, 256):
            if budget.left > 0 and count <= 4 * samples:
                exact = {"float32": models["float32"]}
                sweep.append(comparison.ratio(exact, reference, 1, count, budget.share(1, 4), rounds=9))
        return {"ratio_to_reference": found["ratio"], "reference": {**found, "by_samples": sweep}}

    def _reference_samples(self, budget: Budget, steps_per_s: float) -> int:
        """So many candidates that horizons 1, 2 and 4 of both fit, in both dtypes, three times.

        A candidate is 1 + 2 + 4 steps of ours and, since the reference evaluates the whole clip again for
        every step, 1 + 3 + 10 of the reference's.
        """
        own = self._peaks[self.name]
        slower = sum(own / self._peaks[name] for name in ("float32", "bfloat16"))
        affordable = budget.left * steps_per_s / (3 * (7 + 14 * 1.3) * slower)
        return max(2, min(64, int(affordable)))

    def _presets(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Every preset, the cheapest first."""
        from vjepa_ac_planner.planning.presets import PlannerConfig, preset_names

        rate = self._rate(record)
        description = self.model.description
        configs = {}
        for name in self.config.presets or preset_names():
            config = PlannerConfig.preset(name)
            if config.search.stay_in_workspace and description.workspace is None:
                config = PlannerConfig.preset(name, {"search": {"stay_in_workspace": False}})
            configs[name] = config
        work = {n: plans.count_evaluations(description, c) * c.horizon for n, c in configs.items()}
        rows: dict[str, Any] = {}
        for number, name in enumerate(sorted(configs, key=work.__getitem__)):
            share = budget.share(1, len(configs) - number)
            rows[name] = plans.bench_preset(self.model, configs[name], rate, share, self.config.plans)
        return {"presets": rows}

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
        found = curve.quality_curve(self.model, stored[:1], budgets=budgets, with_reference=False)
        count = min(len(stored), int(budget.left / max(self._clock() - begin, 1e-9)))
        if count > 1:
            spread = stored[:: len(stored) // count][:count]
            found = curve.quality_curve(self.model, spread, budgets=budgets, with_reference=False)
        return {"curve": found}

    def _scaling(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """In candidates, in image tokens, in threads, and over the devices there are."""
        counts = (1, 4, 16, 64) if self.config.quick else (1, 2, 4, 8, 16, 32, 64, 128, 256, 400, 800)
        sides = (4, 8) if self.config.quick else (4, 6, 8, 12, 16)
        peak = self._peaks[self.name]
        parts = {
            "samples": lambda b: engine.by_samples(self.model, counts, peak, b),
            "image_tokens": lambda b: engine.by_tokens(
                self.model.description, sides, self._untrained, peak, b
            ),
            "devices": self._by_device,
            "threads": self._by_threads,
        }
        found = {}
        for number, (name, part) in enumerate(parts.items()):
            if budget.left > 0:
                found[name] = part(budget.share(1, len(parts) - number))
        return {"scaling": found}

    def _by_device(self, budget: Budget) -> list[dict[str, Any]]:
        """The engine on every device there is, one after the other."""
        import torch

        others = ["cpu"] if self.model.device.type == "cuda" and not self.config.quick else []
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + others

        def one(name: str, share: Budget) -> dict[str, Any]:
            device = torch.device(name)
            model = self._untrained(self.model.description, device)
            peak = matmul_flops(device, model.dtype, 0.5)
            return {"device": name, **engine.score_rate(model, 1, None, peak, share, rounds=5)}

        return engine.sweep(one, devices, budget)

    def _by_threads(self, budget: Budget) -> list[dict[str, Any]]:
        """The engine on a CPU with 1, 2, 4 ... threads."""
        import torch

        if self.model.device.type != "cpu":
            return []
        usual = torch.get_num_threads()

        def one(count: int, share: Budget) -> dict[str, Any]:
            torch.set_num_threads(count)
            peak = matmul_flops(self.model.device, self.model.dtype, 0.2)
            return {"threads": count, **engine.score_rate(self.model, 1, 16, peak, share, rounds=5)}

        try:
            return engine.sweep(one, sorted({*(2**n for n in range(10) if 2**n < usual), usual}), budget)
        finally:
            torch.set_num_threads(usual)

    def _variants(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Two ways of doing the same thing, timed in turn: cached or not, float32 or bfloat16."""
        models = {name: self._in(name) for name in ("float32", "bfloat16")}
        return {"variants": comparison.variants(models, self.config.samples or 16, budget)}

    def _targets(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        from vjepa_ac_planner.planning.presets import PlannerConfig, preset_names

        rate = self._rate(record)
        encoder = record.get("encoder") or self._encoder(budget.share(1, 20), record)["encoder"]
        realtime = PlannerConfig.preset("realtime") if "realtime" in preset_names() else None
        dtype = "bfloat16" if self.name == "float8" else self.name
        description, device = self.model.description, self.model.device
        self._models.clear()  # their memory would count in the peaks
        bench = targets.Bench(self._load, description, device, rate, budget)
        rows = bench.rows(dtype, self._peaks[dtype], encoder["p50_s"], realtime)
        return {"targets": [row.record() for row in rows]}

    def _profile(self, budget: Budget, record: Mapping[str, Any]) -> dict[str, Any]:
        """Where the time of scoring goes, for few candidates and for many, at horizons 1 and 4."""
        found = {}
        for horizon in (1, 4):
            for samples in (1, self.config.samples or 64):
                energy, actions = engine.problem(self.model, horizon, samples)
                groups = profile.operator_groups(lambda e=energy, a=actions: e(a))  # type: ignore[misc]
                found[f"{samples} candidates, horizon {horizon}"] = groups
        return {"profile": found}

    def _rate(self, record: Mapping[str, Any]) -> float:
        """Candidate steps a second as measured; roughly, if the engine's section was not asked for."""
        if record["engine"]:
            return float(record["engine"]["candidate_steps_per_s"])
        budget = Budget(2.0, self._clock)
        row = engine.score_rate(self.model, 1, self.config.samples, 1.0, budget, rounds=2)
        return float(row["candidate_steps_per_s"])

    def _in(self, name: str) -> WorldModel:
        """The same model with the predictor's weights in another dtype; frames are not encoded with it."""
        import torch

        from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor
        from vjepa_ac_planner.world_model import WorldModel

        if name not in self._models:
            source = self._load("bfloat16") if self.name == "float8" else self.model
            with torch.device("meta"):
                predictor = ActionConditionedPredictor(source.description.predictor)
            state = source.predictor.state_dict()
            weights = {key: value.to(getattr(torch, name), copy=True) for key, value in state.items()}
            predictor.load_state_dict(weights, assign=True)
            predictor.requires_grad_(False)
            self._models[name] = WorldModel(
                source.description, source.encoder, predictor, compile=self._compiled
            )
        return self._models[name]

    @property
    def _compiled(self) -> bool:
        from vjepa_ac_planner.world_model import choose_device

        wanted = self.config.compile
        return choose_device(self.config.device).type == "cuda" if wanted is None else wanted

    def _load(self, dtype: str, *, memory_limit: float | None = None) -> WorldModel:
        from vjepa_ac_planner.models import find_model
        from vjepa_ac_planner.world_model import WorldModel

        options: dict[str, Any] = {
            "device": self.config.device,
            "dtype": dtype,
            "compile": self._compiled,
            "memory_limit": None if memory_limit is None else int(memory_limit),
        }
        if self.config.untrained:
            return WorldModel.untrained(find_model(self.config.model).description, **options)
        return WorldModel.load(self.config.model, **options)

    def _untrained(self, description: ModelDescription, device: torch.device | None = None) -> WorldModel:
        from vjepa_ac_planner.world_model import WorldModel

        return WorldModel.untrained(
            description,
            device=device or self.model.device,
            dtype=cast("Dtype", self.config.dtype),
            compile=self._compiled,
        )


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
