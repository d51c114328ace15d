"""Play: what the arm does while data is collected, one episode per seed.

Four behaviours: a smooth random walk, straight moves to random points, scripted interaction with cup and
box, and contact of all kinds (:mod:`~vjepa_ac_planner.sim.contact`). None of them knows a task, a reward
or a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim import contact, oracle
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.panda import (
    OBJECTS,
    WORKSPACE,
    ObjectPose,
    PandaSim,
    SimConfig,
    down_state,
    random_objects,
)
from vjepa_ac_planner.sim.randomise import random_appearance
from vjepa_ac_planner.sim.safety import Guarded

Vector = npt.NDArray[np.float64]

EVALUATION_SEEDS = 100_000
"""Seeds from here on are for evaluation and never used in training, tuning or tests."""
BEHAVIOURS = ("random", "goal", "interact", "contact")
MAX_YAW = 0.5


@dataclass(frozen=True)
class View:
    """A place for the camera; as in :class:`SimConfig`."""

    camera_position: tuple[float, float, float]
    """[m], base frame."""
    camera_target: tuple[float, float, float]
    """Point it looks at [m]."""
    camera_fovy: float = 50.0
    """Vertical field of view [degrees]."""


@dataclass(frozen=True)
class CollectConfig:
    """What to collect.

    Raises:
        ConfigError: a value outside its range, or seeds that belong to evaluation.
    """

    episodes: int = 3600
    """Number of episodes."""
    first_seed: int = 0
    """Episode i has seed ``first_seed + i``; all below 100000."""
    frames: int = 17
    """Images per episode; there are ``frames - 1`` actions between them."""
    step_seconds: float = 0.25
    """Time between two frames [s]."""
    store_size: int = 128
    """Edge of the stored square images [pixels]."""
    random_fraction: float = 0.35
    """Share of random walks."""
    goal_fraction: float = 0.40
    """Share of straight moves to random points."""
    contact_fraction: float = 0.0
    """Share of contact of all kinds; the rest interacts with cup and box, and means to succeed."""
    yaw_fraction: float = 0.25
    """Share of episodes in which the hand also turns (never in straight moves; in contact it is turned)."""
    gripper_fraction: float = 0.33
    """Share of random walks and straight moves in which the gripper opens and closes at random."""
    max_step: float = 0.075
    """Largest commanded change along each axis in one step [m]."""
    processes: int = 2
    """Worker processes, each with one simulation and one rendering thread."""
    shard_episodes: int = 50
    """Episodes per file; the unit of resuming."""
    randomise: float = 0.0
    """How far looks go from the plain one, 0 .. 1: each episode has its own, of a strength up to this."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Scene and camera."""
    views: tuple[View, ...] = ()
    """Places of the camera instead of the scene's: each episode is seen from one, drawn by its seed."""

    def __post_init__(self) -> None:
        check_range("episodes", self.episodes, 1, EVALUATION_SEEDS)
        check_range("frames", self.frames, 2, 1000)
        check_range("step_seconds", self.step_seconds, 0.02, 2.0, "s")
        check_range("store_size", self.store_size, 16, 1024, "pixels")
        check_range("random_fraction", self.random_fraction, 0.0, 1.0)
        check_range("goal_fraction", self.goal_fraction, 0.0, 1.0 - self.random_fraction)
        rest = 1.0 - self.random_fraction - self.goal_fraction
        check_range("contact_fraction", self.contact_fraction, 0.0, rest + 1e-9)
        check_range("randomise", self.randomise, 0.0, 1.0)
        check_range("yaw_fraction", self.yaw_fraction, 0.0, 1.0)
        check_range("gripper_fraction", self.gripper_fraction, 0.0, 1.0)
        check_range("max_step", self.max_step, 0.005, 0.15, "m")
        check_range("processes", self.processes, 1, 256)
        check_range("shard_episodes", self.shard_episodes, 1, 10000)
        check_range("first_seed", self.first_seed, 0, EVALUATION_SEEDS - self.episodes)
        for view in self.views:
            replace(self.sim, camera_fovy=view.camera_fovy)  # its ranges are the scene's

    def scene(self, seed: int) -> SimConfig:
        """The scene of one episode, seen from its place."""
        if not self.views:
            return self.sim
        view = self.views[int(np.random.default_rng([seed, 8]).integers(len(self.views)))]
        return replace(
            self.sim,
            camera_position=view.camera_position,
            camera_target=view.camera_target,
            camera_fovy=view.camera_fovy,
        )


def collect_episode(seed: int, config: CollectConfig, sim: PandaSim | None = None) -> dict[str, Any]:
    """Simulate one episode; the seed decides everything in it.

    Args:
        seed: below 100000.
        config: what to collect.
        sim: a simulation to use again, of ``config.scene(seed)``; made and closed here if None.

    Returns:
        ``images`` uint8 [T, H, W, 3] as rendered, ``states`` float32 [T, 7] as measured, ``commands``
        float32 [T - 1, 7] as sent (poses), ``objects`` float32 [T, 2, 3] where cup and box are [m], and
        ``behaviour``, one of ``BEHAVIOURS``.

    Raises:
        ConfigError: the seed belongs to evaluation.
    """
    if not 0 <= seed < EVALUATION_SEEDS:
        raise ConfigError(
            f"seed: received {seed}, allowed 0 .. {EVALUATION_SEEDS - 1} (above: evaluation only)"
        )
    if sim is None:
        with PandaSim(config.scene(seed)) as own:
            return collect_episode(seed, config, own)
    rng = np.random.default_rng([seed, 2])
    behaviour = _behaviour(rng.uniform(), config)
    turns = behaviour != "goal" and rng.uniform() < config.yaw_fraction
    grips = behaviour != "interact" and rng.uniform() < config.gripper_fraction
    strength = float(np.random.default_rng([seed, 6]).uniform(0.0, config.randomise))
    sim.dress(random_appearance(seed, strength))
    _start(sim, rng, turns=turns, grips=grips)
    if behaviour == "contact" and rng.uniform() < 0.7:
        near = down_state(contact.above_an_object(sim, rng), yaw=oracle.yaw_of(sim.state()))
        sim.reset_to(near)
    targets = {"random": _random_walk, "goal": _straight_moves, "interact": _interact, "contact": _contact}[
        behaviour
    ](sim, rng, config, turns=turns, grips=grips)
    arm = Guarded(sim, config.step_seconds)
    if behaviour in ("interact", "contact"):
        for _ in range(int(rng.integers(0, 10))):  # unrecorded, so that episodes also start mid-grasp
            arm.move(next(targets))
    images, states, commands, objects = [sim.render()], [sim.state()], [], [_places(sim)]
    for _ in range(config.frames - 1):
        commands.append(arm.move(next(targets)).target)
        images.append(sim.render())
        states.append(sim.state())
        objects.append(_places(sim))
    return {
        "images": np.stack(images),
        "states": np.stack(states).astype(np.float32),
        "commands": np.stack(commands).astype(np.float32),
        "objects": np.stack(objects).astype(np.float32),
        "behaviour": behaviour,
    }


def _behaviour(share: float, config: CollectConfig) -> str:
    """What a number from 0 to 1 stands for."""
    for name, fraction in (
        ("random", config.random_fraction),
        ("goal", config.goal_fraction),
        ("contact", config.contact_fraction),
    ):
        if share < fraction:
            return name
        share -= fraction
    return "interact"


def _places(sim: PandaSim) -> Vector:
    """[2, 3] where cup and box are [m]."""
    poses = sim.objects()
    return np.array([poses[name].position for name in OBJECTS])


def _start(sim: PandaSim, rng: np.random.Generator, *, turns: bool, grips: bool) -> None:
    """Objects at random places, the arm somewhere in the workspace but not inside one of them."""
    objects = random_objects(rng, sim.rest_heights())
    position = _point(rng)
    while _inside_object(position, objects) or not sim.reachable(down_state(position)):
        position = _point(rng)
    yaw = rng.uniform(-MAX_YAW, MAX_YAW) if turns else 0.0
    gripper = rng.uniform() if grips else float(rng.uniform() < 0.2)
    sim.reset_to(down_state(position, yaw=yaw, gripper=gripper), objects)


def _point(rng: np.random.Generator) -> Vector:
    return rng.uniform(WORKSPACE.low, WORKSPACE.high)


def _inside_object(position: Vector, objects: dict[str, ObjectPose]) -> bool:
    tip = position[2] - TCP_OFFSET
    return tip < 0.10 and any(
        np.hypot(position[0] - pose.position[0], position[1] - pose.position[1]) < 0.14
        for pose in objects.values()
    )


def _gripper(rng: np.random.Generator, current: float, grips: bool) -> float:
    """Mostly stay, sometimes open, close, or anything between."""
    if not grips or rng.uniform() < 0.7:
        return current
    return float(rng.choice([0.0, 1.0, rng.uniform()]))


def _random_walk(
    sim: PandaSim, rng: np.random.Generator, config: CollectConfig, *, turns: bool, grips: bool
) -> Iterator[Vector]:
    """Deltas that fade into one another; their size varies from millimetres to ``max_step``."""
    scale = config.max_step * rng.uniform(0.05, 1.0)
    memory = rng.choice([0.0, 0.5, 0.8])
    delta = rng.uniform(-1.0, 1.0, size=3)
    state = sim.state()
    yaw, gripper = oracle.yaw_of(state), float(state[6])
    while True:
        delta = memory * delta + (1.0 - memory) * rng.uniform(-1.0, 1.0, size=3)
        # The mean of several uniforms is small: bring a smooth walk back to the size of a rough one.
        move = np.clip(scale * delta / (1.0 - 0.6 * memory), -config.max_step, config.max_step)
        position = sim.state()[:3] + move
        outside = position != WORKSPACE.clip(position)
        delta[outside] *= -1.0  # turn round at the walls instead of leaning on them
        if turns:
            yaw = float(np.clip(yaw + rng.uniform(-0.2, 0.2), -MAX_YAW, MAX_YAW))
        gripper = _gripper(rng, gripper, grips)
        yield down_state(WORKSPACE.clip(position), yaw=yaw, gripper=gripper)


def _straight_moves(
    sim: PandaSim, rng: np.random.Generator, config: CollectConfig, *, turns: bool, grips: bool
) -> Iterator[Vector]:
    """To a random point at a random speed, with noise; then stand still or go to another point."""
    state = sim.state()
    yaw, gripper = oracle.yaw_of(state), float(state[6])
    while True:
        goal = _point(rng)
        speed = rng.uniform(0.005, config.max_step)
        noise = rng.choice([0.0, 0.003, 0.01])
        for _ in range(30):
            position = sim.state()[:3]
            error = goal - position
            if np.abs(error).max() < 0.004:
                break
            move = error * min(1.0, speed / np.abs(error).max()) + rng.normal(0.0, noise, 3)
            move = np.clip(move, -config.max_step, config.max_step)
            gripper = _gripper(rng, gripper, grips)
            yield down_state(WORKSPACE.clip(position + move), yaw=yaw, gripper=gripper)
            if rng.uniform() < 0.03:
                break
        for _ in range(int(rng.integers(0, 4))):
            yield down_state(sim.state()[:3], yaw=yaw, gripper=gripper)


def _interact(
    sim: PandaSim, rng: np.random.Generator, config: CollectConfig, *, turns: bool, grips: bool
) -> Iterator[Vector]:
    """Grasp, lift, place or push cup and box, with noise."""
    noise = rng.choice([0.0, 0.002, 0.004])
    for target in _errands(sim, rng, turns):
        jitter = np.zeros(7)
        jitter[:3] = rng.normal(0.0, noise, 3)
        yield target + jitter


def _contact(
    sim: PandaSim, rng: np.random.Generator, config: CollectConfig, *, turns: bool, grips: bool
) -> Iterator[Vector]:
    """Contact of all kinds."""
    return contact.play_with(sim, rng)


def _errands(sim: PandaSim, rng: np.random.Generator, turns: bool) -> Iterator[Vector]:
    while True:
        name = str(rng.choice(OBJECTS))
        kind = rng.uniform()
        if kind < 0.25:
            yield from oracle.push(sim, name, rng.uniform(-np.pi, np.pi), rng.uniform(0.03, 0.12))
        else:
            yield from oracle.grasp(sim, name)
            if kind < 0.75:
                x, y = rng.uniform((0.42, -0.25), (0.64, 0.25))
                yield from oracle.place(sim, (float(x), float(y)))
            else:
                yield down_state(sim.state()[:3], yaw=oracle.yaw_of(sim.state()), gripper=0.0)
        if turns:
            state = sim.state()
            yield down_state(state[:3], yaw=rng.uniform(-MAX_YAW, MAX_YAW), gripper=state[6])
