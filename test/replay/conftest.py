"""A world so small that every score is known beforehand, and recordings of it in memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from point_world import PointModel, picture

from vjepa_ac_planner import geometry
from vjepa_ac_planner.bags.resample import Sample
from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.proposals import SearchConfig
from vjepa_ac_planner.types import Frame, Observation, RobotState

START = np.array([0.4, -0.2, 0.2, 3.1, 0.0, -0.7, 0.0])


class DescribedModel(PointModel):
    """With what a replay asks of a model besides."""

    dtype = torch.float32
    description = SimpleNamespace(
        name="point", image_size=16, workspace=None, step_seconds=0.25, limits="A point.", preset="none"
    )


class MemoryRecording:
    """Samples that are there already."""

    picture = staticmethod(picture)

    def __init__(self, observations, segments=None) -> None:
        self.observations = observations
        self.segments = segments or [0] * len(observations)
        self.skipped: dict[str, int] = {}
        self.asked = 0

    def samples(self, step_seconds, rules=None):
        self.asked += 1
        for i, (seen, segment) in enumerate(zip(self.observations, self.segments, strict=True)):
            yield Sample(i, seen, seen.frame.stamp, segment)

    def frame_at(self, time, clock="header"):
        return min((o.frame for o in self.observations), key=lambda frame: abs(frame.stamp - time))

    def last_frame(self):
        return self.observations[-1].frame


def observation(state, stamp: float) -> Observation:
    return Observation(Frame(picture(state[:3]), stamp), RobotState(state, stamp))


@pytest.fixture
def walk():
    """A recording of an arm that moves by the given translations [m], one per step, from START on."""

    def make(steps, segments=None, stamp: float = 100.0) -> MemoryRecording:
        states = [START]
        for step in steps:
            move = np.zeros(7)
            move[: len(step)] = step
            states.append(geometry.step(torch.from_numpy(states[-1]), torch.from_numpy(move)).numpy())
        seen = [observation(state, stamp + 0.25 * i) for i, state in enumerate(states)]
        return MemoryRecording(seen, segments)

    return make


@pytest.fixture
def point_model():
    return DescribedModel()


@pytest.fixture
def make_planner(point_model):
    """A planner in the small world; options replace those of its configuration."""

    def make(model=None, **options) -> Planner:
        config = {
            "search": SearchConfig(axes="xyz", xyz=0.06),
            "cem": CEMConfig(samples=64, elites=6, iterations=4),
        }
        return Planner(model or point_model, PlannerConfig(**{**config, **options}))

    return make


@pytest.fixture
def safety():
    return SafetyLayer(SafetyConfig(MotionLimits((0.2, -0.6, 0.0), (0.9, 0.6, 0.9)), max_surprise=None))
