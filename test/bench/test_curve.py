"""Quality against budget: budgets are kept, everyone gets the same problem, comparisons are right."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_ac_planner.bench import curve as curves
from vjepa_ac_planner.bench.budget import LEAST, with_budget
from vjepa_ac_planner.bench.chart import loglog_chart
from vjepa_ac_planner.bench.curve import OPTIMISERS, paired_difference, plot_curve, quality_curve
from vjepa_ac_planner.bench.problems import Problem
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import ActionSpace
from vjepa_ac_planner.types import Frame, RobotState

STATE = [0.45, 0.05, 0.35, -3.05, 0.03, -1.91, 0.1]


def problems(count):
    rng = np.random.default_rng(0)

    def frame():
        return Frame(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))

    return [Problem(frame(), RobotState(STATE), frame(), 80000 + i, "reach", 0.1) for i in range(count)]


@pytest.fixture(scope="module")
def curve(mini_model):
    calls = []
    result = quality_curve(
        mini_model,
        problems(2),
        (*OPTIMISERS, "demo"),
        (16, 40),
        reference="reference",
        with_reference=False,
        progress=lambda done, of: calls.append((done, of)),
    )
    assert calls == [(1, 2), (2, 2)]
    return result


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(OPTIMISERS), budget=st.integers(LEAST, 1000))
def test_budgets_are_kept_and_used(name, budget):
    config = with_budget(PlannerConfig(optimiser=name), budget)
    space = ActionSpace(config.search, 1)
    result = Planner(None, config).optimiser.optimise(
        lambda actions: actions.square().sum((1, 2)), space, generator=torch.Generator().manual_seed(0)
    )
    assert 0.75 * budget - 8 <= result.evaluations <= budget


def test_the_papers_budget_gives_the_papers_search():
    paper = PlannerConfig.preset("paper")
    assert with_budget(paper, 8000) == paper
    with pytest.raises(ConfigError, match="evaluations: received 3, allowed 16"):
        with_budget(paper, 3)


def test_a_curve_has_every_optimiser_at_every_budget_and_every_preset_once(curve):
    assert [(run["name"], run["budget"]) for run in curve["runs"]] == [
        *((name, budget) for name in OPTIMISERS for budget in (16, 40)),
        ("demo", None),
    ]
    for run in curve["runs"]:
        assert len(run["energies"]) == curve["problems"] == 2
        assert run["median_energy"] == np.median(run["energies"])
        assert run["seconds"] > 0
        assert run["budget"] is None or run["evaluations"] <= run["budget"]
    floor = np.min([run["energies"] for run in curve["runs"]] + [curve["zero_energies"]], axis=0)
    for run in curve["runs"]:
        share = (np.array(run["energies"]) - floor) / (np.array(curve["zero_energies"]) - floor)
        assert run["excess"] == pytest.approx(np.median(share))
    assert json.loads(json.dumps(curve)) == curve


def test_energies_are_those_that_the_planner_would_reach(curve, mini_model):
    planner = Planner(mini_model, with_budget(PlannerConfig.preset("reference"), 40))
    run = next(run for run in curve["runs"] if (run["name"], run["budget"]) == ("cem", 40))
    for index, problem in enumerate(problems(2)):
        goal = mini_model.encode([problem.goal])[0]
        plan = planner.plan(problem.observation, goal, seed=index)
        assert plan.energy == pytest.approx(run["energies"][index], rel=1e-5)
        assert plan.zero_energy == pytest.approx(curve["zero_energies"][index], rel=1e-5)


def test_presets_search_in_the_space_of_the_reference(mini_model):
    methods = curves._methods(["demo"], [], PlannerConfig.preset("paper"))
    (config,) = methods.values()
    assert (config.search.axes, config.search.xyz, config.search.stay_in_workspace) == (
        "xyz+gripper",
        0.075,
        False,
    )
    assert config.cem == PlannerConfig.preset("demo").cem


def test_with_the_reference_every_run_is_compared_with_it(mini_model, monkeypatch):
    tiny = PlannerConfig.preset("paper", {"cem": {"samples": 20, "elites": 4, "iterations": 2}})
    preset = PlannerConfig.preset
    monkeypatch.setattr(
        PlannerConfig, "preset", lambda name, *rest: tiny if name == "paper" else preset(name, *rest)
    )
    result = quality_curve(mini_model, problems(4), ["icem"], [80])
    icem, paper = result["runs"]
    assert (paper["name"], paper["evaluations"], paper["of_reference"]) == ("paper", 40, 1.0)
    assert paper["less_reference"]["median"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert icem["less_reference"] == paired_difference(
        np.array(icem["energies"]), np.array(paper["energies"])
    )
    assert icem["of_reference"] == icem["median_energy"] / paper["median_energy"]


def test_paired_differences():
    rng = np.random.default_rng(3)
    others = rng.uniform(0.5, 1.0, 200)
    difference = rng.normal(-0.01, 0.002, 200)
    found = paired_difference(others + difference, others)
    assert found["median"]["value"] == pytest.approx(np.median(difference))
    low, high = found["median"]["ci95"]
    assert low < -0.01 < high < 0 and high - low < 0.0015
    assert found["of_medians"]["ci95"][0] < found["of_medians"]["value"] < found["of_medians"]["ci95"][1]
    assert (found["lower"], found["higher"]) == (int((difference < 0).sum()), int((difference > 0).sum()))
    same = paired_difference(others, others)
    assert (same["lower"], same["higher"]) == (0, 0)


def test_unknown_names_and_no_problems_are_refused(mini_model):
    with pytest.raises(ConfigError, match="names: received 'newton', allowed cem, icem"):
        quality_curve(mini_model, problems(1), ["newton"])
    with pytest.raises(InputError, match="problems: received none"):
        quality_curve(mini_model, [])


def test_the_plot_is_a_picture_of_every_run(curve, tmp_path):
    path = tmp_path / "curve.svg"
    plot_curve(curve, path)
    root = ElementTree.parse(path).getroot()
    tags = [element.tag.rsplit("}", 1)[1] for element in root.iter()]
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert tags.count("polyline") == len(OPTIMISERS)
    assert tags.count("circle") == 2 * len(OPTIMISERS)
    assert {*OPTIMISERS, "demo"} <= texts
    for element in root.iter():
        if element.tag.endswith("circle"):
            assert 0 < float(element.get("cx")) < 760 and 0 < float(element.get("cy")) < 460


def test_a_chart_of_what_cannot_be_drawn_leaves_it_out():
    svg = loglog_chart(
        {"a": [(10.0, float("nan")), (20.0, 0.0), (40.0, 0.5)]}, {}, title="<&>", x_label="x", y_label="y"
    )
    root = ElementTree.fromstring(svg)
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 2
    assert "&lt;&amp;&gt;" in svg
