"""From messages at their own rates to samples one action period apart.

The rules, in order:

1. *Time* of a message is its header's stamp (``clock="header"``), or when it was recorded (``"receive"``).
   Skipped and counted are a stamp of 0 (unless it was recorded at 0 too, by a simulator), a stamp seen
   before on its topic, and a message that comes more than ``window_s`` late.
2. The first sample is the first frame that is *usable*: it decodes, and pose and gripper are there.
3. The next sample is the usable frame nearest to one period after the previous sample, and at most
   ``tolerance`` of a period from there. So a 15 Hz camera sampled at 4 Hz gives every 4th frame, at an
   even pace; the pace is the camera's, not the clock's.
4. If there is none, that is a *gap*: the next usable frame begins a new segment. Actions are differences
   within a segment only.
5. The pose of a frame is the message nearest to it in time, at most ``max_skew_s`` away; the gripper is the
   newest message not after the frame (or, before the first one, the nearest within ``max_skew_s``), at most
   ``max_gripper_age_s`` old. Both are values that were recorded: nothing is interpolated.

Only frames that may become samples are decoded. Memory holds the messages of ``window_s`` and one period.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vjepa_ac_planner.bags.messages import header_stamp
from vjepa_ac_planner.bags.poses import Offset, quaternion_to_matrix
from vjepa_ac_planner.bags.storage import RawMessage, Skipped
from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import BagError, ConfigError, InputError, PlannerError
from vjepa_ac_planner.types import Observation

GAP = "gap: no usable frame one period after the last sample"
"""What a gap is counted under."""
_HELD_BYTES = 1 << 28
"""Most that is held for sorting [bytes]; beyond it the window is cut short."""
_SMALL = 16 * 1024
_HELD_MESSAGES = 200_000
_TRACK_MESSAGES = 20_000
_FRAMES_TRIED = 8
"""Frames tried for one sample, the nearest first."""


@dataclass(frozen=True)
class ResampleRules:
    """How messages become samples; see this module."""

    clock: Literal["header", "receive"] = "header"
    """Stamps of the messages' headers, or the times at which they were recorded."""
    tolerance: float = 0.25
    """How far a frame may be from where one period would put it, as a share of the period."""
    max_skew_s: float = 0.05
    """How far the pose may be from its frame [s]."""
    max_gripper_age_s: float = 1.0
    """How old the gripper's message may be [s]."""
    window_s: float = 1.0
    """How late a message may come and still be put in its place [s]."""
    offset: Offset | None = None
    """The model's end-effector frame (link8) in the recorded one: x, y, z [m], quaternion x, y, z, w.
    null: they are the same. A Franka that shows its hand's TCP needs ``HAND_TCP_TO_LINK8`` of ``poses``."""

    def __post_init__(self) -> None:
        check_range("tolerance", self.tolerance, 0.01, 0.33)
        check_range("max_skew_s", self.max_skew_s, 0.0, 10.0, "s")
        check_range("max_gripper_age_s", self.max_gripper_age_s, 0.0, 1e6, "s")
        check_range("window_s", self.window_s, 0.0, 60.0, "s")
        if self.offset is not None:
            if len(self.offset) != 7 or not all(map(math.isfinite, self.offset)):
                raise ConfigError(f"offset: expected 7 finite numbers, received {self.offset}")
            try:
                quaternion_to_matrix(self.offset[3:])
            except InputError as error:
                raise ConfigError(f"offset: {error}") from error


@dataclass(frozen=True)
class Sample:
    """One frame and the state beside it."""

    index: int
    """Counts all samples, over segments."""
    observation: Observation
    time: float
    """Of the frame, on the clock of the rules [s]."""
    segment: int
    """A new one after each gap; actions are defined only within one."""


class Stamped(NamedTuple):
    """A message and its time."""

    stamp: int
    """[ns]"""
    message: RawMessage


class _Candidate(NamedTuple):
    """A frame that may become a sample, and what was measured beside it."""

    frame: Stamped
    pose: Stamped | None
    gripper: Stamped | None


class Spread:
    """Least, mean and greatest of numbers that stream by."""

    def __init__(self) -> None:
        self.count = 0
        self.least, self.total, self.greatest = math.inf, 0.0, -math.inf

    def add(self, value: float) -> None:
        """Take note of one more."""
        self.count += 1
        self.total += value
        self.least, self.greatest = min(self.least, value), max(self.greatest, value)

    @property
    def mean(self) -> float:
        """NaN of nothing."""
        return self.total / self.count if self.count else math.nan


class Resampler:
    """Turns messages into samples, as they stream by.

    Args:
        image: name of the camera's topic.
        pose: name of the pose's topic.
        gripper: name of the gripper's topic, or None.
        period: time between samples [s].
        rules: see :class:`ResampleRules`.
        observe: makes an observation of a frame, a pose and a gripper message; raises PlannerError if one
            of them cannot be used.
        skipped: where everything left out is counted.
    """

    def __init__(
        self,
        image: str,
        pose: str,
        gripper: str | None,
        period: float,
        rules: ResampleRules,
        observe: Callable[[Stamped, Stamped, Stamped | None], Observation],
        skipped: Skipped,
    ) -> None:
        check_range("step_seconds", period, 0.001, 3600.0, "s")
        self._image, self._pose, self._gripper = image, pose, gripper
        self._rules, self._observe, self._skipped = rules, observe, skipped
        self._period = round(period * 1e9)
        self._reach = round(rules.tolerance * period * 1e9)
        self._skew = round(rules.max_skew_s * 1e9)
        self._poses, self._grippers = _Track(), _Track()
        self._unmatched: deque[Stamped] = deque()
        self._near: list[_Candidate] = []
        self._last: int | None = None  # stamp of the last sample of this segment
        self._segment = 0
        self.first_error = ""
        """The first error of a message that could not be used, in full."""
        self.skew = Spread()
        """Time from frames to their poses [s]."""
        self.step = Spread()
        """Time from sample to sample [s]."""
        self.spans: dict[str, Spread] = {name: Spread() for name in (image, pose, gripper) if name}
        """Stamps by topic [s]."""

    def ranges(self) -> str:
        """When each topic was stamped, for people."""
        return ", ".join(
            f"{topic} from {span.least:.3f} to {span.greatest:.3f} s" if span.count else f"{topic} never"
            for topic, span in self.spans.items()
        )

    def samples(self, messages: Iterator[RawMessage]) -> Iterator[Sample]:
        """Samples in order of time."""
        for index, (stamp, segment, observation) in enumerate(self._chosen(messages)):
            yield Sample(index, observation, stamp / 1e9, segment)

    def _chosen(self, messages: Iterator[RawMessage]) -> Iterator[tuple[int, int, Observation]]:
        frames = self._unmatched
        for item in in_order(messages, self._rules, self._skipped):
            topic = item.message.topic
            self.spans[topic].add(item.stamp / 1e9)
            if topic == self._image:
                frames.append(item)
            elif topic == self._pose:
                self._poses.add(item)
            else:
                self._grippers.add(item)
            # A pose up to max_skew after a frame may still be its nearest.
            settled = item.stamp - self._skew
            if frames and frames[0].stamp <= settled:
                for candidate in self._matched(settled):
                    yield from self._offer(candidate)
        for candidate in self._matched(None):
            yield from self._offer(candidate)
        if self._near:
            yield from self._decide()

    def _matched(self, settled: int | None) -> Iterator[_Candidate]:
        """Frames with what was measured beside them, once all up to ``settled`` [ns] has been seen."""
        frames = self._unmatched
        while frames and (settled is None or frames[0].stamp <= settled):
            frame = frames.popleft()
            pose = self._poses.nearest(frame.stamp, self._skew)
            gripper = self._grippers.newest(frame.stamp, round(self._rules.max_gripper_age_s * 1e9))
            gripper = gripper or self._grippers.nearest(frame.stamp, self._skew)
            yield _Candidate(frame, pose, gripper)
            self._poses.forget(frame.stamp - self._skew)
            self._grippers.forget(frame.stamp - self._skew)

    def _offer(self, candidate: _Candidate) -> Iterator[tuple[int, int, Observation]]:
        stamp = candidate.frame.stamp
        # Twice where the frame lies beyond the next sample's turn too: that is a gap, and it begins anew.
        while self._last is not None and stamp > self._last + self._period + self._reach:
            yield from self._decide()
        if self._last is None:
            yield from self._take(candidate)
            return
        target = self._last + self._period
        if abs(stamp - target) <= self._reach:
            self._near.append(candidate)
            if len(self._near) > _FRAMES_TRIED:
                self._near.remove(max(self._near, key=lambda c: abs(c.frame.stamp - target)))

    def _decide(self) -> Iterator[tuple[int, int, Observation]]:
        """Take the nearest usable frame for the next sample, or end the segment."""
        assert self._last is not None
        target = self._last + self._period
        near, self._near = sorted(self._near, key=lambda c: abs(c.frame.stamp - target)), []
        for candidate in near:
            taken = list(self._take(candidate))
            if taken:
                yield from taken
                return
        self._last = None
        self._segment += 1
        self._skipped[GAP] += 1

    def _take(self, candidate: _Candidate) -> Iterator[tuple[int, int, Observation]]:
        frame, pose, gripper = candidate
        if pose is None:
            self._skipped["frame without a pose near it"] += 1
            return
        if gripper is None and self._gripper is not None:
            self._skipped["frame without a gripper message near it"] += 1
            return
        try:
            observation = self._observe(frame, pose, gripper)
        except PlannerError as error:
            # Counted by what it is about, without the values of this one message.
            self._skipped[f"unusable message: {str(error).split(':')[0]}"] += 1
            self.first_error = self.first_error or str(error)
            return
        self.skew.add(abs(pose.stamp - frame.stamp) / 1e9)
        if self._last is not None:
            self.step.add((frame.stamp - self._last) / 1e9)
        self._last = frame.stamp
        yield frame.stamp, self._segment, observation


def in_order(messages: Iterator[RawMessage], rules: ResampleRules, skipped: Skipped) -> Iterator[Stamped]:
    """Messages in order of their stamps, those of one topic strictly so; bounded in time and memory."""
    window = round(rules.window_s * 1e9)
    held: list[tuple[int, int, Stamped]] = []
    arrivals: deque[tuple[int, int]] = deque()  # (received, serial) in order of arrival
    released: set[int] = set()
    newest: dict[str, int] = {}
    serial = held_bytes = 0
    now = -(1 << 63)

    def release() -> Stamped | None:
        nonlocal held_bytes
        stamp, number, item = heapq.heappop(held)
        held_bytes -= len(item.message.data)
        released.add(number)
        topic = item.message.topic
        before = newest.get(topic)
        if before is not None and stamp <= before:
            skipped["duplicate stamp" if stamp == before else "stamp out of order"] += 1
            return None
        newest[topic] = stamp
        return item

    for message in messages:
        try:
            stamp = header_stamp(message.data) if rules.clock == "header" else message.received
        except BagError:
            skipped["damaged message"] += 1
            continue
        # Nobody set it; but a simulator's clock does begin at 0.
        if stamp == 0 and rules.clock == "header" and message.received > 1_000_000_000:
            skipped["stamp of 0"] += 1
            continue
        if len(message.data) <= _SMALL:  # a view of it would keep the chunk that it lies in, images and all
            message = message._replace(data=memoryview(bytes(message.data)))
        serial += 1
        heapq.heappush(held, (stamp, serial, Stamped(stamp, message)))
        arrivals.append((message.received, serial))
        held_bytes += len(message.data)
        now = max(now, message.received)
        while arrivals:
            if arrivals[0][1] in released:
                released.discard(arrivals.popleft()[1])
            elif now - arrivals[0][0] >= window or held_bytes > _HELD_BYTES or len(held) > _HELD_MESSAGES:
                if (item := release()) is not None:
                    yield item
            else:
                break
    while held:
        if (item := release()) is not None:
            yield item


class _Track:
    """The recent messages of one topic, in order of time."""

    def __init__(self) -> None:
        self._items: list[Stamped] = []

    def add(self, item: Stamped) -> None:
        self._items.append(item)
        # Without frames, or with frames on another clock, all would be kept.
        if len(self._items) > _TRACK_MESSAGES:
            del self._items[: _TRACK_MESSAGES // 2]

    def forget(self, stamp: int) -> None:
        """Drop what is older than the newest message not after ``stamp``."""
        del self._items[: max(self._after(stamp) - 1, 0)]

    def nearest(self, stamp: int, most: int) -> Stamped | None:
        at = self._after(stamp)
        near = self._items[max(at - 1, 0) : at + 1]
        best = min(near, key=lambda item: abs(item.stamp - stamp), default=None)
        return best if best is not None and abs(best.stamp - stamp) <= most else None

    def newest(self, stamp: int, most: int) -> Stamped | None:
        at = self._after(stamp)
        return self._items[at - 1] if at and stamp - self._items[at - 1].stamp <= most else None

    def _after(self, stamp: int) -> int:
        """How many messages are not after ``stamp``."""
        return bisect_right(self._items, stamp, key=lambda item: item.stamp)
