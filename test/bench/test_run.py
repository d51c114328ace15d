"""The whole benchmark on a tiny model: its record, its time, its plot; presets; the table of targets."""

from __future__ import annotations

import json
import time

import pytest
import torch

from vjepa_ac_planner.bench import plans, problems, run, targets
from vjepa_ac_planner.bench.timing import Budget
from vjepa_ac_planner.errors import DeviceMemoryError, InputError, MissingDependencyError, PlanningError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig, preset_names
from vjepa_ac_planner.world_model import WorldModel


def config(folder, **options):
    return run.BenchConfig(model=folder, device="cpu", dtype="float32", quick=True, **options)


@pytest.fixture(scope="module")
def record(folder):
    """Enough time for a machine that is busy; two stored problems, so that it is not all used."""
    stored = problems.load_problems()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "load_problems", lambda seeds: stored)
        return run.Bench(
            config(folder, seconds=60.0, plans=1, samples=8, presets=("cpu", "paper"), horizons=(1, 2))
        ).run()


def test_the_record_keeps_its_contract(record):
    json.dumps(record)
    engine = record["engine"]
    for row in (engine, engine["by_horizon"]["1"]["float32"], engine["by_horizon"]["2"]["float32"]):
        assert row["candidates_per_s"] > 0 and row["tflops"] > 0 and row["percent_of_peak"] > 0
        assert row["peak_memory_bytes"] > 0
    assert set(engine["by_horizon"]["1"]) == {"float32", "bfloat16"}
    assert set(record["presets"]) == {"cpu", "paper"}
    assert record["presets"]["paper"]["evaluations"] == 8000
    for row in record["presets"].values():
        assert 0 < row["p50_s"] <= row["p95_s"] and row["evaluations"] > 0
    assert record["ratio_to_reference"] == {}
    assert record["curve"]["problems"] == 1 and record["skipped"] == []
    assert record["encoder"]["p50_s"] > 0
    assert [row["samples"] for row in record["scaling"]["samples"]] == [1, 4, 16, 64]
    assert record["matmul_tflops"]["float32"] > 0
    assert record["environment"]["torch"] == torch.__version__


def test_when_time_is_up_the_rest_is_left_out_or_estimated(folder, clock):
    """The command began long ago: importing took all the time there was."""

    def ticking() -> float:
        clock.now += 1e-3
        return clock.now

    record = run.Bench(config(folder, seconds=30.0), clock=ticking, begun=clock.now - 40.0).run()
    assert record["skipped"] == ["encoder", "curve", "scaling"]
    assert list(record["engine"]["by_horizon"]) == ["1"] and record["engine"]["samples"] == 1
    assert set(record["presets"]) == set(preset_names())
    assert all(row["estimated"] for row in record["presets"].values())


def test_sections_share_the_time_by_weight(folder, clock, monkeypatch):
    shares = {}

    def section(name):
        def measure(self, budget, record):
            shares[name] = budget.left
            clock.now += min(budget.left, 10.0)
            return {}

        return measure

    for name in run.USUAL:
        monkeypatch.setattr(run.Bench, f"_{name}", section(name))
    bench = run.Bench(config(folder, seconds=100.0), clock=clock)
    bench.run()
    assert list(shares) == ["engine", "encoder", "presets", "curve", "scaling"]
    total = sum(run.WEIGHTS[name] for name in shares)
    assert shares["engine"] == pytest.approx(100.0 * run.WEIGHTS["engine"] / total)
    # the engine gave back what it did not need, and the last one has all that is left
    assert shares["scaling"] == pytest.approx(100.0 - 10.0 * 3 - shares["encoder"])


def test_unknown_sections_are_refused(folder):
    with pytest.raises(InputError, match="sections: received 'speed', allowed engine, encoder"):
        run.Bench(config(folder, sections=("engine", "speed")))


def test_other_sections(folder, monkeypatch):
    figures = {"p50_s": 2.0, "optimise_s": 1.9, "plans": 1}
    monkeypatch.setattr(targets, "time_plans", lambda planner, budget, count: figures)
    sections = ("variants", "profile", "targets")
    record = run.Bench(config(folder, seconds=600.0, sections=sections, samples=4)).run()
    assert record["variants"]["uncached_over_cached"] > 0
    assert set(record["profile"]) == {f"{k} candidates, horizon {h}" for k in (1, 4) for h in (1, 4)}
    rows = {row["name"]: row for row in record["targets"]}
    assert len(rows) == 8
    assert rows["encode one frame"]["value"] > 0
    assert "has no float8 products" in rows["800 x 10, horizon 1, float8: a plan"]["note"]
    assert rows["800 x 10, horizon 1, limited: peak memory"]["note"] == "needs a GPU"


def test_the_plot(record, folder, tmp_path):
    run.plot(record, tmp_path / "scaling.svg")
    text = (tmp_path / "scaling.svg").read_text()
    assert text.startswith("<svg") and "against candidates" in text and "against tokens" in text
    with pytest.raises(InputError, match="draws the section 'scaling', which was not measured"):
        run.plot({}, tmp_path / "none.svg")


def test_another_dtype_has_the_same_weights(folder):
    bench = run.Bench(config(folder, seconds=0.0, sections=("engine",)))
    bench.run()
    whole, half = bench.models.model, bench.models.of("bfloat16")
    assert half.dtype == torch.bfloat16 and half.encoder is whole.encoder
    assert torch.equal(half.predictor.out.weight, whole.predictor.out.weight.bfloat16())


def test_counted_evaluations_are_those_of_a_plan(tiny):
    sizes = {"samples": 12, "elites": 3, "iterations": 4}
    chosen = PlannerConfig.preset("paper", {"optimiser": "cem", "cem": sizes})
    frames = plans.Frames(tiny.description)
    plan = Planner(tiny, chosen).plan(frames.observation(), frames.goal())
    assert plans.count_evaluations(tiny.description, chosen) == plan.evaluations == 48


def test_a_preset_that_does_not_fit_is_estimated(tiny, clock):
    chosen = PlannerConfig.preset("paper")
    row = plans.bench_preset(tiny, chosen, 1000.0, Budget(11.0, clock))
    assert row["estimated"] and row["plans"] == 0
    assert row["p50_s"] == row["p95_s"] == pytest.approx(8.0)  # 8000 evaluations of one step


def test_a_preset_that_fits_is_planned(tiny):
    sizes = {"samples": 12, "elites": 3, "iterations": 4}
    chosen = PlannerConfig.preset("paper", {"optimiser": "cem", "cem": sizes})
    row = plans.bench_preset(tiny, chosen, 1e6, Budget(5.0), count=3)
    assert not row["estimated"] and row["plans"] == 3 and row["evaluations"] == 48
    assert 0 < row["p50_s"] <= row["p95_s"]


class TestTargets:
    """The table, with plans that take what a GPU would need, on a clock that only they move."""

    @pytest.fixture
    def bench(self, tiny, clock, monkeypatch):
        loaded = []

        def load(dtype, memory_limit=None):
            if dtype == "float8":
                raise MissingDependencyError("dtype float8: needs torchao")
            loaded.append((dtype, memory_limit))
            return tiny

        def time_plans(planner, budget, count):
            seconds = {1: 2.0, 8: 12.0}[planner.config.horizon]
            clock.now += 2 * seconds
            return {"p50_s": seconds, "optimise_s": 0.9 * seconds, "plans": 1}

        monkeypatch.setattr(targets, "time_plans", time_plans)
        monkeypatch.setattr(targets, "peak_memory", lambda device: 6 * 2**30)
        bench = targets.Bench(load, tiny.description, tiny.device, 4000.0, Budget(100.0, clock))
        bench.loaded = loaded
        return bench

    def test_rows(self, bench, tiny):
        peak = targets.rollout_flops(tiny.description.predictor, 1) * 8000 / 1.8 / 0.7
        rows = {row.name: row for row in bench.rows("bfloat16", peak, 0.004, None)}
        assert rows["800 x 10, horizon 1: a plan"].value == 2.0
        assert rows["800 x 10, horizon 1: a plan"].met
        assert rows["800 x 10, horizon 1: of the matrix products"].value == pytest.approx(70.0)
        assert rows["800 x 10, horizon 1: of the matrix products"].met
        assert rows["300 x 15, horizon 8: a plan"].met is False
        assert rows["300 x 15, horizon 8: a plan"].record()["target"] == "<= 10"
        assert rows["800 x 10, horizon 1: peak memory"].value == 6.0
        assert rows["800 x 10, horizon 1, float8: a plan"].note == "dtype float8: needs torchao"
        assert rows["800 x 10, horizon 1, float8: a plan"].met is None
        assert rows["encode one frame"].value == pytest.approx(4.0)
        assert bench.loaded == [("bfloat16", None)]  # once for all

    def test_what_does_not_fit_is_not_begun(self, bench, clock):
        clock.now += 97.0
        rows = {row.name: row for row in bench.rows("bfloat16", 1e12, 0.004, None)}
        assert rows["800 x 10, horizon 1: a plan"].note == "not measured: a plan would take about 2 s here"
        assert bench.loaded == []

    def test_a_full_device_is_a_note(self, bench, monkeypatch):
        def full(*_, **__):
            raise DeviceMemoryError("cuda: out of memory")

        monkeypatch.setattr(targets, "time_plans", full)
        assert bench.plan(targets.paper_plan(), "bfloat16").note == "cuda: out of memory"

    def test_a_plan_that_fails_costs_its_row_alone(self, bench, tiny, monkeypatch):
        whole = targets.time_plans

        def fails(planner, budget, count):
            if planner.config.horizon == 8:
                raise PlanningError("energies must be finite, received nan")
            return whole(planner, budget, count)

        monkeypatch.setattr(targets, "time_plans", fails)
        rows = {row.name: row for row in bench.rows("bfloat16", 1e12, 0.004, None)}
        failed = rows["300 x 15, horizon 8: a plan"]
        assert (failed.met, failed.note) == (None, "energies must be finite, received nan")
        assert rows["800 x 10, horizon 1: a plan"].value == 2.0


def test_presets_and_curve_without_gradients_say_so(folder, monkeypatch):
    monkeypatch.setattr(WorldModel, "differentiable", False)
    stored = problems.load_problems()[:1]
    monkeypatch.setattr(problems, "load_problems", lambda seeds: stored)
    sections = ("engine", "presets", "curve")
    bench = run.Bench(
        config(folder, seconds=60.0, plans=1, samples=8, presets=("cpu", "paper"), sections=sections)
    )
    record = bench.run()
    assert set(record["presets"]) == {"paper"}
    assert record["presets_note"].startswith("cpu: optimiser: received 'gradient', and products in float8")
    assert record["curve"] is None and "no gradients" in record["curve_note"]


def test_the_clock_is_the_machine_s_unless_given(folder):
    begin = time.perf_counter()
    record = run.Bench(config(folder, seconds=0.0, sections=("engine",)), begun=begin - 5.0).run()
    assert 5.0 < record["seconds"] < 25.0
