"""``vjepa-ac train import``: recordings of any kind into the training format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import DEFAULT_MODEL, add_json, at_least, command, output_folder
from vjepa_ac_planner.cli.bag import add_reading, reading
from vjepa_ac_planner.cli.console import complain, say, write_json
from vjepa_ac_planner.errors import InputError, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.training.sources import Reading, Recording

KINDS = ("bags", "droid", "lerobot", "play")

DETAILS = """\
SOURCE is a recording (rosbag2 folder, .mcap or .db3), a folder of recordings, a folder of raw DROID
episodes, a LeRobot data set, or play data of the simulator; which one is found by looking. Frames are
sampled at the model's pace and stored at its size. What cannot be read is skipped, counted and reported;
what was imported before is left alone, so an import that was stopped can go on; a recording that broke
off is read again. DIR/import.json says what became of each recording. Exit code 2: nothing usable.

examples:
  vjepa-ac train import recordings/ --out my-data --model vjepa2-ac-vitg --pose-frame hand_tcp
  vjepa-ac train import droid_raw/1.0.1/AUTOLab --out my-data --model vjepa2-ac-vitg
  vjepa-ac train import droid_raw/1.0.1/AUTOLab --out droid-1s --model vitg-1s.yaml --step 1 --stride 15
  vjepa-ac train import runs/play --out my-data --model panda-sim
"""


def add_parser(train: Any) -> None:
    """Add ``import``."""
    parser = command(train, "import", run, "make training data of recordings", DETAILS)
    parser.add_argument("source", metavar="SOURCE", nargs="+", type=Path, help="see below")
    parser.add_argument(
        "--out", metavar="DIR", type=output_folder, required=True, help="folder of the training data"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="what it is for: gives size and pace of the frames (default: %(default)s)",
    )
    parser.add_argument("--kind", choices=KINDS, help="what SOURCE is (default: found by looking)")
    add_reading(parser)
    parser.add_argument(
        "--pairing",
        choices=("index", "time"),
        default="index",
        help="DROID: frame and state of one step belong together, as the model was trained, or by time of "
        "exposure, as on a robot and in the bags of `vjepa-ac bag convert` (default: %(default)s)",
    )
    parser.add_argument(
        "--stride",
        type=at_least(1),
        metavar="N",
        help="DROID: take every Nth frame, as counted; the published loader takes every 15th, about 1 s "
        "apart (default: by time, a step of the model apart)",
    )
    parser.add_argument("--camera", metavar="NAME", help="DROID: serial number; LeRobot: feature")
    parser.add_argument("--pose-feature", metavar="FEATURE", help="LeRobot: vector with the pose")
    parser.add_argument("--gripper-feature", metavar="FEATURE", help="LeRobot: vector with the gripper")
    parser.add_argument(
        "--gripper-means",
        choices=("closedness", "openness", "width"),
        default="closedness",
        help="LeRobot: what the gripper's number says (default: %(default)s)",
    )
    add_json(parser, "what became of each recording")


def run(args: argparse.Namespace) -> int:
    """Import, and say what became of it."""
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.training.importing import Report, finish, import_recordings
    from vjepa_ac_planner.training.sources import Reading

    description = find_model(args.model).description
    if args.step != description.step_seconds:
        raise InputError(
            f"--step: received {args.step} s, model {description.name!r} takes {description.step_seconds} s"
        )
    topics, rules = reading(args)
    stride = 1 if args.stride is None else _stride(args, description)
    how = Reading(description.image_size, args.step, topics, rules, args.pairing, args.camera, stride)
    report = Report()
    for result in import_recordings(_recordings(args, how), args.out, args.step, report):
        if result.existed:
            say(f"{result.recording}: was imported before, left alone")
        else:
            frames = counted(result.frames, "frame")
            say(f"{result.recording}: {counted(result.episodes, 'episode')}, {frames}")
        if result.problem:
            rest = " the rest" if result.existed or result.frames else ""
            complain(f"vjepa-ac: skipped{rest}: {result.problem}")
    for reason, count in sorted(report.skipped.items()):
        say(f"skipped {count} x {reason}")
    hours = report.frames * args.step / 3600
    say(
        f"{report.usable} of {counted(len(report.recordings), 'recording')} usable, "
        f"{len(report.problems)} with problems; {counted(report.frames, 'new frame')} ({hours:.2f} h) "
        f"in {args.out}"
    )
    if args.json:
        write_json(args.json, report.plain())
    finish(report, args.out)
    return 0


def _stride(args: argparse.Namespace, description: ModelDescription) -> int:
    """The stride asked for, if steps so long are the model's."""
    from vjepa_ac_planner.bags.convert_droid import RATE_HZ

    stride, seconds = int(args.stride), args.stride / RATE_HZ
    if abs(seconds - args.step) > args.tolerance * args.step:
        raise InputError(
            f"--stride: received {stride}, which are steps of {seconds:.2g} s in DROID (about {RATE_HZ:g} "
            f"frames a second), and a step of model {description.name!r} is {args.step:g} s; allowed "
            f"{max(1, round(args.step * RATE_HZ))}, or a --model whose description says step_seconds: "
            f"{seconds:.2g}, with --step {seconds:.2g} (see docs/fine-tune.md, How long is a step?)"
        )
    return stride


def _recordings(args: argparse.Namespace, how: Reading) -> Iterator[Recording]:
    from vjepa_ac_planner.bags.convert_lerobot import LeRobotNames
    from vjepa_ac_planner.cli.replay import find_bags
    from vjepa_ac_planner.training import sources

    work = args.out / ".bags"
    for source in args.source:
        found = sources.source_kind(source)
        kind = args.kind or found
        if kind == "bags":
            yield from sources.from_bags(find_bags([source])[0], how)
        elif kind == "play":
            yield from sources.from_play(source, how)
        elif kind == "droid":
            yield from sources.from_droid(source, how, work)
        else:
            names = LeRobotNames(args.camera, args.pose_feature, args.gripper_feature, args.gripper_means)
            yield from sources.from_lerobot(source, how, work, names)
