"""``vjepa-ac replay``: what the planner would have done at every moment of a recording."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vjepa_ac_planner.cli.arguments import (
    DEFAULT_MODEL,
    add_model,
    add_preset,
    at_least,
    command,
    output_folder,
)
from vjepa_ac_planner.cli.console import complain, replacing, say, styled, write_json
from vjepa_ac_planner.errors import InputError, PlannerError

if TYPE_CHECKING:
    from vjepa_ac_planner.bags.reader import ResampleRules
    from vjepa_ac_planner.cli.replay_run import Result, Setup
    from vjepa_ac_planner.control.safety import SafetyConfig

DETAILS = """\
A BAG is a rosbag2 folder, an .mcap or .db3 file, or a folder of such; no ROS installation is needed. The
planner is asked at every step of the recording; what it answers is compared with what the robot did.
DIR receives report.html, scores.json, steps.csv and annotated.mcap (for Foxglove); of several bags each
has its own folder in DIR, and DIR a page, scores and steps over all. A bag that is done already, with the
same inputs, is not done again.

--goal is the last frame unless given: last, a time in seconds from the first step (12.5 or 12s), the
number of a step (40), or an image file. Given several times, each is a sub-goal until its time has come; an
image file then needs one: cup.png@12.5.

A replay is open loop: it can show disagreement, a camera that is foreign to the model, and refusals of the
safety layer. It cannot show that the task would have been completed.

exit codes: 0 done, 1 a threshold was missed, 2 bad input (a bag that cannot be read), 3 this machine lacks
something.

examples:
  vjepa-ac replay run.mcap --out replay
  vjepa-ac replay recordings/ --out replay --min-sign-agreement 0.7 --max-surprise-ratio 0.8
  vjepa-ac replay pick.mcap --goal 4.5 --goal 12s --goal last --robot panda
"""


def add_parser(commands: Any) -> None:
    """Add ``replay``."""
    parser = command(
        commands, "replay", run, "compare the planner with recorded bags, and write a report", DETAILS
    )
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="recordings, or folders of them")
    parser.add_argument(
        "--out", type=output_folder, default="replay-report", metavar="DIR", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--goal", action="append", metavar="GOAL", help="what to plan for; may be repeated (default: last)"
    )
    add_model(parser)
    add_preset(parser)
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the search (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="also replay bags that are done already")
    _add_recording(parser.add_argument_group("the recording"))
    _add_thresholds(parser.add_argument_group("thresholds (exit code 1 if one is missed)"))


def _add_recording(group: Any) -> None:
    for role in ("image", "pose", "gripper"):
        group.add_argument(
            f"--{role}-topic", metavar="TOPIC", help=f"{role} topic (default: found by type)"
        )
    group.add_argument(
        "--pose-frame",
        choices=("link8", "hand_tcp"),
        help="which frame's pose was recorded (default: link8, or that of --robot)",
    )
    group.add_argument(
        "--robot",
        metavar="NAME",
        help="profile whose limits and frames hold, such as panda (config/robots)",
    )
    group.add_argument(
        "--clock",
        choices=("header", "receive"),
        default="header",
        help="stamps of the headers, or when messages were recorded (default: %(default)s)",
    )
    group.add_argument(
        "--max-skew",
        type=float,
        default=0.05,
        metavar="S",
        help="how far a pose may be from its frame [s] (default: %(default)s)",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="how far a frame may be from its place, as a share of the step (default: %(default)s)",
    )
    group.add_argument(
        "--landscape",
        type=at_least(0),
        action="append",
        metavar="STEP",
        help="slice the energy at this step; may be repeated (default: two in motion)",
    )
    group.add_argument(
        "--no-landscape", action="store_true", help="slice the energy nowhere, which is faster"
    )


THRESHOLDS = {
    "min_sign_agreement": "least share of directions that agree",
    "min_cosine": "least mean cosine of the translations",
    "min_energy_rank_correlation": "least rank correlation of energy and distance",
    "max_surprise_ratio": "largest prediction error, as a share of that of no change",
    "max_refusals": "largest share of plans that the safety layer refuses",
    "max_p95_plan_s": "largest 95th percentile of the plan time [s]",
    "min_steps": "fewest steps that can be compared",
}


def _add_thresholds(group: Any) -> None:
    for name, text in THRESHOLDS.items():
        kind = int if name == "min_steps" else float
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=text)
    group.add_argument(
        "--require-identical",
        action="store_true",
        help="plans that the bag has recorded must come out again bit for bit",
    )


def run(args: argparse.Namespace) -> int:
    """Replay every bag, write what came out, and say whether it is good enough."""
    bags, several = find_bags(args.bags)
    setup = _setup(args)
    say(f"model {setup.planner.world_model.description.name} on {setup.planner.world_model.device}, "
        f"preset {setup.preset}, {len(bags)} bag{'s' * (len(bags) != 1)}")  # fmt: skip
    from vjepa_ac_planner.cli.replay_run import missed_thresholds, replay_bag

    results: dict[Path, Result] = {}
    errors: dict[Path, str] = {}
    folders = _folders(bags, args.out) if several else {bags[0]: args.out}
    for bag in bags:
        try:
            results[bag] = replay_bag(bag, folders[bag], setup, force=args.force, say=say)
        except PlannerError as error:
            if not several or error.exit_code == 3:
                raise
            errors[bag] = " ".join(str(error).split())
            complain(f"{bag}: {errors[bag]}")
            continue
        say(_line(results[bag]))
    if not results:
        raise InputError(f"none of the {len(bags)} bags could be replayed; the first: {errors[bags[0]]}")
    scores = _over_all(results, errors, folders, setup, args.out) if several else results[bags[0]].scores
    missed = missed_thresholds(setup, scores, [result.all_identical for result in results.values()])
    say()
    for text in missed:
        complain(f"vjepa-ac: threshold missed: {text}")
    say(f"The report: {styled(str(args.out / 'report.html'), 'bold')}")
    if errors:
        complain(f"vjepa-ac: {len(errors)} of {len(bags)} bags could not be replayed")
        return 2
    return 1 if missed else 0


def find_bags(paths: Sequence[Path]) -> tuple[list[Path], bool]:
    """The recordings that some paths stand for, and whether they are several or a folder of them.

    A folder with ``metadata.yaml`` is one recording; any other is searched for recordings, without hidden
    files and without what a replay has written.

    Raises:
        InputError: a path that is not there, or a folder without recordings.
    """
    found: list[Path] = []
    folder = False
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            inside = _inside(path)
            if not inside:
                raise InputError(f"{path}: holds no recording (a folder with metadata.yaml, .mcap or .db3)")
            found += inside
            folder = True
        else:
            found.append(path)
    unique = list(dict.fromkeys(found))
    return unique, folder or len(unique) > 1


def _inside(folder: Path) -> list[Path]:
    bags: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            bags += [path] if (path / "metadata.yaml").is_file() else _inside(path)
        else:
            name = path.name.removesuffix(".zstd").removesuffix(".zst")
            written = path.name == "annotated.mcap" and path.with_name("scores.json").is_file()
            if name.endswith((".mcap", ".db3")) and not written:
                bags.append(path)
    return bags


def _folders(bags: Sequence[Path], out: Path) -> dict[Path, Path]:
    """A folder of its own for each bag, named after it."""
    folders: dict[Path, Path] = {}
    for bag in bags:
        stem = bag.name if bag.is_dir() else bag.name.split(".")[0]
        name, number = stem, 1
        while out / name in folders.values():
            number += 1
            name = f"{stem}-{number}"
        folders[bag] = out / name
    return folders


def _setup(args: argparse.Namespace) -> Setup:
    from vjepa_ac_planner.bags.reader import TopicNames
    from vjepa_ac_planner.bags.records import sha256
    from vjepa_ac_planner.cli.replay_run import Setup
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.replay.goals import parse_goal
    from vjepa_ac_planner.replay.verdict import Thresholds
    from vjepa_ac_planner.world_model import WorldModel

    thresholds = Thresholds(**{name: getattr(args, name) for name in THRESHOLDS})
    goals = tuple(parse_goal(text) for text in args.goal or ["last"])
    weights = find_model(args.model).require_weights()
    model = WorldModel.load(args.model, device=args.device, dtype=args.dtype)
    preset = args.preset or model.description.preset
    rules, safety, notes = _robot(args, model.description.step_seconds)
    return Setup(
        planner=Planner(model, PlannerConfig.preset(preset)),
        model_sha256=sha256(weights),
        preset=preset,
        goals=goals,
        seed=args.seed,
        topics=TopicNames(args.image_topic, args.pose_topic, args.gripper_topic),
        rules=rules,
        safety=safety,
        landscapes=() if args.no_landscape else args.landscape and tuple(args.landscape),
        thresholds=thresholds,
        require_identical=args.require_identical,
        command=_command(args),
        notes=notes,
    )


def _robot(
    args: argparse.Namespace, step_seconds: float
) -> tuple[ResampleRules, SafetyConfig | None, tuple[str, ...]]:
    """How the recorded pose relates to the model's frame, and what the safety layer allows."""
    from dataclasses import replace

    import numpy as np

    from vjepa_ac_planner.bags.poses import HAND_TCP_TO_LINK8, Offset, matrix_to_quaternion
    from vjepa_ac_planner.bags.reader import ResampleRules

    offset: Offset | None = HAND_TCP_TO_LINK8 if args.pose_frame == "hand_tcp" else None
    safety = None
    notes: tuple[str, ...] = ()
    if args.robot:
        from vjepa_ac_planner.ros.profile import load_profile

        profile = load_profile(args.robot)
        limits = replace(profile.safety.limits, step_seconds=step_seconds)
        safety = replace(profile.safety, limits=limits, dry_run=False)
        if args.pose_frame is None:
            matrix = np.asarray(np.linalg.inv(profile.chain().state_in_model), np.float64)
            x, y, z = matrix[:3, 3].tolist()
            offset = (x, y, z, *matrix_to_quaternion(matrix[:3, :3]).tolist())
    elif args.pose_frame is None:
        notes = (
            "The recorded pose is taken for that of link8, as in this package's own recordings. A Franka "
            "reports the hand's TCP unless told otherwise: replay such a bag with --pose-frame hand_tcp "
            "or --robot panda.",
        )
    return ResampleRules(args.clock, args.tolerance, args.max_skew, offset=offset), safety, notes


def _over_all(
    results: dict[Path, Result],
    errors: dict[Path, str],
    folders: dict[Path, Path],
    setup: Setup,
    out: Path,
) -> dict[str, Any]:
    """Write the page, the scores and the steps over several bags; returns the scores."""
    from vjepa_ac_planner.cli.page import versions
    from vjepa_ac_planner.cli.replay_page import BAG_COLUMNS, bag_cells, verdict_record
    from vjepa_ac_planner.cli.replay_run import asked_thresholds, missed_thresholds, summary_record
    from vjepa_ac_planner.replay.scores import score
    from vjepa_ac_planner.replay.verdict import judge
    from vjepa_ac_planner.report.replay_html import render_summary
    from vjepa_ac_planner.report.replay_records import BagRow, SummaryPage

    scores = score([result.replayed for result in results.values()])
    missed = missed_thresholds(setup, scores, [result.all_identical for result in results.values()])
    foreign = any(result.identical is None for result in results.values())
    notes = setup.notes if foreign else ()
    rows = []
    for bag, folder in folders.items():
        if bag in errors:
            rows.append(BagRow(bag.name, "", "failed", (), errors[bag]))
            continue
        found = results[bag].scores
        link = quote(f"{folder.relative_to(out).as_posix()}/report.html")
        rows.append(BagRow(folder.name, link, judge(found).level, bag_cells(found)))
    page = SummaryPage(
        model=setup.planner.world_model.description.name,
        preset=setup.preset,
        verdict=verdict_record(scores, notes, asked_thresholds(setup), missed),
        columns=BAG_COLUMNS,
        bags=tuple(rows),
        command=setup.command,
        versions=versions(setup.planner, rosbags="rosbags"),
    )
    with replacing(out / "report.html") as temporary:
        temporary.write_text(render_summary(page), encoding="utf-8")
    with replacing(out / "steps.csv") as temporary:
        temporary.write_text(_all_steps(results, folders), encoding="utf-8")
    bags = [
        {"bag": str(bag), "folder": folders[bag].name, "error": errors.get(bag)}
        | ({} if bag in errors else {name: results[bag].scores[name] for name in _PER_BAG})
        for bag in folders
    ]
    record = summary_record(setup, scores) | {
        "bags": bags,
        "frames": scores["steps"],
        "missed_thresholds": missed,
    }
    write_json(out / "scores.json", record)
    return scores


_PER_BAG = ("sign_agreement", "cosine_mean", "energy_rank_correlation", "surprise", "steps", "compared")


def _all_steps(results: dict[Path, Result], folders: dict[Path, Path]) -> str:
    """The steps of all bags, with the bag's name in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, (bag, result) in enumerate(results.items()):
        header, *rows = result.replayed.steps.cells()
        if number == 0:
            writer.writerow(("bag", *header))
        writer.writerows((folders[bag].name, *row) for row in rows)
    return out.getvalue()


def _line(result: Result) -> str:
    from vjepa_ac_planner.replay.verdict import judge

    verdict = judge(result.scores)
    style = {"good": "green", "bad": "red"}.get(verdict.level, "yellow")
    signs, cosine = result.scores["sign_agreement"], result.scores["cosine_mean"]
    ranks = result.scores["energy_rank_correlation"]
    numbers = (
        f"signs {signs['value']:.2f} of {signs['n']} (random {signs['baselines'].get('random', 0):.2f}), "
        f"cosine {cosine['value']:.2f}, energy rank {ranks['value']:.2f}, "
        f"surprise {result.scores['surprise']['ratio']:.2f} of no change"
    )
    kept = " (done before)" if result.kept else ""
    lines = [f"  {styled(verdict.headline, style)}{kept}", f"  {numbers}"]
    if result.identical is not None and not result.kept:
        lines.append(f"  {result.identical}")
    return "\n".join(lines)


def _command(args: argparse.Namespace) -> str:
    """What to type to get this again."""
    parts = [
        "vjepa-ac replay",
        *(shlex.quote(str(bag)) for bag in args.bags),
        f"--out {shlex.quote(str(args.out))}",
    ]
    parts += [f"--goal {shlex.quote(goal)}" for goal in args.goal or []]
    if args.model != DEFAULT_MODEL:
        parts.append(f"--model {shlex.quote(args.model)}")
    names = ("preset", "image_topic", "pose_topic", "gripper_topic", "pose_frame", "robot", *THRESHOLDS)
    parts += [
        f"--{name.replace('_', '-')} {getattr(args, name)}"
        for name in names
        if getattr(args, name) is not None
    ]
    defaults = {
        "seed": 0,
        "clock": "header",
        "max_skew": 0.05,
        "tolerance": 0.25,
        "device": "auto",
        "dtype": "auto",
    }
    parts += [
        f"--{name.replace('_', '-')} {getattr(args, name)}"
        for name, default in defaults.items()
        if getattr(args, name) != default
    ]
    parts += [f"--landscape {step}" for step in args.landscape or []]
    flags = ("no_landscape", "require_identical")
    parts += [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]
    return " ".join(parts)
