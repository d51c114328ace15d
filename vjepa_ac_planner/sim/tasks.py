"""Tasks: a start, goal images, and the world's own test of success.

The protocol is that of the V-JEPA 2 paper (arXiv 2506.09985, Table 2): reach, grasp a cup or a box,
reach with an object in hand, and pick-and-place with two sub-goal images and a final one. Goal images
show what the scripted oracle brought about from the very same start; the planner sees nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.model import OBJECT_REST_HEIGHT, TCP_OFFSET
from vjepa_ac_planner.sim.panda import WORKSPACE, ObjectPose, PandaSim, down_state, random_objects
from vjepa_ac_planner.sim.safety import Guarded
from vjepa_ac_planner.types import Frame, Goal

Vector = npt.NDArray[np.float64]

TASKS = ("reach", "grasp_cup", "grasp_box", "reach_with_object", "pick_place_cup", "pick_place_box")
REACHED = 0.04
"""A position counts as reached within this distance [m]."""
SAFE_HEIGHT = 0.10
"""TCP height above the table of starts and goals that must not touch the objects [m]."""
_SPOT_LOW, _SPOT_HIGH = (0.42, -0.25), (0.64, 0.25)


@dataclass(frozen=True)
class Task:
    """One episode's start and goals, for a simulation with the camera they were made with."""

    name: str
    seed: int
    start: Vector
    """Snapshot of the whole simulation at the start."""
    goals: tuple[Goal, ...]
    """Goal images in order; all but the last are sub-goals."""
    goal_states: tuple[Vector, ...]
    """[7] state of link8 in each goal image: for measuring, unknown to the planner."""
    goal_steps: tuple[int, ...]
    """Steps allowed for each goal (the paper: 4, 10 and 4, from starts a little nearer)."""
    object: str | None
    """The object it is about, if any."""
    goal_object: ObjectPose | None
    """Where that object is in the last goal image."""

    @property
    def max_steps(self) -> int:
        """Steps for all goals together."""
        return sum(self.goal_steps)

    @property
    def goal_position(self) -> Vector:
        """[3] position of link8 in the last goal image [m]."""
        return self.goal_states[-1][:3]

    def begin(self, sim: PandaSim) -> None:
        """Put a simulation at the start."""
        sim.restore(self.start)

    def error(self, sim: PandaSim) -> float:
        """How far the world is from the last goal [m].

        The distance of link8 for a reach; of the object for pick-and-place; of the hand from the
        object for a grasp.
        """
        position = sim.state()[:3]
        if self.object is not None and self.name.startswith("pick_place"):
            assert self.goal_object is not None
            return _distance(sim.objects()[self.object].position, self.goal_object.position)
        if self.object is not None and self.name.startswith("grasp"):
            x, y, z = sim.objects()[self.object].position
            return _distance(position, (x, y, z + TCP_OFFSET))
        return _distance(position, self.goal_position)

    def success(self, sim: PandaSim) -> bool:
        """Whether the task is done at this moment.

        ``reach``: link8 within 4 cm of the goal. ``grasp_*``: both fingers on the object.
        ``reach_with_object``: within 4 cm, and still holding. ``pick_place_*``: the object stands within
        4 cm of its place, upright, and is let go.
        """
        if self.object is None:
            return self.error(sim) < REACHED
        holding = sim.holding(self.object)
        if self.name.startswith("grasp"):
            return holding
        near = self.error(sim) < REACHED
        if self.name == "reach_with_object":
            return near and holding
        height = sim.objects()[self.object].position[2]
        return near and not holding and abs(height - OBJECT_REST_HEIGHT[self.object]) < 0.01

    def oracle(self, sim: PandaSim) -> oracle.Script:
        """The scripted solution, from the start: targets one step apart."""
        for stage in _stages(self.name, self.object, self.goal_states[-1], self.goal_object):
            yield from stage(sim)


def make_task(name: str, seed: int, sim: PandaSim | None = None) -> Task:
    """Make one episode of a task.

    Args:
        name: one of ``TASKS``.
        seed: decides the scene; those from 100000 on are for evaluation only.
        sim: makes the images, and is left at the start; None makes one with the default camera for it.

    Raises:
        InputError: an unknown task.
    """
    if name not in TASKS:
        raise InputError(f"task: received {name!r}, allowed {', '.join(TASKS)}")
    if sim is None:
        with PandaSim() as own:
            return make_task(name, seed, own)
    rng = np.random.default_rng([seed, 3, TASKS.index(name)])
    if name == "reach":
        return _reach(seed, sim, rng)
    thing = str(rng.choice(("cup", "box"))) if name == "reach_with_object" else name.rsplit("_", 1)[1]
    return _with_object(name, thing, seed, sim, rng)


def _reach(seed: int, sim: PandaSim, rng: np.random.Generator) -> Task:
    """Start and goal 15 to 35 cm apart, both above the objects; only the arm differs."""
    objects = random_objects(rng)
    start, goal = _two_points(sim, rng, rng.uniform(0.15, 0.35))
    goal_state = down_state(goal)
    sim.reset_to(goal_state, objects)
    image = sim.render()
    sim.reset_to(down_state(start), objects)
    return Task("reach", seed, sim.snapshot(), (_goal(image, "reach"),), (goal_state,), (12,), None, None)


def _with_object(name: str, thing: str, seed: int, sim: PandaSim, rng: np.random.Generator) -> Task:
    """The hand above the object, or holding it; the oracle acts out the goals."""
    objects = random_objects(rng)
    x, y, _ = objects[thing].position
    offset = rng.uniform((-0.06, -0.06, 0.06), (0.06, 0.06, 0.12))
    hand = WORKSPACE.clip(np.array([x, y, OBJECT_REST_HEIGHT[thing] + TCP_OFFSET + 0.03]) + offset)
    sim.reset_to(down_state(hand), objects)
    goal_object, target = None, down_state(hand)
    if name == "reach_with_object":
        run(sim, oracle.grasp(sim, thing, align=False))
        target = down_state(_point_near(sim, rng, sim.state()[:3], rng.uniform(0.15, 0.30)), gripper=1.0)
    if name.startswith("pick_place"):
        other = next(pose for key, pose in objects.items() if key != thing)
        goal_object = _free_spot(rng, objects[thing], other, OBJECT_REST_HEIGHT[thing])
    start = sim.snapshot()
    goals, states = [], []
    names = _GOAL_NAMES[name.split("_")[0]]
    for stage, label in zip(_stages(name, thing, target, goal_object), names, strict=True):
        run(sim, stage(sim))
        goals.append(_goal(sim.render(), label))
        states.append(sim.state())
    if goal_object is None:
        goal_object = sim.objects()[thing]
    steps = {"grasp": (6,), "reach": (12,), "pick": (6, 10, 6)}[name.split("_")[0]]
    sim.restore(start)
    return Task(name, seed, start, tuple(goals), tuple(states), steps, thing, goal_object)


_GOAL_NAMES = {"grasp": ("grasped",), "reach": ("carried",), "pick": ("grasped", "near", "placed")}

Stage = Callable[[PandaSim], oracle.Script]


def _stages(name: str, thing: str | None, target: Vector, goal_object: ObjectPose | None) -> list[Stage]:
    """What the oracle does for each goal in turn."""
    if name.startswith("reach"):
        return [lambda sim: oracle.reach(sim, _keep_grip(target, thing))]
    assert thing is not None
    stages: list[Stage] = [lambda sim: oracle.grasp(sim, thing, lift=False, align=False)]
    if name.startswith("pick_place"):
        assert goal_object is not None
        spot = goal_object.position[:2]
        stages.append(lambda sim: oracle.carry(sim, spot))
        stages.append(lambda sim: oracle.put_down(sim, spot))
    return stages


def _keep_grip(target: Vector, thing: str | None) -> Vector:
    """With an object in hand the fingers must go on closing, whatever opening the goal shows."""
    return target if thing is None else np.append(target[:6], 1.0)


def run(sim: PandaSim, script: oracle.Script) -> int:
    """Carry out a script to its end; returns the number of steps."""
    arm, steps = Guarded(sim), 0
    for target in script:
        arm.move(target)
        steps += 1
    return steps


def _goal(image: npt.NDArray[np.uint8], name: str) -> Goal:
    return Goal(Frame(image, frame_id="exterior"), name)


def _two_points(sim: PandaSim, rng: np.random.Generator, distance: float) -> tuple[Vector, Vector]:
    low = (*WORKSPACE.low[:2], TCP_OFFSET + SAFE_HEIGHT)
    while True:
        start = rng.uniform(low, WORKSPACE.high)
        goal = _at_distance(rng, start, distance)
        if _allowed(sim, start) and _allowed(sim, goal):
            return start, goal


def _point_near(sim: PandaSim, rng: np.random.Generator, start: Vector, distance: float) -> Vector:
    while True:
        goal = _at_distance(rng, start, distance)
        if _allowed(sim, goal):
            return goal


def _at_distance(rng: np.random.Generator, start: Vector, distance: float) -> Vector:
    direction = rng.normal(size=3)
    return start + distance * direction / np.linalg.norm(direction)


def _allowed(sim: PandaSim, position: Vector) -> bool:
    """Whether link8 can be there, too high to touch an object."""
    high_enough = position[2] >= TCP_OFFSET + SAFE_HEIGHT
    return bool(high_enough) and WORKSPACE.contains(position) and sim.reachable(down_state(position))


def _free_spot(rng: np.random.Generator, thing: ObjectPose, other: ObjectPose, height: float) -> ObjectPose:
    """A place on the table 12 to 30 cm from where the object is, and clear of the other one."""
    while True:
        x, y = rng.uniform(_SPOT_LOW, _SPOT_HIGH)
        from_thing = np.hypot(x - thing.position[0], y - thing.position[1])
        from_other = np.hypot(x - other.position[0], y - other.position[1])
        if 0.12 <= from_thing <= 0.30 and from_other >= 0.14:
            return ObjectPose((float(x), float(y), height), thing.yaw)


def _distance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))
