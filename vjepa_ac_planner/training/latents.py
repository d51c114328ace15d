"""Latents of a data set, cached on disk: encoded once, verified, and encoded again only where they miss.

A cached file is named after what it depends on: the encoder's weights and precision, how images are
preprocessed, and the frames. Another encoder, or other frames, find none and make their own; nothing is
ever taken for something else. Layout of the cache::

    <encoder's key>/<frames' digest>.safetensors     latents [F, N, D], bfloat16 or float16

Files appear only when whole, one for each shard of the data set, so a process that is killed loses at most
the shard it was at. A damaged file is deleted and made again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.nn.encoder import FrameEncoder
from vjepa_ac_planner.nn.storage import remove_stale
from vjepa_ac_planner.outputs import make_folder
from vjepa_ac_planner.preprocess import preprocess
from vjepa_ac_planner.training.dataset import ClipIndex, Dataset, Episode
from vjepa_ac_planner.training.shards import Shard, digest, write_shard

PREPROCESSING = "1"
"""Raise when :func:`~vjepa_ac_planner.preprocess.preprocess` gives other numbers."""
LATENTS = "latents"


@dataclass
class EncodingReport:
    """What a call of :meth:`LatentCache.fill` did, in this process."""

    reused_frames: int = 0
    encoded_frames: int = 0
    damaged_files: int = 0
    """Cached files that did not fit their digest, and were made again."""
    seconds: float = 0.0


def encoder_key(encoder: FrameEncoder) -> str:
    """Digest of the encoder's weights, as held, and of how frames reach it."""
    config = encoder.config
    weights = digest(encoder.state_dict())
    text = f"{weights} {config.image_size} {config.tubelet} {PREPROCESSING}"
    return hashlib.sha256(text.encode()).hexdigest()


class LatentCache:
    """The latents of one encoder.

    Args:
        folder: of the cache; several encoders may share it.
        key: :func:`encoder_key` of the encoder.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder / key[:16]
        self.key = key

    def path(self, frames: Shard) -> Path:
        """Where the latents of one shard of a data set lie."""
        return self.folder / f"{frames.digest[:32]}.safetensors"

    def missing_frames(self, dataset: Dataset) -> int:
        """Frames of a data set that have no latents yet."""
        return sum(s.shape("images")[0] for s in dataset.shards if not self.path(s).exists())

    def fill(
        self,
        dataset: Dataset,
        encoder: FrameEncoder,
        *,
        batch: int = 32,
        rank: int = 0,
        processes: int = 1,
        on_frames: Callable[[int], None] | None = None,
    ) -> EncodingReport:
        """Encode what is missing or damaged.

        Args:
            dataset: whose shards.
            encoder: the one that the key is of, on its device; latents are kept in bfloat16 if its
                weights are, else in float16 (its values lie within a few units).
            batch: frames at a time.
            rank: of this process; each of several takes its own share of the shards.
            processes: how many there are.
            on_frames: called with the number of frames done, encoded or found, for progress.

        Raises:
            InputError: frames of another size than the encoder's.
            CheckpointError: the cache cannot be written.
        """
        size = encoder.config.image_size
        if dataset.image_size != size:
            raise InputError(
                f"{dataset.folder}: holds frames of {dataset.image_size} pixels, the model takes {size}; "
                "import again for this model"
            )
        make_folder(self.folder)
        if rank == 0:
            remove_stale(self.folder)
        report = EncodingReport()
        begin = time.perf_counter()
        for frames in dataset.shards[rank::processes]:
            count = frames.shape("images")[0]
            if self._usable(frames, report):
                report.reused_frames += count
                if on_frames is not None:
                    on_frames(count)
            else:
                latents = _encode(frames, encoder, batch, on_frames)
                about = {"encoder": self.key, "frames": frames.digest}
                write_shard(self.path(frames), {LATENTS: latents}, about)
                report.encoded_frames += count
        report.seconds = time.perf_counter() - begin
        return report

    def open(self, dataset: Dataset) -> Latents:
        """The latents of all shards of a data set.

        Raises:
            InputError: some are missing; :meth:`fill` makes them.
        """
        return Latents([Shard(self.path(frames)) for frames in dataset.shards])

    def _usable(self, frames: Shard, report: EncodingReport) -> bool:
        path = self.path(frames)
        if not path.exists():
            return False
        try:
            cached = Shard(path)
            cached.verify()
            if cached.about.get("encoder") == self.key and cached.about.get("frames") == frames.digest:
                return True
        except InputError:
            report.damaged_files += 1
        path.unlink(missing_ok=True)
        return False


class Latents:
    """Latents of a data set's frames, mapped from disk."""

    def __init__(self, shards: list[Shard]) -> None:
        self._shards = shards

    def clip(self, episode: Episode, first: int, length: int) -> Tensor:
        """[T, N, D] of ``length`` frames of an episode, from its frame ``first`` on."""
        start = episode.start + first
        return self._shards[episode.shard].rows(LATENTS, start, start + length)

    def clips(self, index: ClipIndex, chosen: list[tuple[Episode, int]]) -> Tensor:
        """[B, T, N, D] of several clips."""
        return torch.stack([self.clip(episode, first, index.length) for episode, first in chosen])


@torch.inference_mode()
def _encode(
    frames: Shard, encoder: FrameEncoder, batch: int, on_frames: Callable[[int], None] | None
) -> Tensor:
    weight = next(encoder.parameters())
    kept = torch.bfloat16 if weight.dtype == torch.bfloat16 else torch.float16
    config, count = encoder.config, frames.shape("images")[0]
    latents = torch.empty(count, config.tokens, config.dim, dtype=kept)
    for start in range(0, count, batch):
        images = frames.rows("images", start, min(start + batch, count)).to(weight.device)
        pixels = preprocess(images, config.image_size).to(weight.dtype)
        latents[start : start + batch] = encoder(pixels).to(kept).cpu()
        if on_frames is not None:
            on_frames(len(images))
    return latents
