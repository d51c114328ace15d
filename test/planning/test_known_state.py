"""The proprioceptive term: energies where the arm's state at the goal is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.energy import GRIPPER_METRES, LatentEnergy, state_distance
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import SearchConfig
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState

STATE = np.array([0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.0])


class BlindModel:
    """A world model that sees nothing: every latent is the same."""

    device = torch.device("cpu")
    description = None

    def encode(self, images):
        return torch.zeros(len(images), 4, 8)

    def rollout(self, z0, s0, actions):
        states = geometry.integrate(s0, actions)
        return z0.expand(*actions.shape[:2], *z0.shape), states


def plan(weight, goal_state, gripper="with"):
    config = PlannerConfig(
        state_weight=weight,
        search=SearchConfig(xyz=0.05, gripper_dead_zone=0.05),
        cem=CEMConfig(samples=64, elites=8, iterations=8),
    )
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    observation = Observation(Frame(image), RobotState(STATE))
    state = None if goal_state is None else RobotState(goal_state)
    return Planner(BlindModel(), config).plan(observation, Goal(Frame(image), state=state), gripper=gripper)


def test_distance_counts_hand_and_gripper_but_no_turn():
    states = torch.tensor(np.stack([STATE, STATE, STATE]), dtype=torch.float32)
    states[0, :3] += torch.tensor([0.03, 0.0, 0.04])
    states[1, 6] = 1.0
    states[2, 3:6] = 0.5
    found = state_distance(states, torch.tensor(STATE, dtype=torch.float32))
    torch.testing.assert_close(found, torch.tensor([0.05, GRIPPER_METRES, 0.0]))


def test_it_leads_where_the_picture_does_not():
    goal = STATE + np.array([0.03, -0.02, 0.04, 0, 0, 0, 0.5])
    found = plan(2.0, goal)
    np.testing.assert_allclose(found.action[:3], [0.03, -0.02, 0.04], atol=0.005)
    assert found.action[6] == pytest.approx(0.5, abs=0.05) and found.improves
    away = float(np.linalg.norm(goal[:3] - STATE[:3]) + GRIPPER_METRES * 0.5)
    assert found.current_energy == pytest.approx(2.0 * away, rel=1e-5)
    assert found.zero_energy == pytest.approx(found.current_energy, rel=1e-5)
    assert found.predicted_energies[0] == pytest.approx(found.energy)
    only = plan(2.0, goal, gripper="only")
    assert not only.action[:3].any() and only.action[6] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("weight", "known"), [(0.0, True), (2.0, False)])
def test_without_weight_or_state_there_is_no_term(weight, known):
    assert plan(weight, STATE + 0.05 if known else None).current_energy == 0.0


def test_energies_of_a_horizon_are_those_of_its_last_state():
    z, s0 = torch.zeros(4, 8), torch.tensor(STATE, dtype=torch.float32)
    goal = s0 + torch.tensor([0.1, 0, 0, 0, 0, 0, 0])
    energy = LatentEnergy(BlindModel(), z, s0, z, goal_state=goal, state_weight=1.0)
    actions = torch.zeros(1, 2, 7)
    actions[0, :, 0] = torch.tensor([0.04, 0.05])
    torch.testing.assert_close(energy(actions), torch.tensor([0.01]))
    evidence = energy.evaluate(actions)
    torch.testing.assert_close(evidence.by_step, torch.tensor([[0.06, 0.01]]))
    torch.testing.assert_close(evidence.energies, energy(actions))
