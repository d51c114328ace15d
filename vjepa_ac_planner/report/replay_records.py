"""What the page of a replayed recording is made of; see :mod:`~vjepa_ac_planner.report.records`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vjepa_ac_planner.report.records import Image, Landscape, Points


@dataclass(frozen=True)
class ScoreRow:
    """One score beside its baselines, as text."""

    name: str
    value: str
    interval: str
    baselines: tuple[tuple[str, str], ...]
    """Name and value of each."""
    meaning: str
    """What it says, and what it does not."""


@dataclass(frozen=True)
class FilmFrame:
    """One moment of the recording, as the camera saw it."""

    step: int
    seconds: float
    """From the beginning of the bag [s]."""
    image: Image
    numbers: tuple[tuple[str, str], ...]
    """Names and values for the reader."""
    recorded: Points | None
    """[7] what the robot did next; None at the end of a stretch."""
    planned: Points | None
    """[7] what the planner would have done; None without a plan."""
    goal: int = 0
    """Which goal was planned for; the last one behind it."""


@dataclass(frozen=True)
class Verdict:
    """The result in words."""

    level: str
    """``good``, ``unsure``, ``bad``, or ``few``: too little to judge by."""
    headline: str
    sentences: tuple[str, ...]
    caveat: str
    """What a replay cannot show."""
    tiles: tuple[tuple[str, str, str], ...]
    """Large figures: value, unit, what it is."""
    scores: tuple[ScoreRow, ...]
    notes: tuple[str, ...] = ()
    """What else a reader must know to read the scores right."""
    asked: int = 0
    """How many thresholds were asked for."""
    missed: tuple[str, ...] = ()
    """Those that were missed, in words."""


@dataclass(frozen=True)
class View:
    """One camera image, for people and as the model receives it."""

    name: str
    image: Image
    seen: Image


@dataclass(frozen=True)
class ReplayPage:
    """Everything that stands on the page of one recording."""

    bag: str
    model: str
    preset: str
    verdict: Verdict
    start: View
    """The first frame."""
    goals: tuple[View, ...]
    """Goal images, at least one."""
    film: tuple[FilmFrame, ...]
    axes: tuple[str, ...]
    """Names of the searched axes, as in ``ACTION_NAMES``."""
    columns: Mapping[str, Points]
    """[T] by name, as in ``steps.csv``: actions, energies, surprises, distance, plan time."""
    step_seconds: float
    landscapes: tuple[Landscape, ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()
    """Limit and how often."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Reason and how often."""
    topics: tuple[tuple[str, str], ...] = ()
    identical: str = ""
    """Whether the recorded plans were made again; empty where none are recorded."""
    timings: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Stage -> (median, 95th percentile) per plan [s]."""
    limits: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BagRow:
    """One recording in the table of several."""

    name: str
    link: str
    """Address of its page, relative to this one and quoted; empty if there is none."""
    level: str
    """As of a verdict; of no account with an error."""
    cells: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class SummaryPage:
    """Everything that stands on the page over several recordings."""

    model: str
    preset: str
    verdict: Verdict
    columns: tuple[str, ...]
    """Names of the cells of the rows."""
    bags: tuple[BagRow, ...]
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
