"""Training steps through ``accelerate``: on any device, over several processes and machines.

A batch is divided among processes and, in each, into micro-batches whose gradients add up. Processes are
started by ``accelerate launch``; nothing here starts any.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vjepa_ac_planner.errors import InputError, MissingDependencyError
from vjepa_ac_planner.training.loop import LoopConfig, Stage
from vjepa_ac_planner.world_model import choose_device

_PATIENCE = timedelta(hours=12)
"""How long processes wait for one another: one may have more frames to encode."""


class DividedStage(Stage, Protocol):
    """A stage whose batches come in parts."""

    def batches(self, iteration: int) -> Sequence[tuple[Tensor, ...]]:
        """This process's micro-batches of one iteration, all of one size."""
        ...


def make_accelerator(device: str) -> Any:
    """The ``accelerate.Accelerator`` of this process; it knows of the others from the launcher.

    Args:
        device: ``auto`` for what accelerate finds, ``cpu``, ``cuda``, or, for one process, ``cuda:N``.

    Raises:
        InputError: another device, or one GPU for several processes.
        MissingDependencyError: accelerate is not installed, or CUDA is asked for and not there.
    """
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise MissingDependencyError(
            "fine-tuning needs accelerate: pip install 'vjepa_ac_planner[training]'"
        ) from error
    chosen = torch.device("cpu") if device == "auto" else choose_device(device)
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device: received {device!r}, allowed 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if chosen.type == "cuda" and chosen.index is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(f"device: received {device!r} for several processes; allowed 'auto' or 'cuda'")
        torch.cuda.set_device(chosen)  # accelerate takes the current one
    # Precision is the objective's own matter.
    return Accelerator(
        mixed_precision="no",
        cpu=device == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


class AcceleratedEngine:
    """An :class:`~vjepa_ac_planner.training.loop.Engine` for every :class:`DividedStage`.

    Args:
        accelerator: from :func:`make_accelerator`.
        objective: called with a micro-batch, returns [n] with the mean loss first and what is logged
            after it; already on the accelerator's device.
        names: of what is logged.
    """

    def __init__(self, accelerator: Any, objective: nn.Module, names: Sequence[str]) -> None:
        self._accelerator = accelerator
        self._objective = accelerator.prepare(objective)
        self._names = tuple(names)
        self.main = bool(accelerator.is_main_process)

    def gradients(
        self, stage: DividedStage, config: LoopConfig, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up those of all micro-batches of all processes; each process ends with the same."""
        batches = stage.batches(iteration)
        total: Tensor | None = None
        for number, batch in enumerate(batches, start=1):
            # Processes exchange gradients once, with the last micro-batch.
            alone = nullcontext() if number == len(batches) else self._accelerator.no_sync(self._objective)
            with alone:
                values = self._objective(*batch)
                self._accelerator.backward(values[0] / len(batches))
            total = values.detach() if total is None else total + values.detach()
        assert total is not None
        mean: Tensor = self._accelerator.reduce(total / len(batches), reduction="mean")
        return mean[0], dict(zip(self._names, mean[1:], strict=True))

    def wait(self) -> None:
        """Until all processes have come here."""
        self._accelerator.wait_for_everyone()
