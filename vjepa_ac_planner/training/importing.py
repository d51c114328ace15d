"""Recordings of any kind into the training format; what is there already is left alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_ac_planner.errors import InputError, PlannerError, counted
from vjepa_ac_planner.nn.storage import remove_stale, replacing
from vjepa_ac_planner.outputs import make_folder
from vjepa_ac_planner.training.dataset import SUFFIX, write_dataset_shard
from vjepa_ac_planner.training.shards import Shard
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
    """Whether it was imported before, and so was left alone (with a problem: no more came of it now)."""
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
    first, and those of a recording take theirs in such an order that the first comes last. A recording that
    broke off is read again every time, and replaced once more comes of it.

    Args:
        recordings: from :mod:`.sources`.
        folder: where the shards go; made if absent.
        step_seconds: action period at which they are read [s].
        report: is filled as recordings are done.

    Yields:
        What became of each, also found in the report.

    Raises:
        InputError: the folder cannot be made.
        CheckpointError: a shard cannot be written (a full disk).
    """
    make_folder(folder)
    remove_stale(folder)
    known = _origins(folder)
    for recording in recordings:
        result = Imported(recording.name)
        before = known.get(recording.origin)
        if before is not None and not before.broke_off:
            result.existed = True
        else:
            known[recording.origin] = _Import(recording, folder, step_seconds, result, before).run()
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
        reasons = [
            result.problem
            if result.recording in result.problem
            else f"{result.recording}: {result.problem}"
            for result in report.problems[:3]
        ]
        reasons += [f"{count} x {reason}" for reason, count in report.skipped.most_common(3)]
        recordings = counted(len(report.recordings), "recording")
        raise InputError(f"{folder}: nothing usable in {recordings}: {'; '.join(reasons)}")


class _First(NamedTuple):
    """What the first shard of a recording says of it, once all are there."""

    name: str
    """Of the file, without its suffix."""
    broke_off: bool
    frames: int
    """Of all its shards, where it broke off."""

    @classmethod
    def of(cls, shard: Shard) -> _First:
        about = shard.about
        return cls(shard.path.name.removesuffix(SUFFIX), "problem" in about, int(about.get("frames", 0)))


class _Import:
    """One recording on its way into shards; in place of those from when it broke off, if there are any."""

    def __init__(
        self,
        recording: Recording,
        folder: Path,
        step_seconds: float,
        result: Imported,
        before: _First | None,
    ) -> None:
        self._recording, self._folder, self._result = recording, folder, result
        self._step_seconds = step_seconds
        self._before = before
        self._name = before.name if before is not None else _file_name(recording.name, folder)
        self._parts: list[Path] = []
        self._skipped: Counter[str] = Counter()
        self._images: list[Tensor] = []
        self._states: list[Tensor] = []
        self._lengths: list[int] = []

    def run(self) -> _First | None:
        """Read it as far as that goes, and give its shards their names; None where nothing came of it."""
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
        if self._before is not None and self._no_more_than(self._before):
            for path in self._parts:
                path.unlink()
            self._result.existed, self._result.frames, self._result.episodes = True, 0, 0
            return self._before
        if not self._parts:
            return None
        if self._result.problem:
            self._mark(self._parts[0])
        # The first part says that all are there, and whether the recording ended or broke off.
        names = [f"{self._name}{f'.{n:03d}' if n else ''}{SUFFIX}" for n in range(len(self._parts))]
        for path in self._folder.glob(f"{self._name}.*{SUFFIX}"):
            if path.name not in names:
                path.unlink()  # it was longer before
        for path, name in reversed(list(zip(self._parts, names, strict=True))):
            path.replace(self._folder / name)
        return _First(self._name, bool(self._result.problem), self._result.frames)

    def _no_more_than(self, before: _First) -> bool:
        """Whether nothing came of it, or it broke off again and no later than before."""
        frames = self._result.frames
        return frames == 0 or (bool(self._result.problem) and frames <= before.frames)

    def _mark(self, first: Path) -> None:
        """Write down in a recording's first shard that it broke off, and after how many frames."""
        shard = Shard(first)
        about = {**shard.about, "problem": self._result.problem, "frames": str(self._result.frames)}
        write_dataset_shard(
            first, about, shard.read("images"), shard.read("states"), shard.read("lengths").tolist()
        )

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


def _origins(folder: Path) -> dict[str, _First | None]:
    """The recordings whose shards are all there, by where they are from."""
    origins: dict[str, _First | None] = {}
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            shard = Shard(path)
        except InputError:
            continue  # damaged: it is imported again, under another name
        if shard.about.get("part") == "0":
            origins[shard.about.get("origin", "")] = _First.of(shard)
    return origins


def _file_name(recording: str, folder: Path) -> str:
    """A name for a recording's first shard that is not taken by another's."""
    plain = re.sub(r"[^A-Za-z0-9_+-]", "_", recording) or "recording"
    name, number = plain, 1
    while (folder / f"{name}{SUFFIX}").exists():
        number += 1
        name = f"{plain}-{number}"
    return name
