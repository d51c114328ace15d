"""Play data in memory, and the batches that training draws from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vjepa_ac_planner import geometry
from vjepa_ac_planner.errors import InputError, counted

if TYPE_CHECKING:
    from vjepa_ac_planner.training.dataset import Dataset

CUT_FRAMES = 16
"""Frames of the pieces that episodes of other lengths are cut into."""


@dataclass(frozen=True)
class Windows:
    """A batch of short clips cut from episodes."""

    images: Tensor
    """[B, T, S, S, 3] uint8, or latents [B, T, N, D] where the data holds those."""
    states: Tensor
    """[B, T, 7] float32."""
    actions: Tensor
    """[B, T - 1, 7] float32, measured: the change from one state to the next."""


class Trajectories:
    """What the arm did in episodes of equal length.

    Args:
        states: [E, T, 7] float32.
    """

    def __init__(self, states: Tensor) -> None:
        self.states = states
        exact = states.double()
        self.actions = geometry.diff(exact[:, :-1], exact[:, 1:]).float()

    def __len__(self) -> int:
        return len(self.states)

    @property
    def length(self) -> int:
        """T, frames of an episode."""
        return self.states.shape[1]

    def windows(
        self,
        count: int,
        length: int,
        generator: torch.Generator,
        *,
        per_episode: int = 1,
        source: Tensor | None = None,
    ) -> Windows:
        """Draw clips at random; with ``per_episode`` > 1, that many from each drawn episode.

        Args:
            count: number of episodes drawn; B = count * per_episode, clips of one episode together.
            length: frames of a clip.
            generator: source of chance, on the CPU.
            per_episode: clips from each drawn episode.
            source: [E, T, ...] what to cut, such as the latents of the frames.

        Raises:
            InputError: clips longer than the episodes, or nothing to cut.
        """
        if not 1 <= length <= self.length:
            raise InputError(f"clip length: received {length}, allowed 1 .. {self.length} (an episode)")
        if source is None:
            raise InputError("windows: there are no images to cut; give a source, such as their latents")
        episode = torch.randint(len(self), (count, 1), generator=generator).expand(-1, per_episode)
        last = self.length - length + 1
        start = torch.randint(last, (count, per_episode), generator=generator)
        episode, start = episode.flatten(), start.flatten()
        steps = start[:, None] + torch.arange(length)  # [B, T]
        row = episode[:, None]
        return Windows(
            source[row, steps],
            rewrap_roll(self.states[row, steps], generator),
            self.actions[row, steps[:, :-1]],
        )


class PlayData(Trajectories):
    """Episodes of equal length, read from the shards of a folder.

    Args:
        images: [E, T, S, S, 3] uint8 RGB.
        states: [E, T, 7].

    Raises:
        InputError: shapes that do not fit, or states that are not finite.
    """

    def __init__(self, images: npt.NDArray[np.uint8], states: npt.NDArray[np.float32]) -> None:
        if images.ndim != 5 or images.dtype != np.uint8 or states.shape != (*images.shape[:2], 7):
            raise InputError(
                f"play data: expected images [E, T, S, S, 3] uint8 with states [E, T, 7], received "
                f"{images.shape} {images.dtype} with {states.shape}"
            )
        if not np.isfinite(states).all():
            raise InputError("play data: some states are not finite; collect the data again")
        self.images = torch.from_numpy(images)
        super().__init__(torch.from_numpy(np.asarray(states, dtype=np.float32)))

    @classmethod
    def load(cls, folder: str | Path, *, episodes: int | None = None) -> PlayData:
        """Read all shards of a folder into memory.

        Shards are ``*-images.npy`` beside ``*-states.npy``, or those that ``vjepa-ac train import`` makes
        of recordings, whose episodes are cut into pieces of :data:`CUT_FRAMES` frames.

        Raises:
            InputError: no shards, or shards that do not fit together.
        """
        folder = Path(folder)
        names = sorted(folder.glob("*-images.npy"))
        if not names and any(folder.glob("*.safetensors")):
            return cls._cut(folder, episodes)
        if not names:
            raise InputError(
                f"{folder}: holds neither play data (*-images.npy) nor imported data (*.safetensors); make "
                f"some with `vjepa-ac train collect --out {folder}` or "
                f"`vjepa-ac train import SOURCE --out {folder}`"
            )
        images, states = [], []
        for name in names:
            try:
                images.append(np.load(name, mmap_mode="r"))
                states.append(np.load(str(name).replace("-images.npy", "-states.npy")))
            except (OSError, ValueError, EOFError) as error:
                raise InputError(
                    f"{name}: this shard cannot be read ({error}); collect again with the same command, "
                    "which makes what is missing"
                ) from error
            if len(images[-1]) != len(states[-1]):
                raise InputError(
                    f"{name}: holds {len(images[-1])} episodes, its states {len(states[-1])}; collect "
                    "again with the same command, which makes what is missing"
                )
        if len({part.shape[1:] for part in images}) != 1:
            raise InputError(f"{folder}: holds shards of different sizes; collect into separate folders")
        return cls(np.concatenate(images)[:episodes], np.concatenate(states)[:episodes])

    @classmethod
    def load_split(cls, folder: str | Path, held_out: float) -> tuple[PlayData, PlayData]:
        """As :meth:`load`, in two parts: one to train on, and a share to judge by.

        Of imported data the share is that of :meth:`.Dataset.split`, of play data the last episodes.

        Raises:
            InputError: as :meth:`load`, or too few (or too short) episodes for two parts.
        """
        from vjepa_ac_planner.training.dataset import Dataset

        folder = Path(folder)
        if any(folder.glob("*.safetensors")):
            # Divided with its short episodes, as fine-tuning divides it: neither trains on what the other
            # judges by.
            parts = Dataset.open(folder).split(held_out)
            for part, use in zip(parts, ("train on", "judge by"), strict=True):
                if max(map(len, part.episodes)) < CUT_FRAMES:
                    raise InputError(
                        f"{folder}: none of the {len(part.episodes)} episodes to {use} has {CUT_FRAMES} "
                        "frames; record longer ones, or name other data to judge by (--test)"
                    )
            train, test = map(cls._pieces, parts)
            return train, test
        play = cls.load(folder)
        kept = max(2, round(held_out * len(play)))
        if len(play) < 2 * kept:
            raise InputError(
                f"{folder}: {counted(len(play), 'episode')}, too few to train on some and judge by others"
            )
        images, states = play.images.numpy(), play.states.numpy()
        return cls(images[:-kept], states[:-kept]), cls(images[-kept:], states[-kept:])

    @classmethod
    def _cut(cls, folder: Path, episodes: int | None) -> PlayData:
        from vjepa_ac_planner.training.dataset import Dataset

        return cls._pieces(Dataset.open(folder, min_frames=CUT_FRAMES), episodes)

    @classmethod
    def _pieces(cls, data: Dataset, episodes: int | None = None) -> PlayData:
        images, states = [], []
        for episode in data.episodes:
            for first in range(0, len(episode) - CUT_FRAMES + 1, CUT_FRAMES):
                start = episode.start + first
                images.append(data.shards[episode.shard].rows("images", start, start + CUT_FRAMES))
                states.append(episode.states[first : first + CUT_FRAMES])
                if len(images) == episodes:
                    return cls(torch.stack(images).numpy(), torch.stack(states).numpy())
        return cls(torch.stack(images).numpy(), torch.stack(states).numpy())

    def windows(
        self,
        count: int,
        length: int,
        generator: torch.Generator,
        *,
        per_episode: int = 1,
        source: Tensor | None = None,
    ) -> Windows:
        """As :meth:`Trajectories.windows`, of the images unless a source is given."""
        return super().windows(
            count,
            length,
            generator,
            per_episode=per_episode,
            source=self.images if source is None else source,
        )


def rewrap_roll(states: Tensor, generator: torch.Generator) -> Tensor:
    """Write the roll of half the clips with the other sign (plus or minus 2 pi): the same rotation.

    The roll of a gripper that points down sits at the seam of +-pi, where measurement noise decides
    its sign; this teaches the predictor that the two mean the same.

    Args:
        states: [B, T, 7].
        generator: source of chance, on the CPU.
    """
    roll = states[..., 3]
    clip = (torch.rand(len(states), 1, generator=generator) < 0.5).to(roll.device)
    step = (torch.rand(roll.shape, generator=generator) < 0.5).to(roll.device)
    near_seam = roll.abs() > 0.5 * torch.pi
    flipped = torch.where(clip & step & near_seam, roll - 2 * torch.pi * roll.sign(), roll)
    return torch.cat([states[..., :3], flipped[..., None], states[..., 4:]], dim=-1)
