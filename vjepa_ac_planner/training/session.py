"""A fine-tuning run: open the data, say what it will take, encode, train."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vjepa_ac_planner.errors import DeviceMemoryError, InputError, PlannerError, counted
from vjepa_ac_planner.models import ModelDescription, find_model
from vjepa_ac_planner.training import estimate
from vjepa_ac_planner.training.accelerated import AcceleratedEngine, make_accelerator
from vjepa_ac_planner.training.checkpoints import LAST, PREVIOUS, content_digest
from vjepa_ac_planner.training.dataset import ClipIndex, Dataset, summary
from vjepa_ac_planner.training.finetune import (
    METRICS,
    BestKeeper,
    FinetuneConfig,
    FinetuneStage,
    Judge,
    RunDescription,
    begin_run,
    best_figures,
)
from vjepa_ac_planner.training.latents import LatentCache, Latents, encoder_key
from vjepa_ac_planner.training.loop import optimise
from vjepa_ac_planner.training.throughput import time_micro_batch
from vjepa_ac_planner.training.trainable import new_predictor
from vjepa_ac_planner.world_model import Dtype, WorldModel

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What ``vjepa-ac train finetune`` is asked for."""

    model: str
    """To begin with: a name or a folder."""
    data: Path
    """Training data, see :mod:`.dataset`."""
    out: Path
    """Folder of the run."""
    config: FinetuneConfig
    test: Path | None = None
    """Data to judge by; None holds back a part of ``data``."""
    cache: Path | None = None
    """Of latents; None: ``latents`` in the folder of the data."""
    device: str = "auto"
    """auto, cpu or cuda."""
    encoder_dtype: Dtype = "auto"
    """Precision of the frozen encoder; auto is bfloat16 where the device multiplies in it."""
    encode_batch: int = 32
    """Frames that are encoded at a time."""
    tensorboard: bool = False
    """Write metrics for TensorBoard as well."""
    force: bool = False
    """Go on where the estimate says that it will not fit."""

    @property
    def cache_folder(self) -> Path:
        """Where latents go."""
        return self.cache or self.data / "latents"


class Session:
    """One process of a fine-tuning run.

    Args:
        request: what is asked for.
        say: takes lines for people; called in one process only.
    """

    def __init__(self, request: Request, say: Say) -> None:
        self.request = request
        self.accelerator = make_accelerator(request.device)
        self.device: torch.device = self.accelerator.device
        self.processes = int(self.accelerator.num_processes)
        self.main = bool(self.accelerator.is_main_process)
        self._say = say if self.main else lambda text: None

    def run(self, *, dry_run: bool = False) -> dict[str, Any]:
        """All of it; resumes where it stopped.

        Args:
            dry_run: stop after the estimate, before anything is encoded or trained.

        Returns:
            The estimate, and unless it is a dry run the figures before and after.

        Raises:
            InputError: data that cannot be used, or too little room on the disk.
            DeviceMemoryError: the device is too small.
            CheckpointError: the folder holds another run.
        """
        request, config = self.request, self.request.config
        config.parts(self.processes)  # a batch that cannot be divided is told before anything is done
        description = find_model(request.model).description
        data = self._open(request.data, description)
        extra = self._open(request.test, description) if request.test else None
        parts = [data] if extra is None else [data, extra]
        needed = self._check_memory(description)
        model = WorldModel.load(request.model, device=self.device, dtype=request.encoder_dtype)
        key = encoder_key(model.encoder)
        cache = LatentCache(request.cache_folder, key)
        disk = self._check_disk(description, cache, parts)
        record: dict[str, Any] = {
            "estimate": {**needed, **disk, **self._estimate_time(model, cache, parts)}
        }
        if dry_run:
            return record
        for part in parts:
            self._encode(cache, part, model)
        self.accelerator.wait_for_everyone()
        del model
        train, test = data.split(config.held_out) if extra is None else (data, extra)
        index = ClipIndex(train, config.clip_length)
        self._say(
            f"training on {counted(len(train.episodes), 'episode')} ({train.hours:.2f} h, "
            f"{counted(len(index), 'clip')}), judged on {len(test.episodes)} held out ({test.hours:.2f} h)"
        )
        if index.too_short:
            self._say(f"skipped {index.too_short} x episode shorter than {config.clip_length} frames")
        judge = Judge(test, cache.open(test), self.device) if self.main else None
        return {**record, **self._train(key, index, cache.open(train), train, judge)}

    def _open(self, folder: Path, description: ModelDescription) -> Dataset:
        from tqdm import tqdm

        with tqdm(unit="shard", desc="verify", disable=not self.main) as bar:

            def on_shard(done: int, total: int) -> None:
                bar.total = total
                bar.update()

            data = Dataset.open(folder, on_shard=on_shard)
        if data.image_size != description.image_size:
            raise InputError(
                f"{folder}: holds frames of {data.image_size} pixels, model {description.name!r} "
                f"takes {description.image_size}; import again with --model {self.request.model}"
            )
        if data.step_seconds != description.step_seconds:
            raise InputError(
                f"{folder}: holds frames {data.step_seconds} s apart, an action of model "
                f"{description.name!r} takes {description.step_seconds} s; import again for it"
            )
        self._say(
            f"{folder}: {counted(len(data.recordings), 'recording')}, "
            f"{counted(len(data.episodes), 'episode')}, {counted(data.frames, 'frame')}, {data.hours:.2f} h"
        )
        for reason, count in sorted(data.skipped.items()):
            self._say(f"skipped {count} x {reason}")
        return data

    def _check_memory(self, description: ModelDescription) -> dict[str, Any]:
        config, unit = self.request.config, estimate.GB
        needed = estimate.memory(config, description.predictor, judged=True)
        free = estimate.available_memory(self.device)
        parts = ", ".join(
            f"{name} {size / unit:.2f}"
            for name, size in (
                ("weights", needed.weights),
                ("gradients", needed.gradients),
                ("AdamW", needed.optimiser),
                (f"{config.micro_batch} clips", needed.activations),
                ("held-out clips", needed.judged),
            )
        )
        left = "" if free is None else f"; {free / unit:.1f} GB are free"
        self._say(f"memory: {needed.total / unit:.2f} GB on {self.device} ({parts}, and a reserve){left}")
        if free is not None and needed.total > free:
            self._refuse(
                DeviceMemoryError(
                    f"training needs {needed.total / unit:.1f} GB, {self.device} has {free / unit:.1f} GB "
                    "free; lower micro_batch, set checkpoint_activations, train lora or the last blocks "
                    "only, or use --force"
                )
            )
        return {"memory_bytes": dataclasses.asdict(needed) | {"total": needed.total}, "free_bytes": free}

    def _check_disk(
        self, description: ModelDescription, cache: LatentCache, parts: list[Dataset]
    ) -> dict[str, Any]:
        unit, folder = estimate.GB, self.request.cache_folder
        missing = sum(cache.missing_frames(part) for part in parts)
        needed = estimate.cache_bytes(missing, description.latent_dim, description.tokens)
        room = estimate.free_bytes(folder)
        self._say(
            f"disk: {needed / unit:.2f} GB for latents of {missing} frames that are not cached yet; "
            f"{room / unit:.1f} GB are free in {folder}"
        )
        if needed > room:
            self._refuse(
                InputError(
                    f"{folder}: has {room / unit:.1f} GB free, latents of {missing} frames take "
                    f"{needed / unit:.1f} GB; name another --cache, import less, or use --force"
                )
            )
        return {"frames_to_encode": missing, "latents_bytes": needed, "free_disk_bytes": room}

    def _refuse(self, error: PlannerError) -> None:
        if not self.request.force:
            raise error
        self._say(f"warning: {error}")

    def _estimate_time(
        self, model: WorldModel, cache: LatentCache, parts: list[Dataset]
    ) -> dict[str, float]:
        """Measured on this device: some frames through the encoder, a micro-batch through the predictor."""
        request, config = self.request, self.request.config
        missing = sum(cache.missing_frames(part) for part in parts)
        frame_s = 0.0
        if missing:
            images = parts[0].shards[0].rows("images", 0, request.encode_batch)
            frame_s = estimate.median_time(lambda: model.encode(images), self.device) / len(images)
        try:
            clips_s = time_micro_batch(config, copy.deepcopy(model.predictor).float(), self.device)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{self.device} ran out of memory with micro_batch {config.micro_batch}; lower it, or set "
                "checkpoint_activations"
            ) from error
        encoding = missing * frame_s / self.processes
        iteration = clips_s * config.parts(self.processes)
        training = iteration * config.loop.iterations
        self._say(
            f"time: {estimate.pretty_time(encoding)} to encode, {estimate.pretty_time(training)} to train "
            f"({config.loop.iterations} iterations of {iteration:.2g} s), without evaluation"
        )
        return {"encoding_s": encoding, "iteration_s": iteration, "training_s": training}

    def _encode(self, cache: LatentCache, data: Dataset, model: WorldModel) -> None:
        from tqdm import tqdm

        total = sum(shard.shape("images")[0] for shard in data.shards) // self.processes
        with tqdm(total=total, unit="frame", desc="latents", disable=not self.main) as bar:
            report = cache.fill(
                data,
                model.encoder,
                batch=self.request.encode_batch,
                rank=int(self.accelerator.process_index),
                processes=self.processes,
                on_frames=bar.update,
            )
        if report.encoded_frames:
            rate = report.encoded_frames / max(report.seconds, 1e-9)
            self._say(f"encoded {report.encoded_frames} frames, {rate:.1f} per second and process")
        if report.damaged_files:
            self._say(f"{report.damaged_files} damaged files of cached latents were made again")

    def _train(
        self, key: str, index: ClipIndex, latents: Latents, train: Dataset, judge: Judge | None
    ) -> dict[str, Any]:
        request, config = self.request, self.request.config
        model = WorldModel.load(request.model, device="cpu", dtype="float32")
        base, weights = model.predictor, content_digest(model.predictor.state_dict())
        if config.train == "scratch":
            base = new_predictor(base.config, config.loop.seed)
        rank = int(self.accelerator.process_index)
        stage = FinetuneStage(
            config, base, index, latents, self.device, rank=rank, processes=self.processes
        )
        try:
            engine = AcceleratedEngine(self.accelerator, stage.objective, METRICS)
            run = RunDescription(_lasting(request.model), weights, key, train.identity, config)
            before: dict[str, float] = {}
            keeper = None
            if judge is not None:
                keeper = BestKeeper(stage, judge, request.out)
                # With a checkpoint there it may be another run's folder, which is refused below.
                if not any((request.out / name).exists() for name in (LAST, PREVIOUS)):
                    begin_run(request.out, run, {"data_set": summary(train)})
                before = keeper.before()
                self._say("before: " + figures_line(before))
            optimise(
                stage,
                config.loop,
                request.out,
                run.identity(),
                engine,
                evaluate=keeper,
                evaluate_every=config.evaluate_every,
                tensorboard=request.tensorboard,
            )
            if keeper is not None and best_figures(request.out) is None:
                keeper()  # a finished run looks no more, and its best weights may have been deleted
        finally:
            stage.close()
        after = best_figures(request.out) or {}
        self._say("best:   " + figures_line(after))
        return {"before": before, "after": after}


def figures_line(figures: dict[str, float]) -> str:
    """Held-out figures for people."""
    return "  ".join(f"{name} {value:.4f}" for name, value in figures.items())


def _lasting(model: str) -> str:
    """The model's name, or its path such that it can be found from elsewhere."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model
