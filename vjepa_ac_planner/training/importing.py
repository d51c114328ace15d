"""Recordings of any kind into the training format; what is there already is left alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vjepa_ac_planner.errors import InputError, PlannerError
from vjepa_ac_planner.nn.storage import replacing
from vjepa_ac_planner.training.dataset import SUFFIX, write_dataset_shard
from vjepa_ac_planner.training.shards import Shard, remove_stale
from vjepa_ac_planner.training.sources import Recording, Step

PART_FRAMES = 1024
"""Most frames in one shard: 200 MB at 256 pixels."""
MIN_FRAMES = 2
"""An episode without an action teaches nothing."""
REPORT = "import.json"


@dataclass
class Imported:
    """What became of one recording."""

    recording: str
    episodes: int = 0
    frames: int = 0
    existed: bool = False
    """Whether it was imported before, and so was left alone."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What could not be used of it, counted by reason."""
    problem: str = ""
    """Why nothing (or, with episodes, nothing more) came of it."""


@dataclass
class Report:
    """What became of everything."""

    recordings: list[Imported] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Written by this import."""
        return sum(result.frames for result in self.recordings)

    @property
    def usable(self) -> int:
        """Recordings that are in the data set, now or from before."""
        return sum(result.existed or result.frames > 0 for result in self.recordings)

    @property
    def problems(self) -> list[Imported]:
        """Recordings that could not be read, or not to their end."""
        return [result for result in self.recordings if result.problem]

    @property
    def skipped(self) -> Counter[str]:
        """Over all recordings."""
        total: Counter[str] = Counter()
        for result in self.recordings:
            total.update(result.skipped)
        return total

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "recordings": [vars(result) for result in self.recordings],
            "usable": self.usable,
            "problems": len(self.problems),
            "frames": self.frames,
            "skipped": dict(self.skipped),
        }


def import_recordings(
    recordings: Iterable[Recording], folder: Path, step_seconds: float, report: Report
) -> Iterator[Imported]:
    """Write recordings as shards; one that cannot be read is reported, and the rest go on.

    An import that was stopped goes on when it is started again: shards are written under other names
    first, and those of a recording take theirs in such an order that the first comes last.

    Args:
        recordings: from :mod:`.sources`.
        folder: where the shards go; made if absent.
        step_seconds: action period at which they are read [s].
        report: is filled as recordings are done.

    Yields:
        What became of each, also found in the report.

    Raises:
        CheckpointError: a shard cannot be written (a full disk).
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    known = _origins(folder)
    for recording in recordings:
        result = Imported(recording.name)
        if recording.origin in known:
            result.existed = True
        else:
            _Import(recording, folder, step_seconds, result).run()
            known.add(recording.origin)
        report.recordings.append(result)
        yield result


def finish(report: Report, folder: Path) -> None:
    """Write the report, and make sure that something came of it.

    Raises:
        InputError: nothing did; the text says why.
    """
    if not report.recordings:
        raise InputError(f"{folder}: nothing imported, the sources hold no recording")
    with replacing(folder / REPORT) as file:
        file.write((json.dumps(report.plain(), indent=2) + "\n").encode())
    if not report.usable:
        reasons = [f"{result.recording}: {result.problem}" for result in report.problems[:3]]
        reasons += [f"{count} x {reason}" for reason, count in report.skipped.most_common(3)]
        raise InputError(
            f"{folder}: nothing usable in {len(report.recordings)} recordings: {'; '.join(reasons)}"
        )


class _Import:
    """One recording on its way into shards."""

    def __init__(self, recording: Recording, folder: Path, step_seconds: float, result: Imported) -> None:
        self._recording, self._folder, self._result = recording, folder, result
        self._step_seconds = step_seconds
        self._name = _file_name(recording.name, folder)
        self._parts: list[Path] = []
        self._skipped: Counter[str] = Counter()
        self._images: list[Tensor] = []
        self._states: list[Tensor] = []
        self._lengths: list[int] = []

    def run(self) -> None:
        """Read it as far as that goes, and give its shards their names."""
        try:
            for episode in self._recording.episodes():
                self._take(episode)
                if len(self._images) >= PART_FRAMES:
                    self._flush()
        except PlannerError as error:
            self._result.problem = str(error)
        self._skipped.update(self._recording.skipped)
        self._result.skipped = dict(self._skipped)
        self._flush()
        # The first part says that all are there.
        for number, path in reversed(list(enumerate(self._parts))):
            part = f".{number:03d}" if number else ""
            path.replace(self._folder / f"{self._name}{part}{SUFFIX}")

    def _take(self, episode: Iterator[Step]) -> None:
        length = 0
        try:
            for step in episode:
                if not step.state.isfinite().all():
                    raise InputError(f"{self._recording.name}: a state is not finite")
                self._images.append(step.image)
                self._states.append(step.state)
                length += 1
                if length == PART_FRAMES:  # a long episode goes on as another one
                    self._end_episode(length)
                    self._flush()
                    length = 0
        finally:
            self._end_episode(length)

    def _end_episode(self, length: int) -> None:
        if length >= MIN_FRAMES:
            self._lengths.append(length)
        elif length:
            del self._images[-length:], self._states[-length:]
            self._skipped[f"episode shorter than {MIN_FRAMES} frames"] += 1

    def _flush(self) -> None:
        if not self._lengths:
            return
        number = len(self._parts)
        path = self._folder / f".{self._name}.{number:03d}.tmp"
        about = {
            "recording": self._recording.name,
            "origin": self._recording.origin,
            "part": str(number),
            "step_seconds": repr(self._step_seconds),
        }
        images, states = torch.stack(self._images), torch.stack(self._states)
        write_dataset_shard(path, about, images, states, self._lengths)
        self._result.frames += len(images)
        self._result.episodes += len(self._lengths)
        self._parts.append(path)
        self._images, self._states, self._lengths = [], [], []


def _origins(folder: Path) -> set[str]:
    """Of the recordings whose shards are all there."""
    origins = set()
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            about = Shard(path).about
        except InputError:
            continue  # damaged: it is imported again, under another name
        if about.get("part") == "0":
            origins.add(about.get("origin", ""))
    return origins


def _file_name(recording: str, folder: Path) -> str:
    """A name for a recording's first shard that is not taken by another's."""
    plain = re.sub(r"[^A-Za-z0-9_+-]", "_", recording) or "recording"
    name, number = plain, 1
    while (folder / f"{name}{SUFFIX}").exists():
        number += 1
        name = f"{plain}-{number}"
    return name
