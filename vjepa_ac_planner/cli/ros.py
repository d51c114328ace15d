"""``vjepa-ac ros``: the ROS 2 nodes without a ROS installation, and both of them together as a demo."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli import ros_soak
from vjepa_ac_planner.cli.arguments import DEFAULT_MODEL, add_json, at_least, command, group, output_file
from vjepa_ac_planner.cli.console import replacing, say, styled, write_json
from vjepa_ac_planner.cli.ros_processes import START_SECONDS, join_domain, require_ros, running
from vjepa_ac_planner.errors import InputError

if TYPE_CHECKING:
    from vjepa_ac_planner.ros.trials import Trial

PLANNER = """\
What follows --ros-args goes to the node: parameters, remappings, log levels. docs/ros.md lists them.

examples:
  vjepa-ac ros planner --ros-args -p robot:=sim -p use_sim_time:=true
  vjepa-ac ros planner --ros-args -p robot:=fr3 -p model:=vjepa2-ac-vitg
  vjepa-ac ros planner --ros-args --params-file lab.yaml -r camera/image_raw:=/zed/left/image_raw
"""
SIM = """\
The simulated Panda publishes a camera image, the end-effector pose, joint and finger states and /clock,
and follows target_pose, as the real stack would. ~/reset, ~/publish_goal and ~/score drive a task.

examples:
  vjepa-ac ros sim
  vjepa-ac ros sim --ros-args -p seed:=7 -p width:=640 -p height:=480
"""
PLAY = """\
Options are those of `ros2 bag play`: --rate X, --loop, --clock HZ, --exclude-regex RE, --delay S.

examples:
  vjepa-ac ros play run.mcap --clock 100 --exclude-regex "/(planner/.*|target_pose)"
"""
DEMO = """\
Planner and simulated robot run as two processes that meet over DDS alone, in a ROS domain of their own
that no other machine sees; a third one, this, does what a person would do: reset, publish a goal image,
enable. Nothing is written unless --json says where. The exit code is 1 when a goal was not reached.

examples:
  vjepa-ac ros demo
  vjepa-ac ros demo --seed 7 --trials 10 --json ros.json
"""


def add_parser(commands: Any) -> None:
    """Add ``ros`` and what belongs to it."""
    ros = group(commands, "ros", "run the ROS 2 nodes")
    _add_ros_arguments(command(ros, "planner", run_planner, "run the planner node", PLANNER))
    _add_ros_arguments(command(ros, "sim", run_sim, "run the simulated robot", SIM))
    table = command(ros, "parameters", run_parameters, "print the planner's parameters, a Markdown table")
    table.add_argument("--robot", default="fr3", help="whose defaults (default: %(default)s)")
    table.add_argument(
        "--into",
        type=output_file,
        metavar="FILE",
        help="put the table between the marks <!-- parameters --> and <!-- /parameters --> of FILE",
    )
    play = command(ros, "play", run_play, "play a bag onto ROS topics, without ros2 bag", PLAY)
    play.add_argument("bag", help="folder, .mcap or .db3 file")
    play.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="see below")
    ros_soak.add_parser(ros)
    demo = command(ros, "demo", run_demo, "watch planner and simulated robot meet over DDS", DEMO)
    demo.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="(default: %(default)s)")
    demo.add_argument("--seed", type=at_least(0), default=0, help="of the first trial (default: 0)")
    demo.add_argument(
        "--trials", type=at_least(1), default=1, metavar="N", help="seeds in all (default: %(default)s)"
    )
    demo.add_argument(
        "--plans",
        type=at_least(1),
        default=12,
        metavar="N",
        help="most plans in a trial (default: %(default)s)",
    )
    demo.add_argument(
        "--rate", type=float, default=15.0, metavar="HZ", help="of the camera (default: %(default)s)"
    )
    demo.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="simulated seconds per second; below 1 for machines that plan slowly (default: %(default)s)",
    )
    demo.add_argument(
        "--domain",
        type=at_least(0),
        metavar="ID",
        help="ROS domain (default: one by the number of this process)",
    )
    demo.add_argument("--verbose", action="store_true", help="show what the nodes log")
    add_json(demo, "rates, errors and times")


def _add_ros_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="everything after it goes to the node",
    )


def run_planner(args: argparse.Namespace) -> int:
    """The planner node, until it is interrupted."""
    require_ros()
    from vjepa_ac_planner.ros import planner_node

    return planner_node.main(_ros_arguments(args))


def run_sim(args: argparse.Namespace) -> int:
    """The simulated robot, until it is interrupted."""
    require_ros()
    from vjepa_ac_planner.ros import sim_node

    return sim_node.main(_ros_arguments(args))


def run_parameters(args: argparse.Namespace) -> int:
    """Print the table, or bring a document up to date."""
    from vjepa_ac_planner.ros.parameters import table

    text = table(args.robot)
    if args.into is None:
        say(text.rstrip())
        return 0
    before, mark, rest = read_text(args.into).partition("<!-- parameters -->\n")
    _, end, after = rest.partition("<!-- /parameters -->")
    if not mark or not end:
        raise InputError(f"{args.into}: expected the marks <!-- parameters --> and <!-- /parameters -->")
    with replacing(args.into) as temporary:
        temporary.write_text(before + mark + text + end + after, encoding="utf-8")
    return 0


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def run_play(args: argparse.Namespace) -> int:
    """A bag, until its end or an interrupt."""
    require_ros()
    from vjepa_ac_planner.ros import play

    return play.main([args.bag, *args.options])


def _ros_arguments(args: argparse.Namespace) -> list[str]:
    return [] if args.ros_args is None else ["--ros-args", *args.ros_args]


def run_demo(args: argparse.Namespace) -> int:
    """Start both nodes, run the trials, sum up."""
    require_ros()
    domain = join_domain(args.domain)  # before rclpy is initialised
    from vjepa_ac_planner.ros.trials import Trials

    say(f"planner and simulated robot as two processes, ROS domain {domain}, this machine only")
    begin = time.perf_counter()
    simulator = [f"rate:={args.rate}", f"seed:={args.seed}", f"real_time_factor:={args.speed}"]
    planner = ["robot:=sim", f"model:={args.model}"]
    if args.speed == 1.0:
        simulator.append("publish_clock:=false")  # a hundred messages a second that nobody needs
    else:
        planner.append("use_sim_time:=true")
    trials: list[Trial] = []
    with running(simulator, planner, args.verbose) as nodes, Trials(nodes.check) as client:
        client.wait(START_SECONDS)
        say(f"both are up after {time.perf_counter() - begin:.1f} s")
        for seed in range(args.seed, args.seed + args.trials):
            say(f"seed {seed}")
            trial = client.run(seed, args.plans, _say_plan)
            trials.append(trial)
            say(_verdict(trial))
        overhead = client.overhead()
    return _sum_up(args, trials, overhead)


def _say_plan(number: int, error: float) -> None:
    say(f"  plan {number:2d}  {error * 100:5.1f} cm from the goal")


def _verdict(trial: Trial) -> str:
    word = styled("reached", "green") if trial.success else styled("not reached", "red")
    way = f"{trial.errors_m[0] * 100:.1f} -> {trial.errors_m[-1] * 100:.1f} cm"
    return f"{word}: {way}, {trial.plans} plans in {trial.seconds:.1f} s ({trial.ended})"


def _sum_up(args: argparse.Namespace, trials: Sequence[Trial], overhead: dict[str, Any]) -> int:
    from vjepa_ac_planner.statistics import wilson_interval

    reached = sum(trial.success for trial in trials)
    low, high = wilson_interval(reached, len(trials))
    final = sorted(trial.errors_m[-1] for trial in trials)
    median = (final[(len(final) - 1) // 2] + final[len(final) // 2]) / 2
    gap = max(trial.setpoints["largest_gap_s"] for trial in trials)
    sent = max(trial.setpoints["largest_stamp_gap_s"] for trial in trials)
    late = sum(trial.setpoints["late"] for trial in trials)
    refused = sum(sum(trial.setpoints["refused"].values()) for trial in trials)
    say()
    say(f"{reached} of {len(trials)} reached (95% interval {low:.1%} .. {high:.1%})")
    say(f"final error: median {median * 100:.1f} cm, largest {final[-1] * 100:.1f} cm")
    say(f"setpoints: largest gap as sent {sent * 1000:.0f} ms, as received {gap * 1000:.0f} ms")
    say(f"of them {late} came later than two periods, and {refused} were refused by the arm")
    for name, values in overhead.items():
        if values is not None:
            low_ms, high_ms = (1000 * value for value in values)
            say(f"{name[:-2].replace('_', ' ')}: p50 {low_ms:.1f} ms, p95 {high_ms:.1f} ms")
    if args.json:
        record = {
            "task": "reach",
            "model": args.model,
            "trials": len(trials),
            "success_rate": reached / len(trials),
            "ci95": [low, high],
            "median_final_error_m": median,
            "max_final_error_m": final[-1],
            "max_plans": args.plans,
            "camera_rate_hz": args.rate,
            "speed": args.speed,
            "largest_gap_s": gap,
            "largest_gap_as_sent_s": sent,
            "late_setpoints": late,
            "refused_setpoints": refused,
            "overhead": overhead,
            "episodes": [vars(trial) for trial in trials],
        }
        write_json(args.json, record)
    return 0 if reached == len(trials) else 1
