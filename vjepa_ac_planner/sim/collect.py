"""Play data: what a training run learns the world from, without labels, rewards or tasks.

One episode is ``frames`` images and states 0.25 s apart under one of three behaviours: a smooth
random walk, straight moves to random points, or scripted interaction with cup and box. Images are
stored at the model's input size, already resized the way the planner resizes camera images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.config import check_range, from_mapping, load_yaml, to_mapping
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim import oracle
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
from vjepa_ac_planner.types import Command

Vector = npt.NDArray[np.float64]

EVALUATION_SEEDS = 100_000
"""Seeds from here on are for evaluation and never used in training, tuning or tests."""
BEHAVIOURS = ("random", "goal", "interact")
MAX_YAW = 0.5


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
    """Share of straight moves to random points; the rest interacts with cup and box."""
    yaw_fraction: float = 0.25
    """Share of episodes in which the hand also turns (never in straight moves)."""
    gripper_fraction: float = 0.33
    """Share of random walks and straight moves in which the gripper opens and closes at random."""
    max_step: float = 0.075
    """Largest commanded change along each axis in one step [m]."""
    processes: int = 2
    """Worker processes, each with one simulation and one rendering thread."""
    shard_episodes: int = 50
    """Episodes per file; the unit of resuming."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Scene and camera."""

    def __post_init__(self) -> None:
        check_range("episodes", self.episodes, 1, EVALUATION_SEEDS)
        check_range("frames", self.frames, 2, 1000)
        check_range("step_seconds", self.step_seconds, 0.02, 2.0, "s")
        check_range("store_size", self.store_size, 16, 1024, "pixels")
        check_range("random_fraction", self.random_fraction, 0.0, 1.0)
        check_range("goal_fraction", self.goal_fraction, 0.0, 1.0 - self.random_fraction)
        check_range("yaw_fraction", self.yaw_fraction, 0.0, 1.0)
        check_range("gripper_fraction", self.gripper_fraction, 0.0, 1.0)
        check_range("max_step", self.max_step, 0.005, 0.15, "m")
        check_range("processes", self.processes, 1, 256)
        check_range("shard_episodes", self.shard_episodes, 1, 10000)
        check_range("first_seed", self.first_seed, 0, EVALUATION_SEEDS - self.episodes)


def collect_episode(seed: int, config: CollectConfig, sim: PandaSim | None = None) -> dict[str, Any]:
    """Simulate one episode; the seed decides everything in it.

    Args:
        seed: below 100000.
        config: what to collect.
        sim: a simulation to use again (its scene must be ``config.sim``); made and closed here if None.

    Returns:
        ``images`` uint8 [T, H, W, 3] as rendered, ``states`` float32 [T, 7] as measured, and
        ``behaviour``, one of ``BEHAVIOURS``.

    Raises:
        ConfigError: the seed belongs to evaluation.
    """
    if not 0 <= seed < EVALUATION_SEEDS:
        raise ConfigError(
            f"seed: received {seed}, allowed 0 .. {EVALUATION_SEEDS - 1} (above: evaluation only)"
        )
    if sim is None:
        with PandaSim(config.sim) as own:
            return collect_episode(seed, config, own)
    rng = np.random.default_rng([seed, 2])
    share = rng.uniform()
    behaviour = BEHAVIOURS[
        int(share >= config.random_fraction) + int(share >= config.random_fraction + config.goal_fraction)
    ]
    turns = behaviour != "goal" and rng.uniform() < config.yaw_fraction
    grips = behaviour != "interact" and rng.uniform() < config.gripper_fraction
    _start(sim, rng, turns=turns, grips=grips)
    targets = {"random": _random_walk, "goal": _straight_moves, "interact": _interact}[behaviour](
        sim, rng, config, turns=turns, grips=grips
    )
    if behaviour == "interact":
        for _ in range(int(rng.integers(0, 10))):  # unrecorded, so that episodes also start mid-grasp
            _apply(sim, next(targets), config)
    images, states = [sim.render()], [sim.state()]
    for _ in range(config.frames - 1):
        _apply(sim, next(targets), config)
        images.append(sim.render())
        states.append(sim.state())
    return {
        "images": np.stack(images),
        "states": np.stack(states).astype(np.float32),
        "behaviour": behaviour,
    }


def _apply(sim: PandaSim, target: Vector, config: CollectConfig) -> None:
    clipped = np.concatenate([WORKSPACE.clip(target[:3]), target[3:6], np.clip(target[6:], 0.0, 1.0)])
    sim.apply(Command("move", clipped, config.step_seconds))


def _start(sim: PandaSim, rng: np.random.Generator, *, turns: bool, grips: bool) -> None:
    """Objects at random places, the arm somewhere in the workspace but not inside one of them."""
    objects = random_objects(rng)
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


def resize(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Square images [T, H, W, 3] to [T, size, size, 3]: bilinear without antialiasing, rounded.

    At exactly half the size this is the mean of each 2x2 block.
    """
    import torch

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(
        tensor, (size, size), mode="bilinear", align_corners=False, antialias=False
    )
    result: npt.NDArray[np.uint8] = (
        small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return result


def collect(config: CollectConfig, out: str | Path) -> Path:
    """Collect all episodes into a folder; shards that are already there are kept.

    The folder then holds, for each shard, ``shard-00000-images.npy`` uint8 [E, T, S, S, 3],
    ``-states.npy`` float32 [E, T, 7] and ``-behaviours.npy`` uint8 [E] (index into ``BEHAVIOURS``),
    and ``manifest.json``. All of it can be memory-mapped.

    Args:
        config: what to collect.
        out: the folder, made if absent.

    Returns:
        The manifest's path.

    Raises:
        ConfigError: the folder holds data of another configuration.
    """
    from tqdm import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.json"
    _check_manifest(manifest, config)
    todo = [i for i in range(_shards(config)) if not _shard_path(out, i, "states").exists()]
    with (
        ProcessPoolExecutor(
            min(config.processes, max(1, len(todo))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_worker_threads,
        ) as pool,
        tqdm(total=config.episodes, unit="episode", desc="collect") as bar,
    ):
        bar.update(config.episodes - sum(len(_shard_seeds(config, i)) for i in todo))
        futures = [pool.submit(_collect_shard, config, i, str(out)) for i in todo]
        try:
            for future in as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _write_manifest(manifest, config, complete=True)
    return manifest


def _worker_threads() -> None:
    # One rendering thread and one arithmetic thread per process: the processes are the parallelism.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _worker_sim(config: SimConfig) -> PandaSim:
    return PandaSim(config)


def _shards(config: CollectConfig) -> int:
    return -(-config.episodes // config.shard_episodes)


def _shard_seeds(config: CollectConfig, index: int) -> range:
    start = index * config.shard_episodes
    stop = min(start + config.shard_episodes, config.episodes)
    return range(config.first_seed + start, config.first_seed + stop)


def _shard_path(out: Path, index: int, kind: str) -> Path:
    return out / f"shard-{index:05d}-{kind}.npy"


def _collect_shard(config: CollectConfig, index: int, out: str) -> int:
    sim = _worker_sim(config.sim)
    episodes = []
    for seed in _shard_seeds(config, index):
        episode = collect_episode(seed, config, sim)
        episodes.append({**episode, "images": resize(episode["images"], config.store_size)})
    behaviours = np.array([BEHAVIOURS.index(e["behaviour"]) for e in episodes], np.uint8)
    folder = Path(out)
    _save(_shard_path(folder, index, "images"), np.stack([e["images"] for e in episodes]))
    _save(_shard_path(folder, index, "behaviours"), behaviours)
    # The states come last: a shard counts as finished when they are there.
    _save(_shard_path(folder, index, "states"), np.stack([e["states"] for e in episodes]))
    return len(episodes)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    partial = _partial(path)
    with partial.open("wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def _partial(path: Path) -> Path:
    """Where a file is written before it is complete; one name per process."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _identity(config: CollectConfig) -> dict[str, Any]:
    """What must agree for two runs to continue one another; the number of processes need not."""
    mapping = to_mapping(config)
    return {key: value for key, value in mapping.items() if key not in ("processes", "episodes")}


def _check_manifest(path: Path, config: CollectConfig) -> None:
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["config"]
        wanted = json.loads(json.dumps(_identity(config)))
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise ConfigError(
                f"{path.parent}: holds data collected with other {', '.join(differing)}; "
                "choose another folder, or delete this one"
            )
    _write_manifest(path, config, complete=False)


def _write_manifest(path: Path, config: CollectConfig, *, complete: bool) -> None:
    import mujoco

    content = {
        "complete": complete,
        "shards": _shards(config),
        "behaviours": BEHAVIOURS,
        "config": to_mapping(config),
        "seeds": [config.first_seed, config.first_seed + config.episodes - 1],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "mujoco": mujoco.__version__,
        },
    }
    partial = _partial(path)
    partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m vjepa_ac_planner.sim.collect --out DIR``."""
    parser = argparse.ArgumentParser(description="Collect play data in the simulator.")
    parser.add_argument("--config", help="YAML file with the options of CollectConfig")
    parser.add_argument("--episodes", type=int, help="number of episodes")
    parser.add_argument("--seed", type=int, help="seed of the first episode, below 100000")
    parser.add_argument("--processes", type=int, help="worker processes")
    parser.add_argument("--out", required=True, help="folder to write to; finished shards are kept")
    options = parser.parse_args(arguments)
    mapping = load_yaml(options.config) if options.config else {}
    given = {"episodes": options.episodes, "first_seed": options.seed, "processes": options.processes}
    mapping.update({key: value for key, value in given.items() if value is not None})
    collect(from_mapping(CollectConfig, mapping, options.config or "options"), options.out)


if __name__ == "__main__":
    main()
