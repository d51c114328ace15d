"""What a run writes down as it goes: JSON lines always, TensorBoard where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vjepa_ac_planner.errors import MissingDependencyError
from vjepa_ac_planner.nn.storage import replacing

METRICS = "metrics.jsonl"


class RunLog:
    """``metrics.jsonl``, one JSON object a line, and ``tensorboard/``.

    A run that goes on from a checkpoint does again what it had done after it, so those lines are taken
    out first: the file reads as if the run had never stopped.

    Args:
        folder: of the run.
        start: iteration that the run goes on from.
        tensorboard: whether to write that as well.

    Raises:
        MissingDependencyError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, start: int, *, tensorboard: bool = False) -> None:
        self._path = folder / METRICS
        if self._path.exists():
            kept = [line for line in read_metrics(folder) if line["iteration"] < start]
            with replacing(self._path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
        self._writer = _summary_writer(folder / "tensorboard", start) if tensorboard else None

    def write(self, iteration: int, figures: Mapping[str, Any]) -> None:
        """Add a line; figures of figures are grouped in TensorBoard."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **figures}) + "\n")
        if self._writer is None:
            return
        for name, value in figures.items():
            inner = {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, dict) else None
            for tag, number in (inner or {f"train/{name}": value}).items():
                self._writer.add_scalar(tag, number, iteration)
        self._writer.flush()

    def close(self) -> None:
        """Finish; safe to call twice."""
        if self._writer is not None:
            self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; one that was cut short by a kill is left out."""
    path = folder / METRICS
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _summary_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoard is not installed: pip install 'vjepa_ac_planner[training]', or leave out "
            "--tensorboard (metrics.jsonl is always written)"
        ) from error
    return SummaryWriter(str(folder), purge_step=start)
