"""What a report is made of: plain values and arrays, so that any world's run can be shown.

Images are uint8 RGB [H, W, 3]; pixel coordinates are (column, row) in the image they belong to;
distances are metres, times seconds. Distances to the goal are measured by the world that ran the
episode, never by the planner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StepRecord:
    """One turn of the receding-horizon loop: what was seen, what was imagined, what was commanded."""

    image: Image
    """The camera's view when the plan was made."""
    distance: float
    """Distance from the end effector to the goal position at that moment [m]."""
    energy: float
    """Predicted energy of the plan."""
    zero_energy: float
    """Predicted energy of standing still."""
    plan_seconds: float
    kind: str
    """What left the safety layer: ``move`` or ``hold``."""
    reason: str
    """Why the robot held; empty for a move."""
    path: Points
    """[H + 1, 2] where the plan expects the fingertips to go, from where they are [pixels of ``image``]."""
    best_energy: tuple[float, ...]
    """Least energy found by each optimiser iteration."""
    elite_energy: tuple[float, ...]
    """Mean energy of the elites of each optimiser iteration."""


@dataclass(frozen=True)
class Landscape:
    """Energies of one-step actions on a regular grid through the chosen action, two axes varied."""

    title: str
    axes: tuple[str, str]
    """Names of the horizontal and vertical axis."""
    span: float
    """Both axes run from -span to +span [m]."""
    energies: Points
    """[rows, columns], row 0 at -span of the vertical axis."""
    chosen: tuple[float, float]
    """The chosen first action on the two axes [m]."""
    truth: tuple[float, float]
    """The step that would lead straight to the goal, as far as one step goes [m]."""


@dataclass(frozen=True)
class EpisodeRow:
    """One further episode, for the table."""

    seed: int
    start: float
    """[m]"""
    final: float
    """[m]"""
    steps: int
    reached: bool
    median_plan_seconds: float


@dataclass(frozen=True)
class Report:
    """Everything that stands on the page."""

    task: str
    seed: int
    model: str
    preset: str
    threshold: float
    """The goal counts as reached within this distance [m]."""
    reached: bool
    stop_reason: str
    """Why the loop ended, in words."""
    goal_image: Image
    final_image: Image
    final_distance: float
    steps: tuple[StepRecord, ...]
    goal_pixel: tuple[float, float]
    """Where the goal position lies in the images; drawn for the reader, unknown to the planner."""
    trail: Points
    """[steps + 1, 2] where the fingertips were before each step and at the end, in pixels."""
    model_views: Mapping[str, Image] = field(default_factory=dict)
    """The same moments at the size the model receives: ``start``, ``goal``, ``final``."""
    control_period: float = 0.25
    """Time one step of the model stands for [s]."""
    landscapes: tuple[Landscape, ...] = ()
    episodes: tuple[EpisodeRow, ...] = ()
    timings: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Stage -> (median, 95th percentile) per plan [s]."""
    limits: str = ""
    """What the model card says about the model's limits."""
    command: str = ""
    """The command that reproduces this page."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Name -> version of what took part, and the machine."""
