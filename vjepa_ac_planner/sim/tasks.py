"""Tasks: a start, goal images, and the world's own test of success.

The tasks are those of the V-JEPA 2 paper (arXiv 2506.09985, Table 2): reach, grasp a cup or a box, reach
with an object in hand, and pick-and-place. Goal images show what the scripted oracle brought about from
the very same start; the planner sees nothing else. They come as the paper has them (one image of the
grasp; grasped, near the place, placed) or finer (above the object, grasped, lifted, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.sim import oracle
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import WORKSPACE, ObjectPose, PandaSim, down_state, random_objects
from vjepa_ac_planner.sim.randomise import PLAIN, Appearance, random_appearance
from vjepa_ac_planner.sim.safety import Guarded
from vjepa_ac_planner.sim.stages import Stage, stages
from vjepa_ac_planner.types import Frame, Goal

Vector = npt.NDArray[np.float64]

TASKS = ("reach", "grasp_cup", "grasp_box", "reach_with_object", "pick_place_cup", "pick_place_box")
SubGoals = Literal["paper", "fine"]
REACHED = 0.04
"""The hand has reached a position within this distance [m]."""
PLACED = 0.05
"""An object is at its place within this horizontal distance [m]."""
LIFTED = 0.03
"""An object is lifted when its centre is this much higher than when it stands [m]."""
UPRIGHT = float(np.radians(15.0))
"""An object stands upright when it leans by less than this [rad]."""
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
    stages: tuple[Stage, ...]
    """What each goal image is of, and how many steps it is given."""
    object: str | None
    """The object it is about, if any."""
    goal_object: ObjectPose | None
    """Where that object is in the last goal image."""
    rest_height: float = 0.0
    """Height of that object's centre when it stands on the table [m]."""
    appearance: Appearance = PLAIN
    """How the scene looks, at the start and in the goal images."""

    @property
    def max_steps(self) -> int:
        """Steps for all goals together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def goal_position(self) -> Vector:
        """[3] position of link8 in the last goal image [m]."""
        return self.goal_states[-1][:3]

    def begin(self, sim: PandaSim) -> None:
        """Put a simulation at the start, and give it the task's look."""
        sim.dress(self.appearance)
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

        ``reach``: link8 within 4 cm of the goal. ``grasp_*``: both fingers on the object, and the object
        at least 3 cm above where it stood; where the goal image shows it standing, the second half is
        left to :meth:`lift`. ``reach_with_object``: link8 within 4 cm, and both fingers on the object.
        ``pick_place_*``: the object stands on the table within 5 cm of its place, upright, and at most
        one finger touches it.
        """
        if self.object is None:
            return self.error(sim) < REACHED
        holding = sim.holding(self.object)
        if self.name.startswith("grasp"):
            return holding and (self.lifted(sim) or not self._shows_it_lifted)
        if self.name == "reach_with_object":
            return self.error(sim) < REACHED and holding
        return self.placed(sim) and not holding

    def lifted(self, sim: PandaSim) -> bool:
        """Whether the object is at least 3 cm above where it stood."""
        return self.object is not None and self.height(sim) > LIFTED

    def placed(self, sim: PandaSim) -> bool:
        """Whether the object stands upright on the table within 5 cm of its place."""
        assert self.object is not None and self.goal_object is not None
        away = _distance(sim.objects()[self.object].position[:2], self.goal_object.position[:2])
        stands = abs(self.height(sim)) < 0.01 and sim.tilt(self.object) < UPRIGHT
        return away < PLACED and stands

    def height(self, sim: PandaSim) -> float:
        """How much higher the object is than when it stands on the table [m]."""
        assert self.object is not None
        return sim.objects()[self.object].position[2] - self.rest_height

    def lift(self, sim: PandaSim) -> None:
        """Raise the hand by 8 cm, the fingers told what they were told last: does the object come along?

        This ends a grasp whose goal image shows the object standing; other tasks are left as they are.
        """
        if self.name.startswith("grasp") and not self._shows_it_lifted:
            run(sim, oracle.raise_hand(sim, 0.08, gripper=float(sim.reference()[6])))

    @property
    def _shows_it_lifted(self) -> bool:
        assert self.goal_object is not None
        return self.goal_object.position[2] - self.rest_height > LIFTED

    def oracle(self, sim: PandaSim) -> oracle.Script:
        """The scripted solution, from the start: targets one step apart."""
        for stage in self.stages:
            yield from stage.script(sim)


def make_task(
    name: str,
    seed: int,
    sim: PandaSim | None = None,
    *,
    sub_goals: SubGoals = "paper",
    randomise: float = 0.0,
) -> Task:
    """Make one episode of a task.

    Args:
        name: one of ``TASKS``.
        seed: decides the scene and its look; those from 100000 on are for evaluation only.
        sim: makes the images, and is left at the start; None makes one with the default camera for it.
        sub_goals: the paper's, or finer ones.
        randomise: how far the look goes from the plain one, 0 to 1.

    Raises:
        InputError: an unknown task.
    """
    if name not in TASKS:
        raise InputError(f"task: received {name!r}, allowed {', '.join(TASKS)}")
    if sim is None:
        with PandaSim() as own:
            return make_task(name, seed, own, sub_goals=sub_goals, randomise=randomise)
    sim.dress(random_appearance(seed, randomise))
    rng = np.random.default_rng([seed, 3, TASKS.index(name)])
    if name == "reach":
        return _reach(seed, sim, rng)
    thing = str(rng.choice(("cup", "box"))) if name == "reach_with_object" else name.rsplit("_", 1)[1]
    return _with_object(name, thing, seed, sim, rng, sub_goals)


def _reach(seed: int, sim: PandaSim, rng: np.random.Generator) -> Task:
    """Start and goal 15 to 35 cm apart, both above the objects; only the arm differs."""
    objects = random_objects(rng, sim.rest_heights())
    start, goal = _two_points(sim, rng, rng.uniform(0.15, 0.35))
    goal_state = down_state(goal)
    sim.reset_to(goal_state, objects)
    image = sim.render()
    sim.reset_to(down_state(start), objects)
    return Task(
        "reach",
        seed,
        sim.snapshot(),
        (_goal(image, "reach"),),
        (goal_state,),
        stages("reach", "paper", target=goal_state),
        None,
        None,
        appearance=sim.appearance,
    )


def _with_object(
    name: str, thing: str, seed: int, sim: PandaSim, rng: np.random.Generator, sub_goals: SubGoals
) -> Task:
    """The hand above the object, or holding it; the oracle acts out the goals."""
    heights = sim.rest_heights()
    objects = random_objects(rng, heights)
    x, y, _ = objects[thing].position
    offset = rng.uniform((-0.06, -0.06, 0.06), (0.06, 0.06, 0.12))
    hand = WORKSPACE.clip(np.array([x, y, heights[thing] + TCP_OFFSET + 0.03]) + offset)
    sim.reset_to(down_state(hand), objects)
    goal_object, target = None, down_state(hand)
    if name == "reach_with_object":
        run(sim, oracle.grasp(sim, thing, align=False))
        target = down_state(_point_near(sim, rng, sim.state()[:3], rng.uniform(0.15, 0.30)), gripper=1.0)
    if name.startswith("pick_place"):
        other = next(pose for key, pose in objects.items() if key != thing)
        goal_object = _free_spot(rng, objects[thing], other, heights[thing])
    start = sim.snapshot()
    goals, states = [], []
    spot = None if goal_object is None else goal_object.position[:2]
    parts = stages(name, sub_goals, target=target, thing=thing, spot=spot)
    for part in parts:
        run(sim, part.script(sim))
        goals.append(_goal(sim.render(), part.name))
        states.append(sim.state())
    if goal_object is None:
        goal_object = sim.objects()[thing]
    sim.restore(start)
    return Task(
        name,
        seed,
        start,
        tuple(goals),
        tuple(states),
        parts,
        thing,
        goal_object,
        heights[thing],
        sim.appearance,
    )


def run(sim: PandaSim, script: oracle.Script, on_step: Callable[[], None] | None = None) -> int:
    """Carry out a script to its end, with a call after each step; returns the number of steps."""
    arm, steps = Guarded(sim), 0
    for target in script:
        arm.move(target)
        steps += 1
        if on_step is not None:
            on_step()
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
