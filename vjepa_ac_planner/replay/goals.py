"""Goals of a replay: frames of the recording itself, or image files, each from a moment on behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.replay.recording import Recording, Survey
from vjepa_ac_planner.types import FloatArray, Frame, Goal

HELP = (
    "last (the last frame), a time in seconds from the first step (12.5 or 12s), the number of a step "
    "(40), or an image file; of several goals an image file needs the time it holds until (cup.png@12.5)"
)


_FILE = r"\.[A-Za-z]\w*$"


@dataclass(frozen=True)
class GoalSpec:
    """A goal as it was asked for: exactly one of the four is set."""

    text: str
    seconds: float | None = None
    """From the first step [s]."""
    index: int | None = None
    """Number of a sample."""
    file: Path | None = None
    until: float | None = None
    """For a file: how long it is the goal, from the first step [s]."""

    @property
    def is_last(self) -> bool:
        """Whether it is the last frame."""
        return self.seconds is None and self.index is None and self.file is None


@dataclass(frozen=True)
class ReplayGoal:
    """A goal, and the time until which it is the one to plan for."""

    goal: Goal
    until: float
    """Moment at which it is reached in the recording [s]; infinite when that is not known."""
    state: FloatArray | None
    """[7] recorded state at that moment: the true goal, for measuring only; None for an image file."""


def parse_goal(text: str) -> GoalSpec:
    """Read one goal from the command line.

    Raises:
        InputError: it is none of the four forms.
    """
    text = text.strip()
    if text == "last":
        return GoalSpec(text)
    if re.fullmatch(r"\d+", text):
        return GoalSpec(text, index=int(text))
    if re.fullmatch(r"(\d+\.\d*|\.\d+)s?|\d+s", text):
        return GoalSpec(text, seconds=float(text.rstrip("s")))
    name, _, until = text.rpartition("@")
    if re.fullmatch(r"\d+(\.\d*)?s?", until) and re.search(_FILE, name):
        return GoalSpec(text, file=Path(name), until=float(until.rstrip("s")))
    if re.search(_FILE, text):
        return GoalSpec(text, file=Path(text))
    raise InputError(f"goal: received {text!r}, allowed: {HELP}")


def find_goals(
    recording: Recording,
    found: Survey,
    specs: Sequence[GoalSpec],
    read_image: Callable[[Path], Frame],
    step_seconds: float,
) -> tuple[ReplayGoal, ...]:
    """The goals in the order in which the recording comes to them.

    Args:
        recording: gives the frames.
        found: its survey.
        specs: as asked for, in any order.
        read_image: reads an image file.
        step_seconds: time of one step.

    Raises:
        InputError: no goal, a time or number outside the recording, two goals at one moment, or several
            goals of which a file does not say until when it holds.
    """
    if not specs:
        raise InputError("goal: received none, at least one is needed")
    goals = [_find(recording, found, spec, read_image, step_seconds, len(specs) > 1) for spec in specs]
    goals.sort(key=lambda goal: goal.until)
    for before, after in pairwise(goals):
        if after.until - before.until < step_seconds / 2:
            raise InputError(
                f"goal: {before.goal.name} and {after.goal.name} lie less than half a step apart; "
                "give each its own time"
            )
    return tuple(goals)


def goal_at(goals: Sequence[ReplayGoal], time: float, slack: float) -> int | None:
    """Which goal to plan for at a moment [s]: the next one in time; None when all lie behind.

    Args:
        goals: in order of time.
        time: the moment.
        slack: the moment of the goal itself is still planned for, as exactly as stamps allow [s].
    """
    return next((i for i, goal in enumerate(goals) if time <= goal.until + slack), None)


def _find(
    recording: Recording,
    found: Survey,
    spec: GoalSpec,
    read_image: Callable[[Path], Frame],
    step_seconds: float,
    several: bool,
) -> ReplayGoal:
    start, end = found.start, float(found.times[-1])
    if spec.file is not None:
        if spec.until is None and several:
            raise InputError(
                f"goal: {spec.file} is one of several goals and must say until when it is the goal: "
                f"{spec.file}@SECONDS, from the first step"
            )
        until = math.inf if spec.until is None else start + spec.until
        return ReplayGoal(Goal(read_image(spec.file), spec.file.name), until, None)
    if spec.is_last:
        frame = recording.last_frame()
        time = end if found.clock == "receive" else min(frame.stamp, end)
    elif spec.index is not None:
        if spec.index >= len(found):
            raise InputError(f"goal: step {spec.index} is not in the bag, allowed 0 .. {len(found) - 1}")
        time = float(found.times[spec.index])
        frame = recording.frame_at(float(found.stamps[spec.index]), found.clock)
    else:
        assert spec.seconds is not None
        time = start + spec.seconds
        if time > end + step_seconds:
            raise InputError(
                f"goal: {spec.seconds:g} s is not in the bag, allowed 0 .. {end - start:.2f} s"
            )
        frame = recording.frame_at(time, found.clock)
    near = found.nearest(time)
    known = abs(float(found.times[near]) - time) <= step_seconds
    name = f"frame at {time - start:.2f} s"
    return ReplayGoal(Goal(frame, name), time, found.states[near] if known else None)
