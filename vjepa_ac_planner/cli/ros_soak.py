"""``vjepa-ac ros soak``: whether this machine keeps the beat, for as long as a lab day has."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import DEFAULT_MODEL, INTERRUPTED, add_json, at_least, command
from vjepa_ac_planner.cli.console import say, styled, write_json
from vjepa_ac_planner.cli.ros_processes import START_SECONDS, join_domain, require_ros, running
from vjepa_ac_planner.config import check_range

if TYPE_CHECKING:
    from vjepa_ac_planner.ros.soak import Sample

DETAILS = """\
Planner and simulated robot run as two processes, the arm always under way to a new goal. Counted are gaps
of more than two periods between setpoints, memory, threads, frames and plans, and the time that the host of
a virtual machine takes away, which no program in it can make up for. --state-rate 1000 sends the arm's pose
(and, with franka_msgs, its mode) as often as a Franka does. The exit code is 1 when there was a gap.

Run it on the machine that will plan, with its GPU idle otherwise, before an arm is attached to it.

examples:
  vjepa-ac ros soak --minutes 30
  vjepa-ac ros soak --minutes 30 --state-rate 1000 --json soak.json
"""


def add_parser(ros: Any) -> None:
    """Add ``soak`` to the group ``ros``."""
    soak = command(ros, "soak", run, "run planner and simulated robot for long, and count gaps", DETAILS)
    soak.add_argument("--minutes", type=float, default=30.0, metavar="M", help="(default: %(default)s)")
    soak.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="(default: %(default)s)")
    soak.add_argument("--width", type=at_least(16), default=640, metavar="PIXELS", help="of images (640)")
    soak.add_argument("--height", type=at_least(16), default=480, metavar="PIXELS", help="of images (480)")
    soak.add_argument(
        "--rate", type=float, default=15.0, metavar="HZ", help="of the camera (default: %(default)s)"
    )
    soak.add_argument(
        "--state-rate",
        type=float,
        metavar="HZ",
        help="of the arm's state, 1 .. 1000 (default: the simulator's 100, without its mode)",
    )
    soak.add_argument(
        "--goal-seconds", type=float, default=15.0, metavar="S", help="a new goal so often (default: 15)"
    )
    soak.add_argument("--seed", type=at_least(0), default=0, help="of the first goal (default: 0)")
    soak.add_argument("--domain", type=at_least(0), metavar="ID", help="ROS domain (default: by process)")
    soak.add_argument("--verbose", action="store_true", help="show what the nodes log")
    add_json(soak, "all windows and the summary")


def run(args: argparse.Namespace) -> int:
    """Start both nodes, watch, sum up."""
    check_range("--minutes", args.minutes, 0.1, 10_000.0)
    check_range("--goal-seconds", args.goal_seconds, 1.0, 3600.0)
    if args.state_rate is not None:
        check_range("--state-rate", args.state_rate, 1.0, 1000.0)
    require_ros()
    domain = join_domain(args.domain)  # before rclpy is initialised
    from vjepa_ac_planner.ros.profile import load_profile
    from vjepa_ac_planner.ros.repeater import POSE, STATE, Repeater, sends_robot_state
    from vjepa_ac_planner.ros.soak import Soak, summary

    profile = load_profile("sim")
    planner = ["robot:=sim", f"model:={args.model}", "topics.image_transport:=compressed"]
    simulator = [
        *(f"width:={args.width}", f"height:={args.height}", f"rate:={args.rate}"),
        *("detail:=low", "publish_clock:=false"),
    ]
    kind = "states as the simulator sends them"
    if args.state_rate is not None:
        planner.append(f"topics.ee_pose:=/{POSE}")
        kind = f"poses at {args.state_rate:g} Hz"
        if sends_robot_state():
            planner.append(f"topics.robot_state:=/{STATE}")
            kind = f"poses and modes at {args.state_rate:g} Hz"
    say(f"planner and simulated robot as two processes, ROS domain {domain}, this machine only")
    images = f"{args.width}x{args.height} JPEG at {args.rate:g} Hz"
    say(f"{images}, {kind}, setpoints at {profile.stream_hz:g} Hz")
    with (
        running(simulator, planner, args.verbose) as nodes,
        Soak(nodes.planner.pid, nodes.sim.pid, nodes.check) as soak,
    ):
        soak.wait(START_SECONDS)
        repeater = None
        if args.state_rate is not None:
            repeater = Repeater(soak.node, profile, args.state_rate)
        soak.spin(2.0)
        say(_HEADER)
        minute = _Minutes()
        interrupted, begin, sent = False, time.monotonic(), repeater.sent if repeater else 0
        try:
            soak.run(60.0 * args.minutes, args.goal_seconds, args.seed, minute.tell)
        except KeyboardInterrupt:  # what was seen until then is worth as much
            interrupted = True
        plan = soak.plan_seconds()
        states = None
        if repeater is not None:
            states = (repeater.sent - sent) / (time.monotonic() - begin)
            repeater.close()
    record = {
        **summary(soak.samples, 1.0 / profile.stream_hz),
        "interrupted": interrupted,
        "plan_s_p50_p95": plan,
        "pauses": soak.pauses,
    }
    if states is not None:
        record["states_per_s"] = states
    _say_summary(record, soak.samples, 2.0 / profile.stream_hz)
    if args.json:
        write_json(args.json, {**record, "samples": [asdict(sample) for sample in soak.samples]})
    if interrupted:
        return INTERRUPTED
    return 0 if record["gaps_over_two_periods"] == 0 else 1


_HEADER = "  min   setpoints  gaps  largest  frames/s  plans/s   planner MB   sim MB  cores  stolen"


class _Minutes:
    """Prints a line a minute."""

    def __init__(self) -> None:
        self._last: Sample | None = None

    def tell(self, sample: Sample) -> None:
        last = self._last
        if last is None:
            self._last = sample
            return
        seconds = sample.seconds - last.seconds
        if seconds < 59.0:
            return
        cpu = sum(now.cpu_s for now in (sample.planner, sample.simulator))
        cpu -= sum(then.cpu_s for then in (last.planner, last.simulator))
        say(
            f"{sample.seconds / 60:5.1f}  {sample.setpoints:10,d}  {sample.late:4d}  "
            f"{sample.largest_gap_s * 1000:4.0f} ms  {(sample.frames - last.frames) / seconds:8.1f}  "
            f"{(sample.plans - last.plans) / seconds:7.1f}  {sample.planner.memory_mb:11.0f}  "
            f"{sample.simulator.memory_mb:7.0f}  {cpu / seconds:5.2f}  "
            f"{sample.stolen_s - last.stolen_s:5.2f} s"
        )
        self._last = sample


def _say_summary(record: dict[str, Any], samples: list[Sample], allowed: float) -> None:
    gaps, quiet, stealing = (
        record[name] for name in ("gaps_over_two_periods", "host_quiet", "host_stealing")
    )
    word = styled("kept the beat", "green") if gaps == 0 else styled("missed the beat", "red")
    say()
    say(
        f"{word}: {record['setpoints']:,} setpoints in {record['seconds'] / 60:.1f} minutes, "
        f"{gaps} gaps above {allowed * 1000:.0f} ms, the largest {record['largest_gap_s'] * 1000:.0f} ms"
    )
    if stealing["windows"]:
        say(
            f"the host took CPU time away in {stealing['windows']} of {len(samples) - 1} windows of 5 s: "
            f"{stealing['setpoints']:,} setpoints, {stealing['gaps']} gaps; in the others "
            f"{quiet['setpoints']:,} setpoints, {quiet['gaps']} gaps"
        )
    if record["plan_s_p50_p95"]:
        low, high = (1000 * value for value in record["plan_s_p50_p95"])
        say(f"plans: p50 {low:.0f} ms, p95 {high:.0f} ms, {record['plans_per_s']:.1f} a second")
    sent = f", and was sent {record['states_per_s']:.0f} states" if "states_per_s" in record else ""
    say(f"the planner took {record['frames_per_s']:.1f} images a second{sent}")
    settled = [sample for sample in samples if sample.seconds >= 60.0] or samples
    memory = [sample.planner.memory_mb for sample in settled]
    threads = sorted({sample.planner.threads for sample in settled})
    say(
        f"planner: {min(memory):.0f} .. {max(memory):.0f} MB after the first minute, "
        f"{'..'.join(map(str, threads[:: max(1, len(threads) - 1)]))} threads, {record['pauses']} pauses"
    )
