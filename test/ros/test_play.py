"""The bag player: what it sends, in which time, and what it leaves out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs the ros extra")
pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_msgs.msg import Float64, String  # noqa: E402

from vjepa_ac_planner.bags.storage import Skipped, open_storage  # noqa: E402
from vjepa_ac_planner.bags.writer import BagWriter  # noqa: E402
from vjepa_ac_planner.errors import InputError  # noqa: E402
from vjepa_ac_planner.ros.play import Player, chosen, message_class  # noqa: E402
from vjepa_ac_planner.ros.stamps import to_seconds  # noqa: E402

T0 = 1_700_000_000_000_000_000
COUNT, PERIOD = 20, 0.05


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """A second of two topics; one command that must not be played again."""
    path = tmp_path / "run.mcap"
    with BagWriter(path) as writer:
        kind = "std_msgs/msg/String"
        for k in range(COUNT):
            stamp = T0 + round(k * PERIOD * 1e9)
            writer.write("/words", kind, writer.types[kind](f"word {k}"), stamp)
            number = writer.types["std_msgs/msg/Float64"](float(k))
            writer.write("/planner/energy", "std_msgs/msg/Float64", number, stamp)
    return path


class Listener:
    """Everything that came."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.words: list[str] = []
        self.energies: list[float] = []
        self.clock: list[float] = []
        node, best = self.node, QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(String, "/words", lambda m: self.words.append(m.data), 100)
        node.create_subscription(Float64, "/planner/energy", lambda m: self.energies.append(m.data), 100)
        node.create_subscription(Clock, "/clock", lambda m: self.clock.append(to_seconds(m.clock)), best)

    def spin(self, process: subprocess.Popen[str], seconds: float = 30.0, words: int | None = None) -> None:
        """Until the player ends, or so many words came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
            if process.poll() is not None or (words is not None and len(self.words) >= words):
                break
        for _ in range(20):
            self.executor.spin_once(timeout_sec=0.01)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def whole(numbers: Sequence[float]) -> Sequence[float]:
    """Check that nothing is missing or out of order, but for what was sent before anyone listened."""
    assert len(numbers) > COUNT / 2
    assert list(numbers) == list(range(COUNT - len(numbers), COUNT))
    return numbers


def play(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vjepa_ac_planner.ros.play", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )


def test_a_bag_is_played_in_its_own_time_without_what_is_excluded(bag: Path, listener: Listener) -> None:
    process = play(bag, "--clock", 50, "--delay", 3, "--exclude-regex", "/(planner/.*|clock)")
    listener.spin(process)
    output = process.communicate(timeout=10)[0]
    assert process.returncode == 0 and f"{COUNT} messages played" in output
    whole([int(word.split()[1]) for word in listener.words])
    assert listener.energies == []
    start = T0 * 1e-9
    assert len(listener.clock) > 10 and (sorted(listener.clock) == listener.clock)
    assert start - 0.01 <= listener.clock[0] and listener.clock[-1] <= start + COUNT * PERIOD


class Timeline:
    """Time that passes only where somebody sleeps, and what was published when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5.0
        self.published: dict[str, list[float]] = {}
        monkeypatch.setattr("vjepa_ac_planner.ros.play.time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0.0
        self.now += seconds + 1e-9  # as the real one, which never wakes early

    def create_publisher(self, _kind: Any, topic: str, _qos: Any) -> Any:
        times = self.published.setdefault(topic, [])
        return SimpleNamespace(publish=lambda _message: times.append(self.now))


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_each_message_goes_out_at_its_time(bag: Path, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    line, storage = Timeline(monkeypatch), open_storage(bag, Skipped())
    player = Player(line, storage, ["/words"], rate, clock_hz=100.0)
    assert player.play(lambda: False) == COUNT
    storage.close()
    due = [5.0 + k * PERIOD / rate for k in range(COUNT)]
    assert line.published["/words"] == pytest.approx(due, abs=1e-6)
    ticks = line.published["/clock"]
    assert ticks == pytest.approx([5.0 + 0.01 * k for k in range(len(ticks))], abs=1e-6)
    assert ticks[-1] == pytest.approx(due[-1], abs=0.011)


def test_a_loop_goes_on_until_it_is_interrupted(bag: Path, listener: Listener) -> None:
    process = play(bag, "--loop", "--rate", 5, "--clock", 100, "--delay", 1)
    listener.spin(process, words=2 * COUNT + 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    words = listener.words
    assert words[words.index(f"word {COUNT - 1}") + 1] == "word 0"
    assert min(listener.clock[10:]) < max(listener.clock)  # time jumps back, as the bag does


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("no-such.mcap",), "no-such.mcap"),
        (("BAG", "--rate", "0"), "--rate: received 0.0, allowed 0.01 .. 100"),
    ],
)
def test_what_cannot_be_played_ends_with_a_reason(bag: Path, arguments: tuple[str, ...], text: str) -> None:
    process = play(*(str(bag) if word == "BAG" else word for word in arguments))
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 2 and text in output and "Traceback" not in output, output


@pytest.mark.parametrize(
    ("exclude", "text"),
    [
        (".*", "nothing to play; it holds /words, /planner/energy"),
        ("(", r"--exclude-regex: '\(' is no regular expression"),
    ],
)
def test_an_expression_that_leaves_nothing_or_is_none_is_refused(
    bag: Path, exclude: str, text: str
) -> None:
    storage = open_storage(bag, Skipped())
    try:
        with pytest.raises(InputError, match=text):
            chosen(storage, exclude)
    finally:
        storage.close()


def test_a_type_that_is_not_installed_is_no_error_of_the_player() -> None:
    assert message_class("std_msgs/msg/String") is String
    assert message_class("atlas_msgs/msg/Anything") is None
    assert message_class("std_msgs/msg/Nothing") is None
