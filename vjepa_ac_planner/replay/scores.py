"""Scores of replayed steps: pure functions of the columns of ``steps.csv``.

The recording is open loop: the planner is asked at every recorded moment, the recorded robot then does
what it did. So a score says how like the recorded behaviour the plans are, and how well the world model
knows this camera; none says whether the planner would have completed the task.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vjepa_ac_planner import geometry
from vjepa_ac_planner.replay.statistics import NOTHING, Estimate, rank_correlation, ratio, share
from vjepa_ac_planner.replay.table import StepTable
from vjepa_ac_planner.types import ACTION_DIM, ACTION_NAMES, FloatArray

DEAD_ZONE = np.array([0.005] * 3 + [math.radians(1.0)] * 3 + [0.1])
"""[7] Recorded changes smaller than this in one step have no direction worth comparing:
5 mm, 1 degree, a tenth of the gripper's way. Planned ones have no dead zone: any sign counts, and none
at all is wrong."""

BASELINES = ("zero", "random", "previous")
"""Whose actions are scored beside the plans': standing still, draws from the planner's first proposal,
a copy of the recorded action one step before. The last has seen what the robot does: where motion is
smooth it is hard to beat, without knowing any goal."""


STANDS_STILL = "plan energy (hold)"
"""The finding of a plan that is no better than standing still: near a goal that is right, no refusal."""


@dataclass(frozen=True)
class Replayed:
    """What the scores need to know about one bag beside its steps."""

    steps: StepTable
    searched: tuple[int, ...]
    """Axes that the preset searches, as positions in an action."""
    step_seconds: float


def score(bags: Sequence[Replayed]) -> dict[str, Any]:
    """All scores of one bag, or of several together.

    Args:
        bags: replayed with the same preset.

    Returns:
        ``sign_agreement``, ``cosine_mean``, ``energy_rank_correlation`` and ``surprise``, each a mapping
        with ``value``, ``ci95``, ``n`` and ``baselines``; further ``errors``, ``gripper_f1``, ``energy``,
        ``refusals``, ``latency``, ``stamps``. A value that the bag does not show is NaN.
    """
    axes = bags[0].searched
    bag = np.concatenate([np.full(len(item.steps), i, float) for i, item in enumerate(bags)])
    tables = [item.steps for item in bags]

    def column(name: str) -> FloatArray:
        return np.concatenate([table[name] for table in tables])

    actions = {
        actor: np.concatenate([table.actions(actor) for table in tables])
        for actor in ("recorded", "planned", "previous", "random")
    }
    actions["zero"] = np.zeros_like(actions["planned"])
    # Compared where there is a plan and the robot's next pose belongs to the same stretch of recording.
    compared = np.isfinite(actions["recorded"]).all(1) & np.isfinite(actions["planned"]).all(1)
    chosen = {actor: values[compared] for actor, values in actions.items()}
    texts = {
        name: [text for table in tables for text in table.texts[name]] for name in ("command", "limits")
    }
    return {
        "steps": len(bag),
        "compared": int(compared.sum()),
        "axes": [ACTION_NAMES[axis] for axis in axes],
        "dead_zone": dict(zip(ACTION_NAMES, DEAD_ZONE.tolist(), strict=True)),
        "sign_agreement": _signs(chosen, axes, bag[compared], column("random_agree")[compared]),
        "cosine_mean": _cosine(chosen, bag[compared], column("random_cosine")[compared]),
        "gripper_f1": _gripper(chosen, axes),
        "errors": _errors(chosen, axes),
        "energy": _energy(column, compared, bag),
        "energy_rank_correlation": _ranks(tables),
        "surprise": _surprise(column, actions["recorded"], bag),
        "refusals": _refusals(texts, column("energy_planned")),
        "latency": _latency(column("plan_seconds"), bags[0].step_seconds),
        "stamps": {name: _quantiles(column(name)) for name in ("image_age", "state_age", "skew")},
    }


def moving(recorded: FloatArray) -> np.ndarray:
    """[T] whether a recorded action [T, 7] is out of the dead zone on any axis, or as a whole."""
    length = np.linalg.norm(recorded[:, :3], axis=1)
    return (np.abs(recorded) >= DEAD_ZONE).any(1) | (length >= DEAD_ZONE[0])


def signs_agree(
    recorded: FloatArray, other: FloatArray, axes: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """How many axes agree in sign, and how many are compared: [T], [T] of actions [T, 7]."""
    first, second = recorded[:, list(axes)], other[:, list(axes)]
    counted = np.abs(first) >= DEAD_ZONE[list(axes)]
    agree = counted & (np.sign(first) == np.sign(second))
    return agree.sum(1).astype(float), counted.sum(1).astype(float)


def cosines(recorded: FloatArray, other: FloatArray) -> tuple[FloatArray, np.ndarray]:
    """Cosine of two translations [m], and where it counts: [T], [T] of actions [T, 7].

    It counts where the recorded one is out of the dead zone. No motion has cosine 0 with any.
    """
    first, second = recorded[:, :3], other[:, :3]
    length, size = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    dots = (first * second).sum(1)
    return np.divide(
        dots, length * size, out=np.zeros(len(dots)), where=length * size > 0
    ), length >= DEAD_ZONE[0]


def gripper_f1(recorded: FloatArray, other: FloatArray) -> float:
    """F1 of closing and opening together [T], beyond the dead zone; NaN where neither has any."""
    dead = DEAD_ZONE[6]
    truth = np.sign(recorded) * (np.abs(recorded) >= dead)
    guess = np.sign(other) * (np.abs(other) >= dead)
    right = float(((truth != 0) & (truth == guess)).sum())
    wanted, made = float((truth != 0).sum()), float((guess != 0).sum())
    return 2 * right / (wanted + made) if wanted + made > 0 else math.nan


def _signs(
    actions: dict[str, FloatArray], axes: Sequence[int], bags: FloatArray, chance: FloatArray
) -> dict[str, Any]:
    recorded = actions["recorded"]
    _, counted = signs_agree(recorded, recorded, axes)
    random = float(chance.sum() / counted.sum()) if counted.any() else math.nan

    def estimate(actor: str, which: Sequence[int]) -> Estimate:
        return share(*signs_agree(recorded, actions[actor], which), bags)

    return {
        **estimate("planned", axes).record(),
        "baselines": {name: estimate(name, axes).value for name in BASELINES} | {"random": random},
        "by_axis": {ACTION_NAMES[axis]: estimate("planned", [axis]).record() for axis in axes},
    }


def _cosine(actions: dict[str, FloatArray], bags: FloatArray, chance: FloatArray) -> dict[str, Any]:
    def estimate(actor: str) -> Estimate:
        values, counted = cosines(actions["recorded"], actions[actor])
        return ratio(values[counted], np.ones(int(counted.sum())), bags[counted])

    _, moved = cosines(actions["recorded"], actions["recorded"])
    random = _mean(chance[moved])
    return {
        **estimate("planned").record(),
        "baselines": {name: estimate(name).value for name in BASELINES} | {"random": random},
    }


def _gripper(actions: dict[str, FloatArray], axes: Sequence[int]) -> dict[str, Any]:
    """Not scored where the preset leaves the gripper alone."""
    recorded = actions["recorded"][:, 6]
    events = int((np.abs(recorded) >= DEAD_ZONE[6]).sum())
    if 6 not in axes:
        return {
            "value": math.nan,
            "n": events,
            "baselines": {},
            "note": "the preset does not move the gripper",
        }
    return {
        "value": gripper_f1(recorded, actions["planned"][:, 6]) if events else math.nan,
        "n": events,
        "baselines": {
            name: gripper_f1(recorded, actions[name][:, 6]) if events else math.nan for name in BASELINES
        },
    }


def _errors(actions: dict[str, FloatArray], axes: Sequence[int]) -> dict[str, Any]:
    """Mean sizes of planned minus recorded, by axis and as a whole, for the plans and the baselines."""
    recorded = actions["recorded"]
    searched = [ACTION_NAMES[axis] for axis in axes]
    rotates = any(axis in axes for axis in (3, 4, 5))

    def of(actor: str) -> dict[str, Any]:
        difference = np.abs(actions[actor] - recorded) * _UNITS
        record: dict[str, Any] = {
            _UNIT_NAMES[axis]: _mean(difference[:, axis]) for axis in range(ACTION_DIM) if axis in axes
        }
        record["translation_cm"] = _mean(100 * np.linalg.norm((actions[actor] - recorded)[:, :3], axis=1))
        if rotates:
            record["rotation_deg"] = _mean(_turns(recorded, actions[actor]))
        return record

    sizes = np.abs(recorded) * _UNITS
    lengths = np.linalg.norm(recorded[:, :3], axis=1)
    planned = np.linalg.norm(actions["planned"][:, :3], axis=1)
    counted = lengths >= DEAD_ZONE[0]
    return {
        "planned": of("planned"),
        "baselines": {name: of(name) for name in BASELINES},
        "searched": searched,
        "recorded_where_not_searched": {
            _UNIT_NAMES[axis]: _mean(sizes[:, axis]) for axis in range(ACTION_DIM) if axis not in axes
        },
        "length_ratio_median": float(np.median(planned[counted] / lengths[counted]))
        if counted.any()
        else math.nan,
    }


_UNITS = np.array([100.0] * 3 + [180.0 / math.pi] * 3 + [1.0])
_UNIT_NAMES = ("dx_cm", "dy_cm", "dz_cm", "drx_deg", "dry_deg", "drz_deg", "dgrip")


def _turns(first: FloatArray, second: FloatArray) -> FloatArray:
    """Angle between the rotations of actions [T, 7], in degrees."""
    a, b = (
        geometry.euler_to_matrix(torch.from_numpy(np.ascontiguousarray(x[:, 3:6]))) for x in (first, second)
    )
    angles = geometry.rotation_angle(geometry.matrix_to_euler(a @ b.mT))
    return np.degrees(angles.numpy())


def _energy(column: Any, compared: np.ndarray, bags: FloatArray) -> dict[str, Any]:
    """What the world model expects of each actor's action, and how often it prefers one to another."""
    recorded, planned, zero = (column(f"energy_{name}") for name in ("recorded", "planned", "zero"))
    # Near the goal, and where the robot stood still, there is nothing to prefer.
    known = compared & np.isfinite(recorded) & moving(np.nan_to_num(_recorded(column)))

    def prefers(better: np.ndarray) -> dict[str, Any]:
        return share(better[known].astype(float), np.ones(int(known.sum())), bags[known]).record()

    worse = column("random_worse")[known]
    return {
        "mean": {
            name: _mean(column(f"energy_{name}")[known])
            for name in ("planned", "recorded", "zero", "previous", "random")
        },
        "recorded_below_zero": prefers(recorded < zero),
        "planned_below_recorded": prefers(planned < recorded),
        "recorded_below_random": ratio(worse, np.ones(len(worse)), bags[known]).record(),
    }


def _recorded(column: Any) -> FloatArray:
    return np.stack([column(f"recorded_{name}") for name in ACTION_NAMES], axis=-1)


def _ranks(tables: Sequence[StepTable]) -> dict[str, Any]:
    """Does the energy fall as the arm comes nearer? Per bag and goal, without the goal's own frame."""

    def groups(name: str) -> list[tuple[FloatArray, FloatArray]]:
        found = []
        for table in tables:
            value = -table["time"] if name == "time_left" else table[name]
            usable = np.isfinite(value) & np.isfinite(table["distance"]) & (table["at_goal"] == 0)
            for goal in np.unique(table["goal"][usable]):
                rows = usable & (table["goal"] == goal)
                found.append((value[rows], table["distance"][rows]))
        return found

    energies = groups("energy")
    by_goal = [rank_correlation([pair]).record() for pair in energies] if len(tables) == 1 else []
    return {
        **rank_correlation(energies).record(),
        "baselines": {name: rank_correlation(groups(name)).value for name in ("pixels", "time_left")}
        | {"random": 0.0},
        "by_goal": by_goal,
    }


def _surprise(column: Any, recorded: FloatArray, bags: FloatArray) -> dict[str, Any]:
    """Error of the model's prediction of what came next, given the recorded action, where the arm moved.

    ``ratio`` is the error over that of expecting no change.
    """
    names = ("copy", "shuffled", "zero")
    columns = {name: column(f"surprise_{name}") for name in names}
    known = moving(np.nan_to_num(recorded)) & np.isfinite(column("surprise"))
    for values in columns.values():
        known &= np.isfinite(values)
    error = column("surprise")[known]
    if not known.any():
        found = against = NOTHING
    else:
        found = ratio(error, np.ones(len(error)), bags[known])
        against = ratio(error, columns["copy"][known], bags[known])
    shuffled = columns["shuffled"][known]
    return {
        **found.record(),
        "baselines": {name: _mean(values[known]) for name, values in columns.items()},
        "ratio": against.value,
        "ratio_ci95": [against.low, against.high],
        "below_shuffled": share(
            (error < shuffled).astype(float), np.ones(len(error)), bags[known]
        ).record(),
    }


def _refusals(texts: dict[str, list[str]], planned: FloatArray) -> dict[str, Any]:
    """What the safety layer would have done: refused, shortened, or left to stand still."""
    by_limit: Counter[str] = Counter()
    refused = limited = standing = 0
    for command, limits in zip(texts["command"], texts["limits"], strict=True):
        named = [text for text in limits.split("; ") if text]
        by_limit.update(set(named))
        stands = all(limit == STANDS_STILL for limit in named)
        refused += command == "hold" and not stands
        standing += command == "hold" and stands
        limited += command == "move" and bool(named)
    total = int(sum(bool(command) for command in texts["command"]))
    return {
        "steps": refused,
        "share": refused / total if total else math.nan,
        "of": total,
        "no_plan": int(total - np.isfinite(planned).sum()),
        "limited": limited,
        "standing_still": standing,
        "by_limit": dict(sorted(by_limit.items())),
    }


def _latency(seconds: FloatArray, step_seconds: float) -> dict[str, float]:
    known = seconds[np.isfinite(seconds)]
    return {
        **_quantiles(known),
        "over_step": float((known > step_seconds).mean()) if len(known) else math.nan,
    }


def _quantiles(values: FloatArray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return dict.fromkeys(("p50", "p95", "max"), math.nan)
    return {
        "p50": float(np.percentile(known, 50)),
        "p95": float(np.percentile(known, 95)),
        "max": float(known.max()),
    }


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
