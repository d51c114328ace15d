"""The one training format: a folder of shards, each made of one recording.

Layout of a shard, ``<name>.safetensors`` (see :mod:`.shards`)::

    images    uint8    [F, S, S, 3]   RGB, cropped and resized as the planner does it
    states    float32  [F, 7]         as in :class:`~vjepa_ac_planner.types.RobotState`
    lengths   int64    [E]            frames of each episode; they add up to F
    header    version; recording: its name; origin: where it was; part: number of this shard of it;
              step_seconds; in the first shard of a recording that broke off problem: why, frames: of all

Frames of an episode are one action period apart without a gap. A long recording is several shards,
``<name>.001.safetensors`` and so on. ``vjepa-ac train import`` makes such a folder of anything.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vjepa_ac_planner import geometry
from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.training.shards import Shard, write_shard

VERSION = "1"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Episode:
    """Frames of one shard that follow one another without a gap."""

    name: str
    """The recording's, and the number in it."""
    recording: str
    shard: int
    """Index of the shard in the data set."""
    start: int
    """Row of its first frame in the shard."""
    states: Tensor
    """[F, 7] float32."""
    actions: Tensor
    """[F - 1, 7] float32, measured: the change from one state to the next."""

    def __len__(self) -> int:
        return len(self.states)


def write_dataset_shard(
    path: Path, about: Mapping[str, str], images: Tensor, states: Tensor, lengths: Sequence[int]
) -> None:
    """Write one shard.

    Args:
        path: ends in ``.safetensors``.
        about: ``recording``, ``origin``, ``part`` and ``step_seconds``, see this module.
        images: [F, S, S, 3] uint8.
        states: [F, 7].
        lengths: frames of each episode.

    Raises:
        InputError: shapes that do not fit together.
        CheckpointError: it cannot be written.
    """
    if images.shape[:1] != states.shape[:1] or sum(lengths) != len(images):
        raise InputError(
            f"{path.name}: {len(images)} frames, {len(states)} states and episodes of {sum(lengths)} "
            "frames do not fit together"
        )
    write_shard(
        path,
        {"images": images, "states": states.float(), "lengths": torch.tensor(lengths, dtype=torch.int64)},
        {"version": VERSION, **about},
    )


class Dataset:
    """The verified shards of a folder, or some of their episodes. Made by :meth:`open`.

    Attributes:
        folder: where the shards lie.
        shards: every usable one.
        episodes: in order of shards; :meth:`split` makes data sets with some of them.
        skipped: shards and episodes that cannot be used, counted by reason.
        image_size: side of the stored frames [pixels].
        step_seconds: action period [s].
    """

    def __init__(
        self, folder: Path, shards: Sequence[Shard], episodes: Sequence[Episode], skipped: Counter[str]
    ) -> None:
        self.folder, self.shards, self.episodes = folder, tuple(shards), tuple(episodes)
        self.skipped = skipped
        self.image_size = self.shards[0].shape("images")[1]
        self.step_seconds = float(self.shards[0].about["step_seconds"])

    @classmethod
    def open(
        cls, folder: str | Path, *, min_frames: int = 2, on_shard: Callable[[int, int], None] | None = None
    ) -> Dataset:
        """Open and verify all shards; one that is damaged, or of another kind than most, is skipped.

        Args:
            folder: what ``vjepa-ac train import`` made.
            min_frames: shorter episodes are skipped.
            on_shard: called with (done, all) after each shard.

        Raises:
            InputError: nothing usable is left; the text says why.
        """
        folder = Path(folder)
        paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        if not paths:
            raise InputError(
                f"{folder}: holds no training data (*{SUFFIX}); make it of bags, DROID, LeRobot or play "
                f"data with: vjepa-ac train import SOURCE --out {folder}"
            )
        skipped: Counter[str] = Counter()
        found: list[tuple[Shard, Tensor, Tensor]] = []
        first_problem = ""
        for number, path in enumerate(paths, start=1):
            try:
                found.append(_checked(path))
            except InputError as error:
                first_problem = first_problem or str(error)
                skipped[f"unusable shard {path.name}"] += 1
            if on_shard is not None:
                on_shard(number, len(paths))
        kinds = Counter(_kind(shard) for shard, _, _ in found)
        usual = kinds.most_common(1)[0][0] if kinds else None
        shards: list[Shard] = []
        episodes: list[Episode] = []
        for shard, states, lengths in found:
            if _kind(shard) != usual:
                size, step = _kind(shard)
                skipped[f"shard of another size or pace ({size} pixels, {step} s)"] += 1
                continue
            before = len(episodes)
            for episode in _episodes(shard, len(shards), states, lengths):
                if len(episode) < min_frames:
                    skipped[f"episode shorter than {min_frames} frames"] += 1
                else:
                    episodes.append(episode)
            if len(episodes) > before:
                shards.append(shard)
        if not episodes:
            why = ", ".join(f"{count} x {reason}" for reason, count in skipped.items())
            raise InputError(
                f"{folder}: no usable episode in {len(paths)} shards: {why}"
                + (f"; first problem: {first_problem}" if first_problem else "")
            )
        return cls(folder, shards, episodes, skipped)

    @property
    def frames(self) -> int:
        """In all episodes."""
        return sum(map(len, self.episodes))

    @property
    def hours(self) -> float:
        """Of robot motion."""
        return self.frames * self.step_seconds / 3600

    @property
    def recordings(self) -> list[str]:
        """Names, in order."""
        return list(dict.fromkeys(episode.recording for episode in self.episodes))

    @property
    def identity(self) -> str:
        """Digest of the episodes' names and contents."""
        content = hashlib.sha256()
        for episode in self.episodes:
            content.update(f"{episode.name} {self.shards[episode.shard].digest}\n".encode())
        return content.hexdigest()

    def split(self, held_out: float) -> tuple[Dataset, Dataset]:
        """Divide into a part to train on and one to judge by, without chance.

        Whole recordings are held out, so that the two never share a scene; episodes where there is one
        recording only. Each goes by a hash of its name: held out are those below the share, or the lowest
        where there is none. So what was trained on is not judged by when recordings are added, unless the
        first of them was divided by its episodes. (Leave short episodes out afterwards, not before.)

        Args:
            held_out: share of the second part.

        Raises:
            InputError: there is only one episode.
        """
        check_range("held_out", held_out, 0.0, 0.9)
        single = len(self.recordings) == 1
        units: dict[str, list[Episode]] = {}
        for episode in self.episodes:
            units.setdefault(episode.name if single else episode.recording, []).append(episode)
        if len(units) < 2:
            raise InputError(
                f"{self.folder}: holds a single episode, so nothing can be held out to judge by; add data, "
                "or name other data to judge by (--test)"
            )
        rank = {name: int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8 for name in units}
        out = {name for name in units if rank[name] < held_out} or {min(units, key=rank.__getitem__)}
        if len(out) == len(units):
            out.remove(max(out, key=rank.__getitem__))
        parts: tuple[list[Episode], list[Episode]] = ([], [])
        for name, episodes in units.items():
            parts[name in out].extend(episodes)
        train, test = (Dataset(self.folder, self.shards, part, self.skipped) for part in parts)
        return train, test


class ClipIndex:
    """Every clip of one length that the episodes of a data set hold, numbered; equally likely ones.

    Args:
        dataset: where clips are cut.
        length: frames of a clip.

    Raises:
        InputError: no episode is that long.
    """

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.episodes = [episode for episode in dataset.episodes if len(episode) >= length]
        self.length = length
        self.too_short = len(dataset.episodes) - len(self.episodes)
        """Episodes that hold no clip."""
        if not self.episodes:
            longest = max(map(len, dataset.episodes))
            raise InputError(
                f"{dataset.folder}: clips of {length} frames are asked for, the longest of "
                f"{len(dataset.episodes)} episodes has {longest}; lower clip_length, or record longer"
            )
        self._ends = torch.tensor([len(e) - length + 1 for e in self.episodes]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> tuple[Episode, int]:
        """Episode, and the frame of it that the clip begins with."""
        index = int(torch.searchsorted(self._ends, number, right=True))
        before = 0 if index == 0 else int(self._ends[index - 1])
        return self.episodes[index], number - before

    def draw(self, count: int, generator: torch.Generator) -> list[tuple[Episode, int]]:
        """Clips at random, with replacement."""
        return [self[int(i)] for i in torch.randint(len(self), (count,), generator=generator)]

    def spread(self, count: int) -> list[tuple[Episode, int]]:
        """At most ``count`` clips, at even distances: the same ones every time."""
        count = min(count, len(self))
        return [self[math.floor((i + 0.5) * len(self) / count)] for i in range(count)]


def _checked(path: Path) -> tuple[Shard, Tensor, Tensor]:
    shard = Shard(path)
    if shard.about.get("version") != VERSION or set(shard.names) != {"images", "states", "lengths"}:
        raise InputError(f"{path}: is no shard of training data of version {VERSION}; import it again")
    shard.verify()
    states, lengths = shard.read("states"), shard.read("lengths")
    images = shard.shape("images")
    if images[1] != images[2] or states.shape != (images[0], 7) or int(lengths.sum()) != images[0]:
        raise InputError(f"{path}: frames {images}, states {tuple(states.shape)} do not fit together")
    if not states.isfinite().all():
        raise InputError(f"{path}: some states are not finite")
    return shard, states, lengths


def _kind(shard: Shard) -> tuple[int, str]:
    return shard.shape("images")[1], shard.about["step_seconds"]


def _episodes(shard: Shard, index: int, states: Tensor, lengths: Tensor) -> list[Episode]:
    recording = shard.about["recording"]
    part = shard.path.name.removesuffix(SUFFIX)
    exact = states.double()
    actions = geometry.diff(exact[:-1], exact[1:]).float()  # those between two episodes are never used
    episodes, start = [], 0
    for number, length in enumerate(lengths.tolist()):
        stop = start + length
        episodes.append(
            Episode(
                f"{part}#{number}", recording, index, start, states[start:stop], actions[start : stop - 1]
            )
        )
        start = stop
    return episodes


def summary(dataset: Dataset) -> dict[str, Any]:
    """What a data set holds, as plain data."""
    return {
        "recordings": len(dataset.recordings),
        "episodes": len(dataset.episodes),
        "frames": dataset.frames,
        "hours": round(dataset.hours, 3),
        "image_size": dataset.image_size,
        "step_seconds": dataset.step_seconds,
        "skipped": dict(dataset.skipped),
    }
