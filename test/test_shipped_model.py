"""The model that ships: small enough, accepted by its own figures, and it does the main job."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from vjepa_ac_planner.models import find_model
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.training.export import acceptance
from vjepa_ac_planner.training.recipe import load_recipe
from vjepa_ac_planner.world_model import WorldModel

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models" / "panda-sim"


def test_it_is_the_model_of_the_recipe() -> None:
    assert find_model("panda-sim").description == load_recipe(ROOT / "config/training/panda-sim.yaml").model


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 40e6


def test_its_figures_accept_it() -> None:
    assert acceptance(json.loads((FOLDER / "metrics.json").read_text())) == []


@pytest.mark.skipif(find_spec("mujoco") is None, reason="needs the sim extra")
@pytest.mark.parametrize("seed", [20_001, 20_002])
def test_it_reaches_what_a_goal_image_shows(seed: int) -> None:
    from vjepa_ac_planner.sim.evaluate import reach_result, run_episode
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
    from vjepa_ac_planner.sim.tasks import make_task

    model = WorldModel.load("panda-sim", device="cpu")
    size = 2 * model.description.image_size
    with PandaSim(SimConfig(width=size, height=size)) as sim:
        task = make_task("reach", seed, sim)
        episode = run_episode(sim, task, Planner(model, PlannerConfig.preset("demo")))
        result = reach_result(task, episode)

    assert result.start_error_m > 0.14
    assert result.final_error_m < 0.02
    moves = [step for step in episode.steps if step.moved]
    assert moves and all(step.plan is not None and step.plan.improves for step in moves)
    # What the planner believes must agree with what happens: near the goal the energy has all but gone.
    assert episode.energies[-1] < 0.1 * episode.energies[0]
