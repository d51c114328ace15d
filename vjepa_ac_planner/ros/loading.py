"""From the node's configuration to a planner that is warm, and to goals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vjepa_ac_planner.control.goals import GoalChain, load_task
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.sharded import crew
from vjepa_ac_planner.preprocess import read_image
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.profile import RobotProfile
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState


def load_planner(config: NodeConfig, profile: RobotProfile, say: Callable[[str], None]) -> Planner:
    """Load the model, and plan once on grey images, so that the first real plan is as fast as the rest.

    Args:
        config: which model and preset.
        profile: names the model if the configuration does not.
        say: told what is going on.

    Raises:
        PlannerError: the model cannot be loaded, or does not belong to the profile's frame.
    """
    say(f"loading model {profile.model}")
    ranks = crew()
    model = ranks.load(profile.model, device=config.device, dtype=config.dtype)
    description = model.description
    preset = config.preset or description.preset
    planner = ranks.planner(model, PlannerConfig.preset(preset))
    grey = np.full((description.image_size, description.image_size, 3), 128, dtype=np.uint8)
    limits = profile.safety.limits
    centre = (limits.low + limits.high) / 2.0
    state = RobotState(np.concatenate((centre, (np.pi, 0.0, 0.0, 0.0))))
    plan = planner.plan(Observation(Frame(grey), state), Goal(Frame(grey)))
    devices = str(model.device) if ranks.size == 1 else f"{ranks.size} devices"
    say(
        f"model {description.name} on {devices}, preset {preset}: first plan took "
        f"{plan.timings['total']:.2f} s, {plan.evaluations} candidates"
    )
    return planner


def load_goals(task: str) -> GoalChain:
    """The goals of a task file.

    Raises:
        ConfigError: the file or one of its options is unusable.
        InputError: one of its images is.
    """
    return load_task(task, read_image)[1]
