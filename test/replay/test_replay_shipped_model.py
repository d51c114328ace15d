"""The shipped model on bags of the simulator: far better than chance, and the same plans again."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("mujoco") is None or find_spec("gymnasium_robotics") is None:
    pytest.skip("needs the sim extra", allow_module_level=True)
pytest.importorskip("mcap")
import numpy as np

from vjepa_ac_planner.bags.reader import Bag
from vjepa_ac_planner.bags.record import RunInfo, RunRecorder, nanoseconds
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.control.goals import GoalChain
from vjepa_ac_planner.control.mpc import LoopConfig, RecedingHorizon
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.models import find_model
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.replay.goals import find_goals, parse_goal
from vjepa_ac_planner.replay.identical import check_identical
from vjepa_ac_planner.replay.lockstep import Lockstep
from vjepa_ac_planner.replay.recording import survey
from vjepa_ac_planner.replay.scores import Replayed, score
from vjepa_ac_planner.types import Frame, Observation, RobotState
from vjepa_ac_planner.world_model import WorldModel


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(WorldModel.load("panda-sim", device="cpu"), PlannerConfig.preset("demo"))


@pytest.fixture(scope="module")
def bags(planner, tmp_path_factory):
    """One run of the planner, and one of the oracle, which the planner had no part in."""
    from vjepa_ac_planner.sim import oracle
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
    from vjepa_ac_planner.sim.safety import Guarded, sim_safety
    from vjepa_ac_planner.sim.tasks import make_task

    folder = tmp_path_factory.mktemp("bags")
    model = find_model("panda-sim")
    size = 2 * model.description.image_size
    with PandaSim(SimConfig(width=size, height=size)) as sim:
        later = Later(sim)
        task = make_task("reach", 60_100, sim)
        task.begin(sim)
        run = RunInfo.of(planner, model.require_weights(), 9)
        with RunRecorder(folder / "planner.mcap", run) as recorder:
            recorder.goals(task.goals)
            loop = RecedingHorizon(
                planner, SafetyLayer(sim_safety()), GoalChain(task.goals[-1]), LoopConfig(seed=9)
            )
            loop.run(later, 4, on_step=recorder.on_step)
        task.begin(sim)
        arm = Guarded(sim)
        with BagWriter(folder / "oracle.mcap") as bag:
            write(bag, later.observe())
            for target in oracle.reach(sim, task.goal_states[-1], max_step=0.03):
                arm.move(target)
                write(bag, later.observe())
    return folder


class Later:
    """The simulation with its clock 1000 s later: a stamp of 0 would mean that there is none."""

    def __init__(self, sim) -> None:
        self.sim = sim

    def observe(self) -> Observation:
        seen = self.sim.observe()
        stamp = seen.frame.stamp + 1000.0
        return Observation(Frame(seen.frame.image, stamp), RobotState(seen.state.vector, stamp))

    def apply(self, command) -> None:
        self.sim.apply(command)


def write(bag: BagWriter, seen: Observation) -> None:
    stamp = nanoseconds(seen.frame.stamp)
    bag.image("/camera/image_raw", seen.frame.image, stamp, "camera")
    bag.pose("/current_pose", seen.state.vector, stamp)


def test_plans_agree_with_what_the_oracle_did(planner, bags):
    from vjepa_ac_planner.sim.safety import sim_safety

    with Bag.open(bags / "oracle.mcap") as bag:
        found = survey(bag, 0.25)
        goals = find_goals(bag, found, [parse_goal("last")], None, 0.25)
        replay = Lockstep(planner, SafetyLayer(sim_safety()), 0.25).run(bag, found, goals)
    scores = score([Replayed(replay.steps, (0, 1, 2), 0.25)])
    signs, cosine = scores["sign_agreement"], scores["cosine_mean"]
    assert signs["n"] >= 10 and signs["value"] > 0.75 > signs["baselines"]["random"]
    assert cosine["value"] > 0.7 > cosine["baselines"]["random"]
    assert scores["energy_rank_correlation"]["value"] > 0.8
    assert scores["surprise"]["ratio"] < 0.7
    assert scores["energy"]["recorded_below_zero"]["value"] > 0.8


def test_recorded_plans_are_made_again_bit_for_bit(planner, bags):
    from vjepa_ac_planner.bags.records import sha256

    weights = sha256(find_model("panda-sim").require_weights())
    again = []
    with Bag.open(bags / "planner.mcap") as bag:
        found = check_identical(bag, planner.world_model, weights, lambda record, plan: again.append(plan))
        recorded = [np.array(record.actions) for record in bag.plans()]
    assert found.all_equal and found.recorded == 4
    assert all(np.array_equal(plan.actions, actions) for plan, actions in zip(again, recorded, strict=True))
