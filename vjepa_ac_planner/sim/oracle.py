"""Scripted behaviour that knows where everything is: for play data, goal images and upper bounds.

Each script is a generator of pose targets: take one, carry it out for one step of 0.25 s, take the
next. It looks at the simulation anew before every target, so noise and contact do not derail it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import OBJECTS, WORKSPACE, PandaSim, down_state

Vector = npt.NDArray[np.float64]
Script = Iterator[Vector]

MAX_STEP = 0.075
"""Largest change along each axis in one step [m], as the planner's default bound."""
MAX_TURN = 0.25
"""Largest change of yaw in one step [rad]."""
GRASP_HEIGHT = 0.03
"""Height of the TCP above the table when it takes an object [m], if the object is not too tall."""
PALM_DEPTH = 0.034
"""How far an object may reach beyond the TCP into the hand [m]: the palm is 37 mm behind it."""
HOVER_HEIGHT = 0.11
"""Height of the TCP above the table just before it goes down to an object [m]."""
CARRY_HEIGHT = 0.15
"""Height of the TCP above the table when it carries one [m]."""


def reach(sim: PandaSim, state: Vector, *, max_step: float = MAX_STEP) -> Script:
    """Straight towards a state [7], at most ``max_step`` [m] along each axis at a time."""
    yield from _go(sim, state[:3], yaw_of(state), float(state[6]), tolerance=0.002, max_step=max_step)


def grasp(sim: PandaSim, name: str, *, lift: bool = True, align: bool = True) -> Script:
    """Above the object, down, close, and (with ``lift``) up.

    Args:
        sim: the simulation.
        name: ``cup`` or ``box``.
        lift: whether to lift the object.
        align: whether to turn the hand as the box is turned; else it keeps its yaw.
    """
    yaw = sim.objects()[name].yaw if name == "box" and align else yaw_of(sim.state())
    yield from _go(sim, _over(sim, name, CARRY_HEIGHT), yaw, 0.0, tolerance=0.01)
    yield from _go(sim, _over(sim, name, grasp_height(sim, name)), yaw, 0.0, tolerance=0.006)
    hold = sim.state()
    for _ in range(3):
        yield down_state(hold[:3], yaw=yaw, gripper=1.0)
    if lift:
        yield from _go(sim, _above(hold, CARRY_HEIGHT), yaw, 1.0, tolerance=0.01)


def hover(sim: PandaSim, name: str) -> Script:
    """Straight above an object, close to it, the hand as it is turned and the fingers open."""
    yield from _go(sim, _over(sim, name, HOVER_HEIGHT), yaw_of(sim.state()), 0.0, tolerance=0.006)


def take(sim: PandaSim, name: str) -> Script:
    """From above an object: down, and close."""
    yaw = yaw_of(sim.state())
    yield from _go(sim, _over(sim, name, grasp_height(sim, name)), yaw, 0.0, tolerance=0.006)
    hold = sim.state()[:3]
    for _ in range(3):
        yield down_state(hold, yaw=yaw, gripper=1.0)


def lift(sim: PandaSim) -> Script:
    """Straight up with what is held."""
    state = sim.state()
    yield from _go(sim, _above(state, CARRY_HEIGHT), yaw_of(state), 1.0, tolerance=0.01)


def raise_hand(sim: PandaSim, height: float, gripper: float) -> Script:
    """Straight up by ``height`` [m], the fingers told to be at ``gripper``."""
    state = sim.state()
    position = state[:3] + np.array([0.0, 0.0, height])
    yield from _go(sim, position, yaw_of(state), gripper, tolerance=0.01, max_step=0.04)


def carry(sim: PandaSim, spot: tuple[float, float]) -> Script:
    """A held object up and over a spot on the table."""
    state = sim.state()
    yaw = yaw_of(state)
    if state[2] < CARRY_HEIGHT + TCP_OFFSET - 0.02:
        yield from _go(sim, _above(state, CARRY_HEIGHT), yaw, 1.0, tolerance=0.01)
    yield from _go(sim, _at(spot, CARRY_HEIGHT), yaw, 1.0, tolerance=0.006)


def put_down(sim: PandaSim, spot: tuple[float, float], yaw: float | None = None) -> Script:
    """From over the spot: down, and open."""
    yaw = yaw_of(sim.state()) if yaw is None else yaw
    held = [grasp_height(sim, name) for name in OBJECTS if sim.holding(name)]
    low = _at(spot, max(held, default=GRASP_HEIGHT) + 0.003)
    yield from _go(sim, low, yaw, 1.0, tolerance=0.005)
    for _ in range(2):
        yield down_state(low, yaw=yaw, gripper=0.0)


def place(sim: PandaSim, spot: tuple[float, float]) -> Script:
    """From a held and lifted object: over the spot, down, open, up."""
    yaw = yaw_of(sim.state())
    yield from carry(sim, spot)
    yield from put_down(sim, spot, yaw)
    yield from _go(sim, _at(spot, CARRY_HEIGHT), yaw, 0.0, tolerance=0.01)


def push(sim: PandaSim, name: str, direction: float, distance: float) -> Script:
    """With closed fingers: down beside the object, then ``distance`` [m] along ``direction`` [rad]."""
    yaw = yaw_of(sim.state())
    along = np.array([np.cos(direction), np.sin(direction), 0.0])
    up = np.array([0.0, 0.0, 0.10])
    spot = _over(sim, name, GRASP_HEIGHT)
    behind = spot - 0.085 * along
    yield from _go(sim, behind + up, yaw, 1.0, tolerance=0.01)
    yield from _go(sim, behind, yaw, 1.0, tolerance=0.01)
    end = spot + (distance - 0.04) * along
    yield from _go(sim, end, yaw, 1.0, tolerance=0.01, max_step=0.04)
    yield from _go(sim, end + up, yaw, 1.0, tolerance=0.01)


def grasp_height(sim: PandaSim, name: str) -> float:
    """Height of the TCP above the table when it takes an object that stands [m]: the palm stays clear."""
    return max(GRASP_HEIGHT, 2 * sim.rest_heights()[name] - PALM_DEPTH)


def yaw_of(state: Vector) -> float:
    """Yaw of a hand that points down, relative to fingers opening along the base y axis [rad]."""
    return float(state[5] - down_state(np.zeros(3))[5])


def _at(spot: tuple[float, float], height: float) -> Vector:
    """Position of link8 [3] with the TCP ``height`` above a spot on the table."""
    return np.array([*spot, height + TCP_OFFSET])


def _above(state: Vector, height: float) -> Vector:
    """Position of link8 [3] straight above a state, with the TCP ``height`` above the table."""
    return np.array([state[0], state[1], height + TCP_OFFSET])


def _over(sim: PandaSim, name: str, height: float) -> Vector:
    """Position of link8 [3] with the TCP ``height`` above the table at the object's place."""
    x, y, _ = sim.objects()[name].position
    return _at((x, y), height)


def _go(
    sim: PandaSim,
    position: Vector,
    yaw: float,
    gripper: float,
    *,
    tolerance: float,
    max_step: float = MAX_STEP,
    patience: int = 14,
) -> Script:
    """Targets towards a pose until it is reached within ``tolerance`` [m], or ``patience`` steps."""
    position = WORKSPACE.clip(position)
    for _ in range(patience):
        state = sim.state()
        error, turn = position - state[:3], yaw - yaw_of(state)
        if np.linalg.norm(error) < tolerance and abs(turn) < 0.03:
            return
        scale = min(1.0, max_step / max(float(np.abs(error).max()), 1e-9))
        turn = float(np.clip(turn, -MAX_TURN, MAX_TURN))
        yield down_state(state[:3] + scale * error, yaw=yaw_of(state) + turn, gripper=gripper)
