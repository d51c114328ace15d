"""From replayed steps and their scores to the records of their pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from vjepa_ac_planner.cli.page import slices
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.preprocess import as_seen
from vjepa_ac_planner.replay import verdict as words
from vjepa_ac_planner.replay.lockstep import Moment
from vjepa_ac_planner.replay.recording import Survey
from vjepa_ac_planner.replay.scores import moving
from vjepa_ac_planner.report.records import Image, Landscape
from vjepa_ac_planner.report.replay_records import FilmFrame, ScoreRow, Verdict, View
from vjepa_ac_planner.types import Frame

FRAMES = 24
"""Most pictures of the film strip."""
WIDTH = 480
"""Of a picture on the page, at most [pixels]."""


class Film:
    """Collects pictures and energy landscapes while a recording is replayed.

    Args:
        planner: makes the plans.
        found: the recording's survey, from which the moments are chosen.
        landscapes: numbers of the steps to slice the energy at; None chooses two in motion.
    """

    def __init__(self, planner: Planner, found: Survey, landscapes: Iterable[int] | None = None) -> None:
        self._planner, self._found = planner, found
        count = len(found)
        self._shown = set(np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round()).astype(int))
        self._sliced = set(_in_motion(found) if landscapes is None else landscapes)
        self.frames: list[FilmFrame] = []
        self.start: Frame | None = None
        """The first frame."""
        self._goal = 0
        self._seconds: dict[str, list[float]] = {}
        self.landscapes: list[Landscape] = []

    def on_moment(self, moment: Moment) -> None:
        """Keep what is needed of one sample."""
        self._goal = self._goal if moment.goal is None else moment.goal
        self.start = self.start or moment.sample.observation.frame
        for stage, seconds in ({} if moment.plan is None else moment.plan.timings).items():
            self._seconds.setdefault(stage, []).append(seconds)
        if moment.sample.index in self._shown:
            self.frames.append(self._frame(moment))
        if moment.sample.index in self._sliced and moment.plan is not None:
            assert moment.energy is not None
            recorded = np.zeros(7) if moment.recorded is None else moment.recorded
            where = f"Step {moment.sample.index}"
            self.landscapes += slices(self._planner, moment.energy, moment.plan, recorded, where)

    @property
    def timings(self) -> dict[str, tuple[float, float]]:
        """Stage -> (median, 95th percentile) per plan [s]."""
        return {
            stage: (float(np.median(seconds)), float(np.percentile(seconds, 95)))
            for stage, seconds in self._seconds.items()
        }

    def view(self, frame: Frame, name: str) -> View:
        """A frame for people and as the model receives it: preprocessed, the normalisation taken back."""
        size = self._planner.world_model.description.image_size
        return View(name, shrunk(frame.image), as_seen(frame, size))

    def _frame(self, moment: Moment) -> FilmFrame:
        row, plan = moment.row, moment.plan
        numbers = []
        if "distance" in row:
            numbers.append(("distance to the goal", f"{100 * row['distance']:.1f} cm"))
        for name, column in (
            ("energy now", "energy"),
            ("energy of the plan", "energy_planned"),
            ("energy of the recorded action", "energy_recorded"),
            ("energy of standing still", "energy_zero"),
        ):
            if column in row:
                numbers.append((name, f"{row[column]:.4f}"))
        for name, action in (
            ("planned", None if plan is None else plan.action),
            ("recorded", moment.recorded),
        ):
            if action is not None:
                numbers.append(
                    (f"{name} dx, dy, dz", ", ".join(f"{100 * v:+.1f}" for v in action[:3]) + " cm")
                )
        if moment.verdict is not None:
            command = moment.verdict.command
            numbers.append(
                ("safety layer", command.kind + (f": {command.reason}" if command.reason else ""))
            )
        return FilmFrame(
            step=moment.sample.index,
            seconds=moment.sample.time - self._found.start,
            image=shrunk(moment.sample.observation.frame.image),
            numbers=tuple(numbers),
            recorded=moment.recorded,
            planned=None if plan is None else plan.action,
            goal=self._goal,
        )


def shrunk(image: Image) -> Image:
    """A picture no wider than :data:`WIDTH`."""
    height, width = image.shape[:2]
    if width <= WIDTH:
        return image
    size = (WIDTH, max(1, round(height * WIDTH / width)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def verdict_record(
    scores: Mapping[str, Any],
    notes: tuple[str, ...] = (),
    asked: int = 0,
    missed: tuple[str, ...] = (),
) -> Verdict:
    """The result in words and as a table."""
    judged = words.judge(scores)
    signs, cosine = scores["sign_agreement"], scores["cosine_mean"]
    ranks, surprise = scores["energy_rank_correlation"], scores["surprise"]
    tiles = (
        (_percent(signs["value"]), "", f"of motions in the same direction ({signs['n']} compared)"),
        (_number(cosine["value"]), "", "mean cosine of the translations"),
        (_number(ranks["value"]), "", "rank correlation of energy and distance"),
        (_percent(surprise["ratio"]), "", "error of the predicted next frame, of no change"),
    )
    return Verdict(
        level=judged.level,
        headline=judged.headline,
        sentences=judged.sentences,
        caveat=words.OPEN_LOOP,
        tiles=tiles,
        scores=_rows(scores),
        notes=(_axes_note(scores), *notes),
        asked=asked,
        missed=missed,
    )


_ACTORS = {"zero": "standing still", "random": "random action", "previous": "copy of the action before"}


def _rows(scores: Mapping[str, Any]) -> tuple[ScoreRow, ...]:
    signs, cosine, grip = scores["sign_agreement"], scores["cosine_mean"], scores["gripper_f1"]
    ranks, surprise, energy = (
        scores["energy_rank_correlation"],
        scores["surprise"],
        scores["energy"],
    )
    errors = scores["errors"]
    rows = [
        ScoreRow(
            "Sign agreement",
            _percent(signs["value"]),
            _interval(signs, _percent),
            _baselines(signs, _percent, _ACTORS),
            "Share of recorded motions (beyond the dead zone, axis by axis) whose direction the plan "
            "shares. Chance is 50 %. The copy has seen what the robot does; it knows no goal.",
        ),
        ScoreRow(
            "Cosine, mean",
            _number(cosine["value"]),
            _interval(cosine, _number),
            _baselines(cosine, _number, _ACTORS),
            "Between planned and recorded translation; 1 is the same direction, 0 none. Lengths do not "
            "count.",
        ),
        ScoreRow(
            "Translation error, mean",
            f"{_number(errors['planned']['translation_cm'], 1)} cm",
            "",
            tuple(
                (_ACTORS[name], f"{_number(values['translation_cm'], 1)} cm")
                for name, values in errors["baselines"].items()
            ),
            "Length of planned minus recorded, per step. It also counts another pace, which is no mistake: "
            f"plans are {_number(errors['length_ratio_median'])} times as long as the recorded steps "
            "(median).",
        ),
    ]
    if "rotation_deg" in errors["planned"]:
        rows.append(
            ScoreRow(
                "Rotation error, mean",
                f"{_number(errors['planned']['rotation_deg'], 1)}°",
                "",
                tuple(
                    (_ACTORS[name], f"{_number(values['rotation_deg'], 1)}°")
                    for name, values in errors["baselines"].items()
                ),
                "Angle between planned and recorded rotation, per step.",
            )
        )
    if grip["baselines"]:
        rows.append(
            ScoreRow(
                "Gripper F1",
                _number(grip["value"]),
                f"{grip['n']} events",
                _baselines(grip, _number, _ACTORS),
                "Closing and opening at the same steps as the recording.",
            )
        )
    rows += [
        ScoreRow(
            "Energy rank correlation",
            _number(ranks["value"]),
            _interval(ranks, _number),
            _baselines(
                ranks, _number, {"pixels": "pixel difference", "time_left": "time left", "random": "random"}
            ),
            "Spearman, energy against the true distance of the hand on the way to the goal. The time left "
            "shows how much of it a mere countdown would get.",
        ),
        ScoreRow(
            "Recorded action ranked",
            _percent(energy["recorded_below_random"]["value"]),
            _interval(energy["recorded_below_random"], _percent),
            (
                ("better than standing still", _percent(energy["recorded_below_zero"]["value"])),
                ("chance", _percent(0.5)),
            ),
            "Share of random actions that the world model rates below what the robot did.",
        ),
        ScoreRow(
            "Surprise",
            _number(surprise["value"], 4),
            _interval(surprise, lambda v: _number(v, 4)),
            _baselines(
                surprise,
                lambda v: _number(v, 4),
                {
                    "copy": "no change",
                    "shuffled": "another step's action",
                    "zero": "standing still",
                },
            ),
            "Error of the predicted next latent, told what the robot did. It should be well below that of "
            "expecting no change, and below that of being told the wrong action.",
        ),
        ScoreRow(
            "Refused by the safety layer",
            _percent(scores["refusals"]["share"]),
            f"{scores['refusals']['steps']} of {scores['refusals']['of']}",
            (),
            f"Plans that would not have been carried out. {scores['refusals']['limited']} more would have "
            f"been shortened; {scores['refusals']['standing_still']} stand still because nothing looks "
            "better.",
        ),
        ScoreRow(
            "Time per plan",
            f"{1000 * scores['latency']['p50']:.0f} ms" if _is(scores["latency"]["p50"]) else "–",
            f"p95 {1000 * scores['latency']['p95']:.0f} ms" if _is(scores["latency"]["p95"]) else "",
            (),
            f"On this machine; {_percent(scores['latency']['over_step'])} of the plans took longer than a "
            "step.",
        ),
    ]
    return tuple(rows)


def _axes_note(scores: Mapping[str, Any]) -> str:
    """What the preset cannot move is not scored, and that is said."""
    left = scores["errors"]["recorded_where_not_searched"]
    zone = "Dead zone: recorded changes below 5 mm, 1 degree or 0.1 of the gripper's way are not compared."
    if not left:
        return f"All axes are searched and scored. {zone}"
    means = ", ".join(f"{name} {_number(value)}" for name, value in left.items())
    return (
        f"The preset searches {', '.join(scores['axes'])} only, and only these are scored; what the robot "
        f"did on the others, on average per step: {means}. {zone}"
    )


def bag_cells(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """One recording's line in the table of several; see :data:`BAG_COLUMNS`."""
    return (
        _percent(scores["sign_agreement"]["value"]),
        _number(scores["cosine_mean"]["value"]),
        _number(scores["energy_rank_correlation"]["value"]),
        _percent(scores["surprise"]["ratio"]),
        _percent(scores["refusals"]["share"]),
        str(scores["steps"]),
        str(scores["compared"]),
        f"{1000 * scores['latency']['p50']:.0f}" if _is(scores["latency"]["p50"]) else "–",
    )


BAG_COLUMNS = (
    "signs", "cosine", "energy rank", "surprise", "refused", "steps", "compared", "plan p50 [ms]",
)  # fmt: skip


def _in_motion(found: Survey) -> list[int]:
    """Two steps with motion, early and late."""
    actions = found.actions()
    movers = np.flatnonzero(np.isfinite(actions).all(1) & moving(np.nan_to_num(actions)))
    return (
        []
        if not len(movers)
        else sorted({int(movers[len(movers) // 6]), int(movers[2 * len(movers) // 3])})
    )


def _baselines(
    score: Mapping[str, Any], text: Any, names: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    return tuple((label, text(score["baselines"][name])) for name, label in names.items())


def _interval(score: Mapping[str, Any], text: Any) -> str:
    low, high = score["ci95"]
    return f"{text(low)} … {text(high)}" if _is(low) and _is(high) else ""


def _is(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def _percent(value: float | None) -> str:
    return f"{100 * value:.0f} %" if value is not None and math.isfinite(value) else "–"
