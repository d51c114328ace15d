"""The replayed steps as columns: what ``steps.csv`` holds, and all that scores are computed from."""

from __future__ import annotations

import csv
import io
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.types import ACTION_NAMES, STATE_NAMES, FloatArray

ACTORS = ("recorded", "planned", "previous", "random")
"""Whose action a column holds: what the robot did, what the planner would have done, a copy of what
the robot did one step before, and a draw from the planner's first proposal."""

NUMBERS = (
    "index", "time", "segment", "goal", "at_goal",
    *STATE_NAMES,
    *(f"{actor}_{name}" for actor in ACTORS for name in ACTION_NAMES),
    "energy", "energy_planned", "energy_zero", "energy_recorded", "energy_previous", "energy_random",
    "random_worse", "random_agree", "random_cosine", "improves",
    "distance", "pixels",
    "surprise", "surprise_copy", "surprise_shuffled", "surprise_zero",
    "image_age", "state_age", "skew", "plan_seconds",
)  # fmt: skip
"""Numeric columns; NaN (an empty cell) where a step has no such thing. Actions are in metres, radians
and closedness, energies and surprises mean absolute differences of latents, times seconds. Several random
actions are drawn at each step: the ``random_`` actions are the first; ``random_agree`` (signs that agree
with the recorded action), ``random_cosine``, ``random_worse`` (share rated below it) and ``energy_random``
are means over all."""
TEXTS = ("command", "limits", "reason", "error")
"""Text columns: what left the safety layer in the shadow (``move``, ``hold``), the limits it met, each
with what it did (``max_translation (limited)``), the same at length, and why there is no plan."""


@dataclass(frozen=True)
class StepTable:
    """Steps of one bag, in order."""

    numbers: Mapping[str, FloatArray]
    """Every column of ``NUMBERS``, [T]."""
    texts: Mapping[str, tuple[str, ...]]
    """Every column of ``TEXTS``."""

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> StepTable:
        """Build it from one mapping per step; what a row leaves out is NaN or empty.

        Raises:
            InputError: a name that is no column.
        """
        builder = TableBuilder()
        for row in rows:
            builder.add(row)
        return builder.table()

    @classmethod
    def from_csv(cls, text: str) -> StepTable:
        """The inverse of :meth:`to_csv`, exact to the last bit.

        Raises:
            InputError: columns are missing, or a number is none.
        """
        reader = csv.DictReader(io.StringIO(text))
        missing = {*NUMBERS, *TEXTS} - set(reader.fieldnames or ())
        if missing:
            raise InputError(f"steps: the table lacks the columns {sorted(missing)}; replay the bag again")
        kept = (*NUMBERS, *TEXTS)
        try:
            return cls.from_rows(
                {
                    name: (cell if name in TEXTS else float(cell or "nan"))
                    for name, cell in row.items()
                    if name in kept
                }
                for row in reader
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"steps: a cell is not a number ({error}); replay the bag again") from error

    def to_csv(self) -> str:
        """All columns as CSV with a header; numbers are written so that reading gives the same bits."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(self.cells())
        return out.getvalue()

    def cells(self) -> Iterator[tuple[str, ...]]:
        """The rows of :meth:`to_csv`, the header first."""
        yield (*NUMBERS, *TEXTS)
        numbers = zip(*(self.numbers[name].tolist() for name in NUMBERS), strict=True)
        texts = zip(*(self.texts[name] for name in TEXTS), strict=True)
        for row, words in zip(numbers, texts, strict=True):
            yield (*map(_cell, row), *words)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.numbers["index"])

    def __getitem__(self, name: str) -> FloatArray:
        """One numeric column, [T]."""
        return self.numbers[name]

    def actions(self, actor: str) -> FloatArray:
        """[T, 7] the actions of one of ``ACTORS``."""
        return np.stack([self.numbers[f"{actor}_{name}"] for name in ACTION_NAMES], axis=-1)


class TableBuilder:
    """Collects rows in little memory: half a kilobyte per step, so that hours of recording fit."""

    def __init__(self) -> None:
        self._numbers = {name: array("d") for name in NUMBERS}
        self._texts: dict[str, list[str]] = {name: [] for name in TEXTS}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one step; what it leaves out is NaN or empty.

        Raises:
            InputError: a name that is no column.
        """
        unknown = row.keys() - self._numbers.keys() - self._texts.keys()
        if unknown:
            raise InputError(
                f"steps: unknown columns {sorted(unknown)}; valid: {', '.join((*NUMBERS, *TEXTS))}"
            )
        for name, column in self._numbers.items():
            column.append(float(row.get(name, math.nan)))
        for name, words in self._texts.items():
            words.append(sys.intern(str(row.get(name, ""))))

    def table(self) -> StepTable:
        """All steps so far."""
        numbers = {name: np.array(column, np.float64) for name, column in self._numbers.items()}
        return StepTable(numbers, {name: tuple(words) for name, words in self._texts.items()})


def action_cells(actor: str, action: npt.ArrayLike | None) -> dict[str, float]:
    """The cells of one action [7]; none at all for None."""
    if action is None:
        return {}
    values = np.asarray(action, np.float64)
    return {f"{actor}_{name}": float(v) for name, v in zip(ACTION_NAMES, values, strict=True)}


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
