"""From the node's configuration to a planner that is warm, and to goals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vjepa_ac_planner.control.goals import GoalChain, load_task
from vjepa_ac_planner.errors import ConfigError, PlannerError
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.sharded import crew
from vjepa_ac_planner.preprocess import read_image
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.profile import RobotProfile
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState
from vjepa_ac_planner.world_model import choose_device


def load_planner(config: NodeConfig, profile: RobotProfile, say: Callable[[str], None]) -> Planner:
    """Load the model, and plan on grey images, so that the first real plan is as fast as the rest.

    Args:
        config: which model and preset.
        profile: names the model if the configuration does not.
        say: told what is going on.

    Raises:
        PlannerError: the model cannot be loaded or compiled, or does not belong to the profile's frame.
    """
    say(f"loading model {profile.model}")
    ranks = crew()
    compiled = config.compile == "on" or (
        config.compile == "auto" and choose_device(config.device).type == "cuda"
    )
    model = ranks.load(profile.model, device=config.device, dtype=config.dtype, compile=compiled)
    description = model.description
    preset = config.preset or description.preset
    planner = ranks.planner(model, PlannerConfig.preset(preset))
    grey = np.full((description.image_size, description.image_size, 3), 128, dtype=np.uint8)
    limits = profile.safety.limits
    centre = (limits.low + limits.high) / 2.0
    state = RobotState(np.concatenate((centre, (np.pi, 0.0, 0.0, 0.0))))
    observation, goal = Observation(Frame(grey), state), Goal(Frame(grey))
    # Twice if compiled: code for any number of candidates is only made when a second number is met.
    try:
        plans = [planner.plan(observation, goal)]
        if compiled:
            plans.append(planner.plan(observation, goal, warm_start=plans[0]))
    except Exception as error:
        if not compiled or isinstance(error, PlannerError):
            raise
        raise ConfigError(
            f"compile: the model could not be compiled ({type(error).__name__}: {error}); it needs a C++ "
            "compiler, and on a GPU its libraries too; set compile to off to do without"
        ) from error
    devices = str(model.device) if ranks.size == 1 else f"{ranks.size} devices"
    times = ", the next ".join(f"{plan.timings['total']:.2f} s" for plan in plans)
    say(
        f"model {description.name} on {devices}, preset {preset}{', compiled' * compiled}: first plan "
        f"took {times}, {plans[0].evaluations} candidates"
    )
    return planner


def load_goals(task: str) -> GoalChain:
    """The goals of a task file.

    Raises:
        ConfigError: the file or one of its options is unusable.
        InputError: one of its images is.
    """
    return load_task(task, read_image)[1]
