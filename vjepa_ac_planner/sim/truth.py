"""What really happened in a trial, step by step, which the planner never sees; and why it failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vjepa_ac_planner.control.mpc import Episode, Step
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import PandaSim
from vjepa_ac_planner.sim.tasks import PLACED, UPRIGHT, Task

CLOSING = 0.15
"""The fingers are closing when they are told to be closed by more than this than at the start."""
AROUND = (0.025, 0.03)
"""The fingers are around an object when the TCP is this near to its axis, and at most this much above the
height at which it is grasped [m]."""
PUSHED = 0.02
"""An object was pushed when it has moved this far on the table without being held [m]."""


@dataclass(frozen=True)
class Moment:
    """The world between two steps."""

    error: float
    """Distance that the task measures [m]."""
    told: float
    """Closedness that the fingers are told to be at."""
    tcp: tuple[float, float, float]
    """Point between the finger tips [m]."""
    object: tuple[float, float, float] | None
    """Centre of the task's object [m]."""
    tilt: float
    """How far it leans [rad]."""
    held: bool
    """Whether both fingers touch it."""


class Witness:
    """Watches the simulation of one trial; hand :meth:`on_step` to the loop.

    Args:
        sim: at the start of the task.
        task: what is tried.
    """

    def __init__(self, sim: PandaSim, task: Task) -> None:
        self._sim, self._task = sim, task
        self.moments: list[Moment] = [self.look()]

    def on_step(self, step: Step) -> None:
        """Look at the world after a step."""
        self.moments.append(self.look())

    def end(self) -> None:
        """Look once more when the run has ended: after a last hold the arm is at rest."""
        self.moments[-1] = self.look()

    @property
    def errors(self) -> tuple[float, ...]:
        """The task's distance at the start, and after every step [m]."""
        return tuple(moment.error for moment in self.moments)

    def look(self) -> Moment:
        """The world at this moment."""
        sim, task = self._sim, self._task
        x, y, z = sim.state()[:3].tolist()
        thing = task.object
        return Moment(
            error=task.error(sim),
            told=float(sim.reference()[6]),
            tcp=(x, y, z - TCP_OFFSET),
            object=None if thing is None else sim.objects()[thing].position,
            tilt=0.0 if thing is None else sim.tilt(thing),
            held=thing is not None and sim.holding(thing),
        )


def cause(task: Task, episode: Episode, moments: Sequence[Moment], final: Moment) -> str:
    """Why a trial failed, from the truth; the first thing that went wrong decides.

    Args:
        task: what was tried.
        episode: the run.
        moments: the world at the start and after every step.
        final: the world when success was judged.
    """
    if episode.stop_reason in ("paused", "failing"):
        return f"stopped by safety or planner ({episode.stop_reason})"
    if task.object is None:
        return _short_of_the_goal(episode)
    if task.name == "reach_with_object":
        return _short_of_the_goal(episode) if final.held else "dropped"
    if not any(moment.held for moment in moments):
        return _never_held(moments)
    if task.name.startswith("grasp"):
        return "dropped" if not final.held else "held, not lifted"
    return _not_placed(task, moments, final)


def _short_of_the_goal(episode: Episode) -> str:
    return "settled away from the goal" if episode.stop_reason == "settled" else "out of steps"


def _never_held(moments: Sequence[Moment]) -> str:
    """The object was never between both fingers."""
    start = moments[0]
    for moment in moments[1:]:
        if moment.tilt > 2 * UPRIGHT:
            return "knocked over"
        if moment.told > start.told + CLOSING:
            return "closed beside the object" if _around(moment) else "closed too early"
        if _moved(start, moment) > PUSHED:
            return "pushed away"
    return "never closed"


def _around(moment: Moment) -> bool:
    """Whether the TCP is where the fingers would be around the object, give or take."""
    assert moment.object is not None
    aside = np.hypot(moment.tcp[0] - moment.object[0], moment.tcp[1] - moment.object[1])
    return bool(aside < AROUND[0] and moment.tcp[2] < moment.object[2] + AROUND[1])


def _moved(start: Moment, moment: Moment) -> float:
    assert start.object is not None and moment.object is not None
    return float(np.hypot(moment.object[0] - start.object[0], moment.object[1] - start.object[1]))


def _not_placed(task: Task, moments: Sequence[Moment], final: Moment) -> str:
    if final.held:
        return "not released"
    if final.tilt > UPRIGHT:
        return "tipped over"
    assert task.goal_object is not None
    last_held = max(index for index, moment in enumerate(moments) if moment.held)
    there = moments[last_held].object
    assert there is not None and final.object is not None
    if np.hypot(*np.subtract(there[:2], task.goal_object.position[:2])) > PLACED:
        told_to_open = last_held + 1 < len(moments) and moments[last_held + 1].told < CLOSING
        return "released away from the place" if told_to_open else "dropped on the way"
    return "came to rest away from the place"
