"""The reader: newest messages without an executor, whatever they do to whoever takes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64

from vjepa_ac_planner.ros.reader import POLL_SECONDS, LeftToReader, Reader

pytestmark = pytest.mark.ros

KEEP_ONE = QoSProfile(depth=1)


class World:
    """Two topics with a publisher and a subscription each, a reader, and what became of everything."""

    def __init__(self, node: Any) -> None:
        group = LeftToReader()
        self.node, self.called_back = node, []
        self.publishers = {name: node.create_publisher(Float64, name, 10) for name in ("one", "two")}
        self.subscriptions = {
            name: node.create_subscription(
                Float64, name, self.called_back.append, KEEP_ONE, callback_group=group
            )
            for name in self.publishers
        }
        self.errors: list[str] = []
        self.reader = Reader(self.errors.append)
        self.got: dict[str, list[float]] = {name: [] for name in self.publishers}
        self.threads: set[str] = set()
        wait(lambda: all(p.get_subscription_count() for p in self.publishers.values()))

    def add(self, name: str, period: float = POLL_SECONDS, use: Callable[[float], None] | None = None):
        def take(message: Float64) -> None:
            self.threads.add(threading.current_thread().name)
            if use is not None:
                use(message.data)
            self.got[name].append(message.data)

        self.reader.add(self.subscriptions[name], take, period)

    def send(self, name: str, *values: float) -> None:
        for value in values:
            self.publishers[name].publish(Float64(data=value))


def wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def world(ros: None) -> Iterator[World]:
    node = rclpy.create_node("reader")
    world = World(node)
    yield world
    world.reader.close()
    node.destroy_node()


def test_messages_arrive_without_an_executor_in_the_readers_thread(world):
    world.add("one")
    world.add("two")
    world.reader.start()
    for k in range(5):
        world.send("one", float(k))
        world.send("two", 10.0 + k)
        wait(lambda k=k: world.got["one"][-1:] == [k] and world.got["two"][-1:] == [10.0 + k])
    assert world.got == {"one": [0, 1, 2, 3, 4], "two": [10, 11, 12, 13, 14]}
    assert world.threads == {"inputs"} and not world.errors


def test_an_executor_leaves_them_alone(world):
    """Else each of the two would get some of the messages."""
    executor = SingleThreadedExecutor()
    executor.add_node(world.node)
    world.send("one", 1.0)
    for _ in range(20):
        executor.spin_once(timeout_sec=0.01)
    executor.shutdown()
    assert world.called_back == []
    world.add("one")
    world.reader.look()
    assert world.got["one"] == [1.0]


def test_of_many_only_the_newest_is_taken(world):
    world.add("one")
    world.send("one", *map(float, range(100)))
    time.sleep(0.1)
    world.reader.look()
    world.reader.look()
    assert world.got["one"] == [99.0]


def test_a_longer_period_is_kept_and_a_look_does_not_wait_for_it(world):
    world.add("one")
    world.add("two", period=60.0)
    world.reader.start()
    world.send("one", 1.0)
    wait(lambda: world.got["one"] == [1.0])  # so the first look at both is over
    world.send("two", 2.0)
    world.send("one", 3.0)
    wait(lambda: world.got["one"] == [1.0, 3.0])
    time.sleep(5 * POLL_SECONDS)
    assert world.got["two"] == []
    world.reader.look()
    assert world.got["two"] == [2.0]


def test_an_error_is_told_and_reading_goes_on(world):
    def refuse(value: float) -> None:
        if value < 0:
            raise ZeroDivisionError(f"of {value}")

    world.add("one", use=refuse)
    world.add("two")
    world.reader.start()
    world.send("one", -1.0)
    wait(lambda: world.errors)
    world.send("one", 1.0)
    world.send("two", 2.0)
    wait(lambda: world.got == {"one": [1.0], "two": [2.0]})
    assert world.errors == ["/one: ZeroDivisionError: of -1.0"]


def test_a_subscription_that_is_gone_is_an_error_and_not_the_end(world):
    world.add("one")
    world.add("two")
    world.reader.start()
    world.node.destroy_subscription(world.subscriptions["one"])
    world.send("two", 2.0)
    wait(lambda: world.got["two"] == [2.0] and world.errors)
    assert "InvalidHandle" in world.errors[0]


def test_after_close_nothing_is_taken(world):
    world.add("one")
    world.reader.start()
    world.send("one", 1.0)
    wait(lambda: world.got["one"] == [1.0])
    world.reader.close()
    assert "inputs" not in {thread.name for thread in threading.enumerate()}
    world.send("one", 2.0)
    world.reader.look()
    assert world.got["one"] == [1.0]


def test_close_waits_for_the_message_in_hand(world):
    """What it is used with may be destroyed right after."""
    begun, finished = threading.Event(), threading.Event()

    def slow(_: float) -> None:
        begun.set()
        time.sleep(0.2)
        finished.set()

    world.add("one", use=slow)
    world.reader.start()
    world.send("one", 1.0)
    assert begun.wait(10.0)
    world.reader.close()
    assert finished.is_set()
