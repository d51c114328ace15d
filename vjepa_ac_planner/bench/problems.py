"""Stored planning problems: what an optimiser is judged on, the same for everyone.

Each is a camera frame, the robot's state, and a goal image, made in the simulator (``vjepa-ac problems
make``): reaches, grasps, objects being carried and put down, at the start of an episode or in the middle
of one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.nn.storage import replacing
from vjepa_ac_planner.resources import resource_folders
from vjepa_ac_planner.types import Frame, Observation, RobotState

FILE = "panda-sim/problems.npz"
"""Where the shipped problems lie in the folder of models."""
TUNING = range(80000, 85000)
"""Seeds of problems on which settings are chosen."""
SHOWING = range(85000, 90000)
"""Seeds of problems on which results are shown, and nothing is chosen."""


@dataclass(frozen=True)
class Problem:
    """One frame, one state, one goal image."""

    frame: Frame
    state: RobotState
    goal: Frame
    seed: int
    """Of the simulated episode it is from; every problem has its own."""
    kind: str
    """The episode's task, such as ``reach`` or ``grasp_cup``."""
    distance: float
    """From the state's position to the goal's [m]."""

    @property
    def observation(self) -> Observation:
        """What the planner sees."""
        return Observation(self.frame, self.state)


def load_problems(path: str | Path | None = None, seeds: range | None = None) -> list[Problem]:
    """Read stored problems.

    Args:
        path: the file; None takes the one that comes with the package.
        seeds: only those, such as ``TUNING`` or ``SHOWING``; None takes all.

    Raises:
        InputError: the file is missing, damaged or not one of ours, or holds no problem of these seeds.
    """
    path = _shipped() if path is None else Path(path)
    made = f"`vjepa-ac problems make --out {path}`"
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in _FIELDS}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; make one with {made}") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        # NumPy's own advice is to unpickle it, which could run code.
        raise InputError(
            f"{path}: is no file of planning problems; make one with `vjepa-ac problems make --out FILE`"
        ) from error
    try:
        problems = list(_problems(stored, seeds))
    except (IndexError, TypeError, ValueError, cv2.error) as error:
        raise InputError(f"{path}: is damaged ({error}); make it again with {made}") from error
    if not problems:
        raise InputError(f"{path}: holds no problem" + (f" with a seed in {seeds}" if seeds else ""))
    return problems


def save_problems(path: str | Path, problems: Sequence[Problem]) -> None:
    """Write problems to one file, every image compressed without loss.

    Raises:
        CheckpointError: it cannot be written.
    """
    encoded = [_encoded(frame) for problem in problems for frame in (problem.frame, problem.goal)]
    fields: dict[str, Any] = {
        "images": np.concatenate(encoded),
        "sizes": np.array([len(image) for image in encoded]),
        "frames": np.arange(0, len(encoded), 2),
        "goals": np.arange(1, len(encoded), 2),
        "states": np.stack([problem.state.vector for problem in problems]),
        "seeds": np.array([problem.seed for problem in problems]),
        "kinds": np.array([problem.kind for problem in problems]),
        "distances": np.array([problem.distance for problem in problems]),
    }
    with replacing(Path(path)) as file:
        np.savez(file, **fields)


def _problems(stored: dict[str, Any], seeds: range | None) -> Iterator[Problem]:
    bounds = np.concatenate(([0], stored["sizes"].cumsum()))
    images: dict[int, Frame] = {}

    def image(number: int) -> Frame:
        if number not in images:
            images[number] = _decoded(stored["images"][bounds[number] : bounds[number + 1]])
        return images[number]

    for i, seed in enumerate(map(int, stored["seeds"])):
        if seeds is None or seed in seeds:
            yield Problem(
                frame=image(int(stored["frames"][i])),
                state=RobotState(stored["states"][i]),
                goal=image(int(stored["goals"][i])),
                seed=seed,
                kind=str(stored["kinds"][i]),
                distance=float(stored["distances"][i]),
            )


_FIELDS = ("images", "sizes", "frames", "goals", "states", "seeds", "kinds", "distances")


def _shipped() -> Path:
    places = [folder / FILE for folder in resource_folders("models")]
    return next((place for place in places if place.is_file()), places[0])


def _encoded(frame: Frame) -> npt.NDArray[np.uint8]:
    # Lossless WebP: about two thirds of the same image as PNG.
    done, data = cv2.imencode(".webp", frame.image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])
    if not done:
        raise InputError("image: this build of OpenCV writes no WebP; install opencv-python-headless")
    return data.ravel()


def _decoded(data: npt.NDArray[np.uint8]) -> Frame:
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise InputError("one of its images cannot be decoded")
    return Frame(np.ascontiguousarray(image[..., ::-1]))
