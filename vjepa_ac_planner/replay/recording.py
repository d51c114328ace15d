"""What replay needs of a recording, and one look through it before anything is planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.bags.resample import ResampleRules, Sample
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.types import FloatArray, Frame


class Recording(Protocol):
    """The part of :class:`vjepa_ac_planner.bags.reader.Bag` that replay needs."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Reason -> how many messages or moments could not be used, so far."""
        ...

    def samples(self, step_seconds: float, rules: ResampleRules | None = None) -> Iterable[Sample]:
        """Frames and states, one step apart; every call begins anew."""
        ...

    def frame_at(self, time: float, clock: str = "header") -> Frame:
        """The frame nearest to a time [s] on the clock of the headers, or of the recorder (``receive``)."""
        ...

    def last_frame(self) -> Frame:
        """The last frame that can be decoded."""
        ...


@dataclass(frozen=True)
class Survey:
    """Everything about the samples of a recording but their images."""

    times: FloatArray
    """[T] moments [s]."""
    stamps: FloatArray
    """[T] stamps of the frames [s]."""
    states: FloatArray
    """[T, 7]."""
    segments: FloatArray
    """[T]."""
    skipped: Mapping[str, int]
    """What could not be used, by reason."""
    clock: str = "header"
    """The clock of the times: that of the headers, or of the recorder (``receive``)."""

    @property
    def start(self) -> float:
        """Time of the first sample [s]; seconds of goals and on pages count from it."""
        return float(self.times[0])

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.times)

    def actions(self) -> FloatArray:
        """[T, 7] the change from each sample to the next of its segment; NaN where there is none."""
        actions = np.full((len(self), 7), np.nan)
        joined = np.flatnonzero(np.diff(self.segments) == 0)
        if len(joined):
            before, after = (torch.from_numpy(self.states[joined + i]) for i in (0, 1))
            actions[joined] = geometry.diff(before, after).numpy()
        return actions

    def nearest(self, time: float) -> int:
        """Index of the sample nearest to a time [s]."""
        return int(np.argmin(np.abs(self.times - time)))


def survey(recording: Recording, step_seconds: float, rules: ResampleRules | None = None) -> Survey:
    """Look through a recording once, keeping a few numbers per sample and no image.

    Raises:
        InputError: it has no sample at all: no moment has a frame and a state together.
    """
    rows = [
        (
            sample.time,
            sample.observation.frame.stamp,
            sample.segment,
            *sample.observation.state.vector,
        )
        for sample in recording.samples(step_seconds, rules)
    ]
    skipped = dict(recording.skipped)
    if not rows:
        why = ", ".join(f"{reason}: {count}" for reason, count in skipped.items()) or "nothing was skipped"
        raise InputError(
            "the recording has no moment with both a frame and a robot state "
            f"({why}); do the image and the pose topic overlap in time?"
        )
    table = np.array(rows, np.float64)
    clock = "header" if rules is None else rules.clock
    return Survey(table[:, 0], table[:, 1], table[:, 3:], table[:, 2], skipped, clock)
