"""Plays a recorded bag back onto ROS topics with its own clock, where ``ros2 bag`` is not installed.

Messages are published as the bytes they were recorded as; types whose package is not installed here are
named and left out. The options are those of ``ros2 bag play``.
"""

from __future__ import annotations

import argparse
import importlib
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import rclpy
from rclpy.logging import get_logger
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from vjepa_ac_planner.bags.storage import RawMessage, Skipped, Storage, open_storage
from vjepa_ac_planner.errors import InputError, PlannerError
from vjepa_ac_planner.ros.stamps import to_stamp

QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
CLOCK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Player:
    """Publishes what a bag holds, in its own time.

    Args:
        node: makes the publishers.
        storage: the bag.
        topics: names of those to play; types that are not installed are left out.
        rate: seconds of the bag per second.
        clock_hz: how often ``/clock`` is published between two messages [Hz]; 0 for never.
    """

    def __init__(
        self, node: Any, storage: Storage, topics: Collection[str], rate: float, clock_hz: float
    ) -> None:
        self._storage, self._rate = storage, rate
        self._publishers = {}
        for name in topics:
            kind = message_class(storage.topics[name].type)
            if kind is None:
                node.get_logger().warning(f"{name}: {storage.topics[name].type} is not installed; left out")
            else:
                self._publishers[name] = node.create_publisher(kind, name, QOS)
        self._clock = node.create_publisher(Clock, "/clock", CLOCK_QOS) if clock_hz else None
        self._tick = 1.0 / clock_hz if clock_hz else float("inf")

    @property
    def topics(self) -> tuple[str, ...]:
        """What is played."""
        return tuple(self._publishers)

    def play(self, stopped: Callable[[], bool]) -> int:
        """Once from beginning to end, or until ``stopped``; returns the number of messages."""
        begin, first, count = time.monotonic(), None, 0
        tick = float("inf") if self._clock is None else 0.0
        for message in self._storage.messages(self.topics):
            now = message.received * 1e-9
            first = now if first is None else first
            while True:
                passed = time.monotonic() - begin
                wait = (now - first) / self._rate - passed
                if self._clock is not None and passed >= tick:
                    tick = (passed // self._tick + 1) * self._tick  # on a grid: no delay adds up
                    self._clock.publish(Clock(clock=to_stamp(min(first + passed * self._rate, now))))
                if stopped():
                    return count
                if wait <= 0.0:
                    break
                time.sleep(min(wait, tick - passed, 0.05))
            self._publish(message)
            count += 1
        return count

    def _publish(self, message: RawMessage) -> None:
        self._publishers[message.topic].publish(bytes(message.data))


def message_class(name: str) -> Any:
    """The class of a type such as ``sensor_msgs/msg/Image``; None where its package is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def chosen(storage: Storage, exclude: str) -> list[str]:
    """Topics of a bag without those that match a regular expression as a whole.

    Raises:
        InputError: not a regular expression, or nothing is left.
    """
    try:
        pattern = re.compile(exclude) if exclude else None
    except re.error as error:
        raise InputError(f"--exclude-regex: {exclude!r} is no regular expression ({error})") from error
    names = [name for name in storage.topics if pattern is None or not pattern.fullmatch(name)]
    if not names:
        raise InputError(f"bag: nothing to play; it holds {', '.join(storage.topics) or 'no topic'}")
    return names


def parser() -> argparse.ArgumentParser:
    """Of the options."""
    parser = argparse.ArgumentParser(prog="play", description="Play a bag onto ROS topics.")
    parser.add_argument("bag", help="folder, .mcap or .db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="speed (default: %(default)s)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument("--clock", type=float, default=0.0, metavar="HZ", help="publish /clock")
    parser.add_argument("--exclude-regex", default="", metavar="RE", help="topics to leave out")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="wait before the beginning")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM; returns the exit code.

    Args:
        argv: options, ``--ros-args`` and all; None takes the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--ros-args") if "--ros-args" in words else len(words)
    options = parser().parse_args(words[:cut])
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))
    rclpy.init(args=["play", *words[cut:]], signal_handler_options=SignalHandlerOptions.NO)
    log, skipped = get_logger("play"), Skipped()
    try:
        if not 0.01 <= options.rate <= 100.0:
            raise InputError(f"--rate: received {options.rate}, allowed 0.01 .. 100")
        storage = open_storage(options.bag, skipped)
        node = rclpy.create_node("play")
        player = Player(node, storage, chosen(storage, options.exclude_regex), options.rate, options.clock)
        log.info(f"{options.bag}: {', '.join(player.topics)}")
        end = time.monotonic() + options.delay
        while time.monotonic() < end and not signals:
            time.sleep(0.05)
        count = player.play(lambda: bool(signals))
        while options.loop and not signals:
            count += player.play(lambda: bool(signals))
        log.info(f"{count} messages played")
        storage.close()
        node.destroy_node()
    except PlannerError as error:
        log.fatal(" ".join(str(error).split()))
        return error.exit_code
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
