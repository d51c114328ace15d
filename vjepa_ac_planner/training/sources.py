"""Recordings of every kind, one after another: what the training format is made of.

Bags are sampled by the rules of :mod:`vjepa_ac_planner.bags.resample`; each unbroken segment is an episode.
DROID and LeRobot episodes become bags for a moment (see ``vjepa-ac bag convert``) and are sampled in the
same way, so that every source goes through one door.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.bags.convert import Converted
from vjepa_ac_planner.bags.convert_droid import Pairing, convert_droid
from vjepa_ac_planner.bags.convert_lerobot import LeRobotNames, convert_lerobot
from vjepa_ac_planner.bags.reader import Bag, ResampleRules, Sample, TopicNames
from vjepa_ac_planner.errors import InputError, PlannerError
from vjepa_ac_planner.preprocess import shrink


class Step(NamedTuple):
    """One frame of an episode."""

    image: Tensor
    """[S, S, 3] uint8."""
    state: Tensor
    """[7] float32."""


@dataclass
class Recording:
    """One recording, read as its episodes are asked for."""

    name: str
    origin: str
    """Where it is from, which no other recording shares."""
    episodes: Callable[[], Iterator[Iterator[Step]]]
    """Reads it anew; raises PlannerError where it cannot be read (any further)."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What could not be used of it, counted by reason, once it has been read."""


@dataclass(frozen=True)
class Reading:
    """How recordings are read and stored."""

    size: int
    """Side of the stored frames, the model's [pixels]."""
    step_seconds: float = 0.25
    """Action period, the model's [s]."""
    topics: TopicNames = field(default_factory=TopicNames)
    """Of bags."""
    rules: ResampleRules = field(default_factory=ResampleRules)
    """How bags are sampled."""
    pairing: Pairing = "index"
    """Of DROID frames and states; by index is how V-JEPA 2-AC was trained."""
    camera: str | None = None
    """Serial number of DROID's camera; None: the one on the left of the robot."""
    stride: int = 1
    """Of DROID only every so-manieth step is read, as counted, before sampling by time."""


def from_bags(paths: Sequence[Path], reading: Reading) -> Iterator[Recording]:
    """One recording per bag."""
    for path in paths:
        skipped: Counter[str] = Counter()
        yield Recording(path.name, str(path.resolve()), _bag_reader(path, reading, skipped), skipped)


def from_droid(source: Path, reading: Reading, work: Path) -> Iterator[Recording]:
    """One recording per raw DROID episode below a folder.

    Args:
        source: an episode's folder, or any folder above episodes.
        reading: how they are read.
        work: folder for bags on their way; kept, so that an import that was stopped can go on.

    Raises:
        BagError: no episode there.
        MissingDependencyError: the ``convert`` extra is not installed.
    """
    own = _own(work, source)
    if reading.stride > 1:
        own /= f"every-{reading.stride}"  # apart from what was left by a stop with another stride
    results = convert_droid(source, own, reading.camera, reading.pairing, reading.stride)
    yield from _converted(results, source, reading)


def from_lerobot(source: Path, reading: Reading, work: Path, names: LeRobotNames) -> Iterator[Recording]:
    """One recording per episode of a LeRobot data set.

    Args:
        source: the data set's folder.
        reading: how they are read.
        work: see :func:`from_droid`.
        names: features to read.

    Raises:
        BagError: not such a data set.
        MissingDependencyError: the ``convert`` extra is not installed.
    """
    yield from _converted(convert_lerobot(source, _own(work, source), names), source, reading)


def from_play(folder: Path, reading: Reading) -> Iterator[Recording]:
    """One recording per shard of play data from the simulator.

    Raises:
        InputError: no shards there.
    """
    paths = sorted(folder.glob("*-images.npy"))
    if not paths:
        raise InputError(f"{folder}: holds no play data (*-images.npy)")
    for path in paths:
        name = f"{folder.resolve().name}-{path.name.removesuffix('-images.npy')}"
        yield Recording(name, str(path.resolve()), _play_reader(path, reading))


def source_kind(source: Path) -> str:
    """What a path holds: ``lerobot``, ``droid``, ``play`` or ``bags``.

    Raises:
        InputError: nothing is there.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if (source / "meta" / "info.json").is_file():
        return "lerobot"
    if any(source.glob("*-images.npy")):
        return "play"
    if source.is_dir() and next(source.rglob("trajectory.h5"), None) is not None:
        return "droid"
    return "bags"


def _bag_reader(
    path: Path, reading: Reading, skipped: Counter[str]
) -> Callable[[], Iterator[Iterator[Step]]]:
    def episodes() -> Iterator[Iterator[Step]]:
        with Bag.open(path, reading.topics) as bag:
            try:
                yield from _segments(bag.samples(reading.step_seconds, reading.rules), reading.size)
            finally:
                skipped.update(bag.skipped)

    return episodes


def _segments(samples: Iterator[Sample], size: int) -> Iterator[Iterator[Step]]:
    """Steps by segment; each segment must be read to its end before the next."""
    following = next(samples, None)

    def steps(segment: int, sample: Sample | None) -> Iterator[Step]:
        nonlocal following
        while sample is not None and sample.segment == segment:
            image = torch.from_numpy(np.array(sample.observation.frame.image)[None])
            state = np.array(sample.observation.state.vector, dtype=np.float32)
            yield Step(shrink(image, size)[0], torch.from_numpy(state))
            sample = next(samples, None)
        following = sample

    while following is not None:
        yield steps(following.segment, following)


def _converted(results: Iterator[Converted], source: Path, reading: Reading) -> Iterator[Recording]:
    """Bags are emptied once they are imported, and stay as a sign to the converter that they were."""
    root = source.resolve()
    for result in results:
        name, origin = f"{root.name}-{result.source}", f"{root}#{result.source}"
        skipped: Counter[str] = Counter()
        episodes = _bag_reader(result.path, reading, skipped)
        if result.problem:
            episodes = _failing(result.problem)
        elif not result.path.stat().st_size:
            episodes = _failing(
                f"{name}: was converted before, and gave nothing usable or its shard is gone; "
                f"delete {result.path} to convert it again"
            )
        yield Recording(name, origin, episodes, skipped)
        if result.path.exists():
            result.path.write_bytes(b"")


def _failing(problem: str) -> Callable[[], Iterator[Iterator[Step]]]:
    def episodes() -> Iterator[Iterator[Step]]:
        raise PlannerError(problem)

    return episodes


def _play_reader(path: Path, reading: Reading) -> Callable[[], Iterator[Iterator[Step]]]:
    def episodes() -> Iterator[Iterator[Step]]:
        try:
            images = np.load(path, mmap_mode="r")
            states = np.load(str(path).replace("-images.npy", "-states.npy"))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        if images.ndim != 5 or images.dtype != np.uint8 or states.shape != (*images.shape[:2], 7):
            raise InputError(f"{path}: images {images.shape} and states {states.shape} do not fit together")
        for frames, poses in zip(images, states, strict=True):
            small = shrink(torch.from_numpy(np.array(frames)), reading.size)
            yield (
                Step(image, torch.from_numpy(np.array(state, dtype=np.float32)))
                for image, state in zip(small, poses, strict=True)
            )

    return episodes


def _own(work: Path, source: Path) -> Path:
    """A folder for one source: others may have episodes of the same names."""
    return work / hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:12]
