"""``vjepa-ac bag``: what is in a recording, bags from public data, and how fast they are read."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import add_json, command, group, output_folder
from vjepa_ac_planner.cli.console import complain, say, table, write_json
from vjepa_ac_planner.errors import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vjepa_ac_planner.bags.convert import Converted
    from vjepa_ac_planner.bags.reader import ResampleRules, TopicNames

STEP_SECONDS = 0.25
POSE_FRAMES = ("link8", "hand_tcp")

INFO = """\
BAG is a rosbag2 folder, an .mcap or .db3 file, plain or compressed, or several that follow one another.
Frames are decoded only where a sample is taken. Topics that are not named are found by type. Exit code 1:
it can be read, but not one sample comes of it.

examples:
  vjepa-ac bag info recording/
  vjepa-ac bag info run_0.mcap run_1.mcap --image-topic /left/color/image_raw --pose-frame hand_tcp
"""

DROID = """\
SRC is the folder of an episode (trajectory.h5 and recordings/MP4) or any folder above several. Poses are of
panda_link8, which is what V-JEPA 2-AC takes. Bags that exist are left alone, so a run that was stopped can
go on. Exit code 1: an episode could not be converted.

example:
  vjepa-ac bag convert droid droid_raw/1.0.1/AUTOLab/success --out bags/
"""

LEROBOT = """\
SRC is the folder of a data set on this disk, with meta/info.json in it: v2.0, v2.1 or v3.0. Bags that exist
are left alone, so a run that was stopped can go on. Exit code 1: an episode could not be converted.

example:
  vjepa-ac bag convert lerobot droid_1.0.1/ --out bags/ --camera observation.images.exterior_1_left \\
      --episodes 0:20
"""


def add_parser(commands: Any) -> None:
    """Add ``bag`` and what belongs to it."""
    bag = group(commands, "bag", "look into recordings, and make bags of public data")
    info = command(bag, "info", run_info, "say what is in a recording and how well it fits together", INFO)
    info.add_argument("bag", metavar="BAG", nargs="+", type=Path, help="folder or file")
    add_reading(info)
    add_json(info, "everything")
    convert = group(bag, "convert", "make bags of public data, one per episode")
    droid = command(convert, "droid", run_droid, "convert raw DROID episodes (HDF5 and MP4)", DROID)
    droid.add_argument("--camera", metavar="SERIAL", help="camera (default: the one on the robot's left)")
    droid.add_argument(
        "--pairing",
        choices=("time", "index"),
        default="time",
        help="stamp frames with their exposure, as on a robot, or with the step they belong to, as "
        "the model was trained and as `vjepa-ac train import` does (default: %(default)s, for replays)",
    )
    lerobot = command(
        convert, "lerobot", run_lerobot, "convert a LeRobot data set (parquet and MP4)", LEROBOT
    )
    lerobot.add_argument("--camera", metavar="FEATURE", help="images or video to take")
    lerobot.add_argument("--pose-feature", metavar="FEATURE", help="vector with the pose")
    lerobot.add_argument("--gripper-feature", metavar="FEATURE", help="vector with the gripper")
    lerobot.add_argument(
        "--gripper-means",
        choices=("closedness", "openness", "width"),
        default="closedness",
        help="what the gripper's number says; width in metres (default: %(default)s)",
    )
    lerobot.add_argument(
        "--episodes", metavar="A:B", type=_span, help="episodes A to B-1 only (default: all)"
    )
    for parser in (droid, lerobot):
        parser.add_argument("source", metavar="SRC", type=Path, help="folder")
        parser.add_argument(
            "--out", metavar="DIR", type=output_folder, required=True, help="folder for the bags"
        )
        add_json(parser, "what became of each episode")
    bench = command(bag, "bench", run_bench, "time this reader beside others on one recording")
    bench.add_argument("bag", metavar="BAG", type=Path, help="folder or file")
    add_reading(bench)
    add_json(bench, "the rates")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Options that say how a recording is read."""
    for role, what in (
        ("image", "camera"),
        ("pose", "end effector"),
        ("gripper", "fingers"),
        ("goal", "goals"),
    ):
        parser.add_argument(f"--{role}-topic", metavar="TOPIC", help=f"{what} (default: found by type)")
    parser.add_argument(
        "--step", type=float, default=STEP_SECONDS, metavar="S", help="action period (default: %(default)s)"
    )
    parser.add_argument(
        "--clock",
        choices=("header", "receive"),
        default="header",
        help="time of a message: its header's stamp, or when it was recorded (default: %(default)s)",
    )
    parser.add_argument(
        "--max-skew",
        type=float,
        default=0.05,
        metavar="S",
        help="from frame to pose (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="how far a frame may be from its place, as a share of the step (default: %(default)s)",
    )
    parser.add_argument(
        "--pose-frame",
        choices=POSE_FRAMES,
        default="link8",
        help="frame of the recorded poses; a Franka shows hand_tcp unless told otherwise "
        "(default: %(default)s)",
    )


def reading(args: argparse.Namespace) -> tuple[TopicNames, ResampleRules]:
    """Topics and rules of :func:`add_reading`."""
    from vjepa_ac_planner.bags.poses import HAND_TCP_TO_LINK8
    from vjepa_ac_planner.bags.reader import ResampleRules, TopicNames

    topics = TopicNames(args.image_topic, args.pose_topic, args.gripper_topic, args.goal_topic)
    offset = HAND_TCP_TO_LINK8 if args.pose_frame == "hand_tcp" else None
    rules = ResampleRules(
        clock=args.clock, tolerance=args.tolerance, max_skew_s=args.max_skew, offset=offset
    )
    return topics, rules


def run_info(args: argparse.Namespace) -> int:
    """Topics, rates, delays, and what samples come of it."""
    from vjepa_ac_planner.bags.info import describe

    topics, rules = reading(args)
    about = describe(args.bag, args.step, topics, rules)
    say(f"{', '.join(map(str, args.bag))}: {about['seconds']:.1f} s from {_clock(about['start'])}")
    if about["run"]:
        say(f"recorded by this package: model {about['run']['model']}, seed {about['run']['seed']}")
    roles = {name: role for role, name in about["chosen"].items() if name}
    rows = [
        [
            roles.get(name, ""),
            name,
            info["type"],
            str(info["count"]),
            _number(info["rate_hz"], "{:.1f} Hz"),
            _number(info["longest_pause_s"], "{:.2f} s"),
            _number((info["delay_s"] or {}).get("mean"), "{:.3f} s"),
        ]
        for name, info in sorted(about["topics"].items())
    ]
    say()
    say(
        table(
            rows,
            ["read as", "topic", "type", "messages", "rate", "longest pause", "stamp to bag"],
            indent="",
        )
    )
    say()
    say(
        f"samples at {1 / args.step:g} Hz: {about['samples']} in {counted(about['segments'], 'segment')}, "
        f"{counted(about['gaps'], 'gap')}"
    )
    for name, spread in (("frame to pose", about["skew_s"]), ("step", about["step_s"])):
        if spread:
            least, mean, greatest = (1000 * spread[key] for key in ("least", "mean", "greatest"))
            say(f"{name}: {least:.0f} .. {greatest:.0f} ms, mean {mean:.1f} ms")
    for reason, count in sorted(about["skipped"].items()):
        say(f"skipped {count} x {reason}")
    for note in about["notes"]:
        say(f"note: {note}")
    if about["first_error"]:
        say(f"first error: {about['first_error']}")
    if args.json:
        write_json(args.json, about)
    if about["problem"]:
        complain(f"vjepa-ac: {about['problem']}")
        return 1
    return 0


def run_droid(args: argparse.Namespace) -> int:
    """Convert raw DROID episodes."""
    from vjepa_ac_planner.bags.convert_droid import convert_droid

    return _converted(convert_droid(args.source, args.out, args.camera, args.pairing), args)


def run_lerobot(args: argparse.Namespace) -> int:
    """Convert a LeRobot data set."""
    from vjepa_ac_planner.bags.convert_lerobot import LeRobotNames, convert_lerobot

    names = LeRobotNames(args.camera, args.pose_feature, args.gripper_feature, args.gripper_means)
    return _converted(convert_lerobot(args.source, args.out, names, args.episodes), args)


def _converted(results: Iterator[Converted], args: argparse.Namespace) -> int:
    done: list[Converted] = []
    begin = time.perf_counter()
    for result in results:
        done.append(result)
        if result.problem:
            complain(f"vjepa-ac: {result.problem}")
        elif result.existed:
            say(f"{result.path}: exists, left alone")
        else:
            notes = "".join(f"; {note}" for note in result.notes)
            frames = counted(result.frames, "frame")
            say(f"{result.path}: {frames}, {counted(result.steps, 'state')}{notes}")
    failed = sum(bool(result.problem) for result in done)
    total = counted(sum(result.frames for result in done), "frame")
    seconds = time.perf_counter() - begin
    say(f"{len(done) - failed} of {counted(len(done), 'episode')}; {total} in {seconds:.1f} s")
    if args.json:
        write_json(args.json, {"episodes": [vars(result) for result in done]})
    return 1 if failed else 0


def run_bench(args: argparse.Namespace) -> int:
    """Frames per second, by way."""
    from vjepa_ac_planner.bags.bench import bench

    topics, rules = reading(args)
    result = bench(args.bag, args.step, topics, rules)
    say(f"{result['topic']} ({result['type']}): {result['frames']} frames, {result['samples']} samples")
    rows = [[way, _number(rate, "{:.0f}")] for way, rate in result["rates"].items()]
    say(table(rows, ["way", "frames per second"], indent=""))
    if args.json:
        write_json(args.json, result)
    return 0


def _span(text: str) -> range:
    low, colon, high = text.partition(":")
    try:
        first = int(low)
        return range(first, int(high) if colon else first + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected A:B, received {text!r}") from None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _clock(seconds: float) -> str:
    if seconds < 1e8:  # a simulator's clock, or a data set's
        return f"{seconds:.3f} s"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
