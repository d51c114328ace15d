"""Replay of one recording into one folder: all outputs or none, and nothing done twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vjepa_ac_planner import __version__
from vjepa_ac_planner.bags.reader import Bag, ResampleRules, TopicNames
from vjepa_ac_planner.cli.console import write_json
from vjepa_ac_planner.cli.page import versions
from vjepa_ac_planner.cli.replay_page import Film, verdict_record
from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import InputError, PlannerError, counted
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.proposals import ActionSpace
from vjepa_ac_planner.preprocess import read_image
from vjepa_ac_planner.replay.annotate import AnnotatedBag
from vjepa_ac_planner.replay.goals import GoalSpec, find_goals
from vjepa_ac_planner.replay.identical import Identical, check_identical
from vjepa_ac_planner.replay.lockstep import Lockstep, Moment, Replay
from vjepa_ac_planner.replay.recording import Survey, survey
from vjepa_ac_planner.replay.scores import Replayed, score
from vjepa_ac_planner.replay.table import StepTable
from vjepa_ac_planner.replay.verdict import Thresholds, judge
from vjepa_ac_planner.report.replay_html import render_replay
from vjepa_ac_planner.report.replay_records import ReplayPage

OUTPUTS = ("report.html", "steps.csv", "annotated.mcap", "scores.json")
"""What a replay writes; ``scores.json`` last, so that it stands for a finished one."""
_BOX_MARGIN = 0.05
"""Where no workspace is known: how far around the recorded positions a plan may lead [m]."""


@dataclass(frozen=True)
class Setup:
    """Everything but the recording that decides what comes out."""

    planner: Planner
    model_sha256: str
    preset: str
    goals: tuple[GoalSpec, ...]
    seed: int = 0
    topics: TopicNames = field(default_factory=TopicNames)
    rules: ResampleRules = field(default_factory=ResampleRules)
    safety: SafetyConfig | None = None
    """None takes the model's workspace, or the recorded positions."""
    landscapes: tuple[int, ...] | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    require_identical: bool = False
    command: str = ""
    notes: tuple[str, ...] = ()
    """Assumptions about recordings that are not this package's own."""

    @property
    def step_seconds(self) -> float:
        """Time of one step of the model [s]."""
        return float(self.planner.world_model.description.step_seconds)

    @property
    def searched(self) -> tuple[int, ...]:
        """Axes that the preset searches."""
        return ActionSpace(self.planner.config.search, 1).axes


@dataclass(frozen=True)
class Result:
    """One replayed recording."""

    replayed: Replayed
    scores: dict[str, Any]
    identical: Identical | dict[str, Any] | None
    """As found now, or as plain data where it was found before."""
    kept: bool = False
    """Whether it was there already."""

    @property
    def all_identical(self) -> bool | None:
        """Whether all recorded plans were made again; None where none are recorded."""
        if self.identical is None:
            return None
        if isinstance(self.identical, Identical):
            return self.identical.all_equal
        return bool(self.identical["recorded"]) and self.identical["equal"] == self.identical["recorded"]


def replay_bag(
    path: Path, out: Path, setup: Setup, *, force: bool = False, say: Callable[[str], None] = lambda _: None
) -> Result:
    """Replay one recording into a folder, unless that has been done.

    Args:
        path: the recording.
        out: the folder; made if absent.
        setup: how.
        force: do it even if the folder holds the results of the same inputs.
        say: told about progress.

    Raises:
        BagError: the recording cannot be read.
        InputError: a goal that is not in it, or a folder that cannot be written.
    """
    key = _key(path, setup)
    done = None if force else _finished(out, key, setup)
    if done is not None:
        return done
    with Bag.open(path, setup.topics) as bag, _staged(out) as staging:
        return _replay(bag, path, staging, setup, key, say)


def _replay(
    bag: Bag, path: Path, staging: Path, setup: Setup, key: str, say: Callable[[str], None]
) -> Result:
    if bag.run is not None:  # this package records the model's frame, whatever the robot reports
        setup = replace(setup, rules=replace(setup.rules, offset=None), notes=())
    rules = setup.rules
    found = survey(bag, setup.step_seconds, rules)
    outside = [step for step in setup.landscapes or () if step >= len(found)]
    if outside:
        raise InputError(f"landscape: step {outside[0]} is not in the bag, allowed 0 .. {len(found) - 1}")
    goals = find_goals(bag, found, setup.goals, read_image, setup.step_seconds)
    description = setup.planner.world_model.description
    safety = setup.safety or _safety(description.workspace, found, setup.step_seconds)
    film = Film(setup.planner, found, setup.landscapes)
    say(f"{path.name}: {counted(len(found), 'step')} of {setup.step_seconds:g} s, goal: "
        + ", ".join(goal.goal.name for goal in goals))  # fmt: skip
    progress = _Progress(len(found), say)
    lockstep = Lockstep(setup.planner, SafetyLayer(safety), setup.step_seconds, setup.seed)
    with AnnotatedBag(staging / "annotated.mcap", goals) as annotated:

        def on_moment(moment: Moment) -> None:
            film.on_moment(moment)
            annotated.on_moment(moment)
            progress.step()

        replay = lockstep.run(bag, found, goals, on_moment, rules)
        replayed = Replayed(replay.steps, setup.searched, setup.step_seconds)
        scores = score([replayed])
        annotated.verdict(" ".join((judge(scores).headline + ".", *judge(scores).sentences)))
    identical = check_identical(bag, setup.planner.world_model, setup.model_sha256)
    missed = missed_thresholds(setup, scores, [None if identical is None else identical.all_equal])
    page = _page(bag, path, setup, replay, scores, film, identical, missed)
    (staging / "report.html").write_text(render_replay(page), encoding="utf-8")
    (staging / "steps.csv").write_text(replay.steps.to_csv(), encoding="utf-8")
    record = summary_record(setup, scores) | {
        "bag": str(path),
        "inputs": key,
        "topics": to_mapping(bag.topics),
        "frames": len(found),
        "segments": int(found.segments.max()) + 1,
        "duration_s": float(found.times[-1] - found.times[0]),
        "skipped": dict(found.skipped),
        "goals": [
            {"name": goal.goal.name, "until_s": goal.until - found.start, "state": goal.state}
            for goal in goals
        ],
        "safety": to_mapping(safety),
        "identical": None if identical is None else identical.record(),
        "notes": [*bag.notes, *setup.notes],
        "seconds": replay.seconds,
        "missed_thresholds": missed,
    }
    write_json(staging / "scores.json", record)
    return Result(replayed, scores, identical)


def summary_record(setup: Setup, scores: dict[str, Any]) -> dict[str, Any]:
    """What the JSON of one recording and of several have in common."""
    description = setup.planner.world_model.description
    verdict = judge(scores)
    return {
        "format": 1,
        "verdict": {
            "level": verdict.level,
            "headline": verdict.headline,
            "sentences": list(verdict.sentences),
        },
        **scores,
        "p50_plan_s": scores["latency"]["p50"],
        "p95_plan_s": scores["latency"]["p95"],
        "model": description.name,
        "model_sha256": setup.model_sha256,
        "preset": setup.preset,
        "planner": to_mapping(setup.planner.config),
        "goal": [spec.text for spec in setup.goals],
        "seed": setup.seed,
        "step_seconds": setup.step_seconds,
        "thresholds": to_mapping(setup.thresholds),
        "command": setup.command,
        "versions": versions(setup.planner, rosbags="rosbags"),
    }


def missed_thresholds(
    setup: Setup, scores: dict[str, Any], identical: list[bool | None]
) -> tuple[str, ...]:
    """Thresholds that were missed, in words."""
    missed = setup.thresholds.missed(scores)
    if setup.require_identical and not all(identical):
        recorded = sum(value is not None for value in identical)
        missed += (
            f"--require-identical: {sum(bool(value) for value in identical)} of {len(identical)} "
            f"recordings came out identical, {recorded} have recorded plans",
        )
    return missed


def asked_thresholds(setup: Setup) -> int:
    """How many thresholds were asked for."""
    asked = sum(value is not None for value in vars(setup.thresholds).values())
    return asked + setup.require_identical


def _page(
    bag: Bag,
    path: Path,
    setup: Setup,
    replay: Replay,
    scores: dict[str, Any],
    film: Film,
    identical: Identical | None,
    missed: tuple[str, ...],
) -> ReplayPage:
    description = setup.planner.world_model.description
    names = ("dx", "dy", "dz", "drx", "dry", "drz", "dgrip")
    return ReplayPage(
        bag=path.name,
        model=description.name,
        preset=setup.preset,
        verdict=verdict_record(scores, (*bag.notes, *setup.notes), asked_thresholds(setup), missed),
        start=film.view(film.start or replay.goals[0].goal.frame, "the first frame"),
        goals=tuple(film.view(goal.goal.frame, goal.goal.name) for goal in replay.goals),
        film=tuple(film.frames),
        axes=tuple(names[axis] for axis in setup.searched),
        columns=replay.steps.numbers,
        step_seconds=setup.step_seconds,
        landscapes=tuple(film.landscapes),
        refusals=tuple((name, str(count)) for name, count in scores["refusals"]["by_limit"].items()),
        skipped=tuple((name, str(count)) for name, count in replay.survey.skipped.items()),
        topics=tuple((role, name) for role, name in vars(bag.topics).items() if name),
        identical="" if identical is None else str(identical),
        timings=film.timings,
        limits=description.limits or "",
        command=setup.command,
        versions=versions(setup.planner, rosbags="rosbags"),
    )


def _safety(box: Any, found: Survey, step_seconds: float) -> SafetyConfig:
    """The model's workspace bounds the plans; where it has none, the recorded positions do."""
    if box is None:
        positions = found.states[:, :3]
        low, high = positions.min(0) - _BOX_MARGIN, positions.max(0) + _BOX_MARGIN
        box = tuple(low.tolist()), tuple(high.tolist())
    return SafetyConfig(
        MotionLimits(workspace_low=box[0], workspace_high=box[1], step_seconds=step_seconds)
    )


def _key(path: Path, setup: Setup) -> str:
    """One hash of everything that decides the outcome; files count by name, size and time of change."""
    files = [spec.file for spec in setup.goals if spec.file is not None]
    files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    model = setup.planner.world_model
    inputs = {
        "files": [(str(file), *_stat(file)) for file in files],
        "goals": [spec.text for spec in setup.goals],
        "planner": to_mapping(setup.planner.config),
        "model": setup.model_sha256,
        "device": str(model.device),
        "dtype": str(getattr(model, "dtype", "")),
        "seed": setup.seed,
        "topics": to_mapping(setup.topics),
        "rules": to_mapping(setup.rules),
        "safety": None if setup.safety is None else to_mapping(setup.safety),
        "landscapes": setup.landscapes,
        "thresholds": to_mapping(setup.thresholds),
        "require_identical": setup.require_identical,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns


def _finished(out: Path, key: str, setup: Setup) -> Result | None:
    """The results that are there already, if they are those of the same inputs."""
    if not all((out / name).is_file() for name in OUTPUTS):
        return None
    try:
        record = json.loads((out / "scores.json").read_text(encoding="utf-8"))
        if record.get("inputs") != key:
            return None
        steps = StepTable.from_csv((out / "steps.csv").read_text(encoding="utf-8"))
    except (OSError, ValueError, PlannerError):  # damaged results are made again
        return None
    replayed = Replayed(steps, setup.searched, setup.step_seconds)
    return Result(replayed, score([replayed]), record["identical"], kept=True)


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder to write into; what it holds takes the place of the old files when the block succeeds.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=out, prefix=".replay-"))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        yield staging
        for name in OUTPUTS:
            (staging / name).replace(out / name)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); what was there before is kept"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Progress:
    """Says how far a long replay is, every few seconds."""

    def __init__(self, total: int, say: Callable[[str], None], every_s: float = 10.0) -> None:
        self._total, self._say, self._every = total, say, every_s
        self._done, self._begin = 0, time.monotonic()
        self._last = self._begin

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._last >= self._every and self._done < self._total:
            self._last = now
            left = (now - self._begin) / self._done * (self._total - self._done)
            self._say(f"  step {self._done} of {self._total}, about {np.ceil(left):.0f} s to go")
