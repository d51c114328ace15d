"""Contact play: what a hand does around things, done well and badly, for play data only.

Grasps that miss, close too early or let go; lifts, carries, drops and pushes; fingers that open and close
in the air and around an object; a hand that wanders low over the table. Like the scripts of
:mod:`~vjepa_ac_planner.sim.oracle` these are generators of pose targets [7], one step apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import OBJECTS, WORKSPACE, PandaSim, down_state

Vector = npt.NDArray[np.float64]
Script = Iterator[Vector]

LOWEST = WORKSPACE.low[2] - TCP_OFFSET
"""Height of the TCP above the table at the bottom of the workspace [m]."""


def play_with(sim: PandaSim, rng: np.random.Generator) -> Script:
    """One errand after another, without end."""
    errands, shares = zip(*_ERRANDS, strict=True)
    noise = rng.choice([0.0, 0.002, 0.004])
    while True:
        errand = errands[int(rng.choice(len(errands), p=shares))]
        for target in errand(sim, rng, str(rng.choice(OBJECTS))):
            yield target + np.append(rng.normal(0.0, noise, 3), np.zeros(4))


def above_an_object(sim: PandaSim, rng: np.random.Generator) -> Vector:
    """A position of link8 [3] near an object, with the finger tips above all objects."""
    x, y, _ = sim.objects()[str(rng.choice(OBJECTS))].position
    offset = rng.uniform((-0.08, -0.08, 0.09), (0.08, 0.08, 0.16))
    return WORKSPACE.clip(np.array([x, y, TCP_OFFSET]) + offset)


def _grasp(sim: PandaSim, rng: np.random.Generator, name: str) -> Script:
    """A grasp with an aim of any quality, and what may follow one."""
    aim = _over(sim, name) + np.append(rng.normal(0.0, rng.choice(_MISSES, p=_MISS_SHARES), 2), 0.0)
    height = rng.uniform(LOWEST, 0.05)
    if rng.uniform() < 0.15:  # closes before it is down
        height = rng.uniform(0.06, 0.13)
    opening = 0.0 if rng.uniform() < 0.8 else rng.uniform(0.0, 0.25)
    speed = rng.uniform(0.02, oracle.MAX_STEP)
    yield from _go(sim, aim + (0, 0, rng.uniform(0.09, 0.16)), opening, speed)
    yield from _go(sim, aim + (0, 0, height), opening, speed)
    grip = 1.0 if rng.uniform() < 0.8 else rng.uniform(0.3, 1.0)
    yield from _stay(sim, grip, int(rng.integers(1, 4)))
    after = rng.uniform()
    if after < 0.2:  # let go at once, to try again
        yield from _stay(sim, 0.0, int(rng.integers(1, 3)))
        return
    yield from _go(sim, sim.state()[:3] + (0, 0, rng.uniform(0.04, 0.2)), 1.0, speed)
    if after < 0.6:
        x, y = rng.uniform((0.42, -0.25), (0.64, 0.25))
        yield from _go(sim, np.array([x, y, sim.state()[2]]), 1.0, speed)
        low = TCP_OFFSET + rng.choice([0.033, rng.uniform(0.03, 0.13)])  # put down, or drop
        yield from _go(sim, np.array([x, y, low]), 1.0, speed)
    elif after < 0.8:
        yield from _wander(sim, rng, 0.0, 1.0, steps=int(rng.integers(2, 7)))
    yield from _stay(sim, 0.0, int(rng.integers(1, 3)))
    if rng.uniform() < 0.6:
        yield from _go(sim, sim.state()[:3] + (0, 0, rng.uniform(0.03, 0.15)), 0.0, speed)


def _around(sim: PandaSim, rng: np.random.Generator, name: str) -> Script:
    """Over an object, down around or beside it, then small moves, the fingers opening and closing."""
    miss = rng.choice([0.004, 0.012, 0.05])
    spot = _over(sim, name) + np.append(rng.normal(0.0, miss, 2), 0.0)
    speed = rng.uniform(0.02, oracle.MAX_STEP)
    yield from _go(sim, spot + (0, 0, rng.uniform(0.09, 0.13)), 0.0, speed)
    yield from _go(sim, spot + (0, 0, rng.uniform(LOWEST, 0.09)), 0.0, speed)
    yield from _wander(sim, rng, 0.3, 0.0, steps=int(rng.integers(3, 9)))


def _push(sim: PandaSim, rng: np.random.Generator, name: str) -> Script:
    yield from oracle.push(sim, name, rng.uniform(-np.pi, np.pi), rng.uniform(0.03, 0.12))


def _low(sim: PandaSim, rng: np.random.Generator, name: str) -> Script:
    """To a random place low over the table, whatever is there, and about it."""
    x, y = rng.uniform(WORKSPACE.low[:2], WORKSPACE.high[:2])
    spot = np.array([x, y, TCP_OFFSET + rng.uniform(LOWEST, 0.10)])
    grip = float(rng.choice([0.0, 0.0, 1.0, rng.uniform()]))
    yield from _go(sim, spot, grip, rng.uniform(0.01, oracle.MAX_STEP))
    yield from _wander(sim, rng, 0.2, grip, steps=int(rng.integers(2, 6)))


def _fingers(sim: PandaSim, rng: np.random.Generator, name: str) -> Script:
    """Open and close where the hand is."""
    for _ in range(int(rng.integers(2, 5))):
        yield from _stay(sim, float(rng.choice([0.0, 1.0, rng.uniform()])), int(rng.integers(1, 3)))


_ERRANDS: tuple[tuple[Callable[[PandaSim, np.random.Generator, str], Script], float], ...] = (
    (_grasp, 0.45),
    (_around, 0.25),
    (_push, 0.08),
    (_low, 0.14),
    (_fingers, 0.08),
)
_MISSES, _MISS_SHARES = (0.0, 0.006, 0.015, 0.04), (0.3, 0.4, 0.2, 0.1)
"""Standard deviation of the aim [m], and how often it is that."""


def _over(sim: PandaSim, name: str) -> Vector:
    """Position of link8 [3] with the TCP on the table where the object is."""
    x, y, _ = sim.objects()[name].position
    return np.array([x, y, TCP_OFFSET])


def _wander(sim: PandaSim, rng: np.random.Generator, change: float, grip: float, steps: int) -> Script:
    """Small steps in all directions; before each, the fingers get a new target with chance ``change``."""
    yaw = oracle.yaw_of(sim.state())
    scale = rng.uniform(0.005, 0.04)
    for _ in range(steps):
        if rng.uniform() < change:
            grip = float(rng.choice([0.0, 1.0, rng.uniform()]))
        position = WORKSPACE.clip(sim.state()[:3] + rng.uniform(-scale, scale, 3))
        yield down_state(position, yaw=yaw, gripper=grip)


def _stay(sim: PandaSim, grip: float, steps: int) -> Script:
    state = sim.state()
    for _ in range(steps):
        yield down_state(WORKSPACE.clip(state[:3]), yaw=oracle.yaw_of(state), gripper=grip)


def _go(sim: PandaSim, position: Vector, grip: float, speed: float) -> Script:
    """Straight to a position, at most ``speed`` [m] along each axis a step; gives up when stuck."""
    position, yaw = WORKSPACE.clip(position), oracle.yaw_of(sim.state())
    for _ in range(12):
        error = position - sim.state()[:3]
        if np.abs(error).max() < 0.006:
            return
        move = error * min(1.0, speed / np.abs(error).max())
        yield down_state(sim.state()[:3] + move, yaw=yaw, gripper=grip)
