"""What a task's goal images are of: one stage per image, acted out by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.panda import PandaSim, Vector


@dataclass(frozen=True)
class Stage:
    """The way to one goal image."""

    name: str
    """What the image shows."""
    script: Callable[[PandaSim], oracle.Script] = field(repr=False)
    """Brings it about, from where the stage before ended."""
    steps: int
    """Steps that a planner is given for it, by count; where the energy decides, a few more."""
    grip: Literal["", "close", "open"] = ""
    """What becomes of the gripper on the way, if anything."""


def stages(
    task: str,
    sub_goals: Literal["paper", "fine"],
    *,
    target: Vector,
    thing: str | None = None,
    spot: tuple[float, float] | None = None,
) -> tuple[Stage, ...]:
    """The stages of a task.

    The paper gives 4, 10 and 4 steps to pick and place, from starts that are nearer than ours; here it is
    6, 10 and 6.

    Args:
        task: its name.
        sub_goals: the paper's, or finer ones.
        target: [7] state to reach, for the reaches.
        thing: the object, for all others.
        spot: where to place it [m], for pick-and-place.
    """
    if task.startswith("reach"):
        return (_reach("reach" if task == "reach" else "carried", target, thing),)
    assert thing is not None
    parts = _fine_grasp(thing) if sub_goals == "fine" else (_grasp(thing),)
    if task.startswith("grasp"):
        return parts
    assert spot is not None
    release = Stage("placed", lambda sim: oracle.put_down(sim, spot), 6, "open")
    return (*parts, Stage("near", lambda sim: oracle.carry(sim, spot), 10), release)


def _reach(name: str, target: Vector, thing: str | None) -> Stage:
    # With an object in hand the fingers must go on closing, whatever opening the goal shows.
    state = target if thing is None else np.append(target[:6], 1.0)
    return Stage(name, lambda sim: oracle.reach(sim, state), 12)


def _grasp(thing: str) -> Stage:
    return Stage("grasped", lambda sim: oracle.grasp(sim, thing, lift=False, align=False), 6, "close")


def _fine_grasp(thing: str) -> tuple[Stage, ...]:
    return (
        Stage("above", lambda sim: oracle.hover(sim, thing), 5),
        Stage("grasped", lambda sim: oracle.take(sim, thing), 6, "close"),
        Stage("lifted", lambda sim: oracle.lift(sim), 4),
    )
