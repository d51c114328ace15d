"""A recording as the planner sees it: frames and states, one action period apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from vjepa_ac_planner.bags.messages import (
    FRANKA_STATE,
    JOINTS,
    STRING,
    Decoder,
    finger_indices,
    header_stamp,
)
from vjepa_ac_planner.bags.poses import state_pose
from vjepa_ac_planner.bags.records import (
    PLAN_TOPIC,
    RUN_TOPIC,
    SOURCE_TOPIC,
    PlanRecord,
    RunInfo,
    read_record,
)
from vjepa_ac_planner.bags.resample import GAP, Resampler, ResampleRules, Sample, Stamped
from vjepa_ac_planner.bags.storage import Skipped, Storage, TopicInfo, open_storage
from vjepa_ac_planner.bags.topics import LIVE, TopicNames, choose_topics
from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import BagError, PlannerError
from vjepa_ac_planner.types import Frame, Goal, Observation, RobotState

MOST_GOALS = 64
"""Goal images that are read of one recording."""

__all__ = ["Bag", "PlanRecord", "ResampleRules", "RunInfo", "Sample", "TopicNames"]


class Bag:
    """One recording, open for reading. Made by :meth:`open`; a context manager.

    Attributes:
        paths: what was opened.
        topics: the topics that are read; ``image`` or ``pose`` is None where there is none.
        infos: every topic of the recording, by name.
        start: when the first message was recorded [s].
        end: when the last message was recorded [s].
        skipped: what could not be used, counted by reason; filled while reading.
        notes: what a user should know: assumptions made for want of data.
        run: what is known of the run, if this package recorded it.
    """

    def __init__(
        self, paths: tuple[Path, ...], storage: Storage, asked: TopicNames, skipped: Skipped
    ) -> None:
        self.paths, self.skipped = paths, skipped
        self._storage = storage
        self._decoder = Decoder(storage.topics)
        self.infos: dict[str, TopicInfo] = storage.topics
        if not storage.topics or storage.start is None or storage.end is None:
            why = "".join(
                f"; {reason}" + (f" ({count} times)" if count > 1 else "")
                for reason, count in skipped.items()
            )
            raise BagError(f"{self.name}: holds no message that can be read{why}")
        self.start, self.end = storage.start / 1e9, storage.end / 1e9
        self.topics = choose_topics(asked, storage.topics, self._has_fingers)
        self.notes: list[str] = []
        if self.topics.gripper is None:
            self.notes.append("no gripper topic: the gripper counts as open (closedness 0) throughout")
        self.run: RunInfo | None = self._read_run()
        if self.run is None and SOURCE_TOPIC not in self.infos and self._of_franka():
            self.notes.append(
                f"poses of {self.topics.pose} are taken for the model's frame (link8), but a Franka shows "
                "its end effector's, hand_tcp unless it was told otherwise: give the rules' offset "
                "(HAND_TCP_TO_LINK8)"
            )
        self.resampler: Resampler | None = None
        """Of the last call of :meth:`samples`: how frames and poses fitted together."""

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path], topics: TopicNames | None = None) -> Bag:
        """Open a recording.

        Args:
            paths: a rosbag2 folder, an ``.mcap`` or ``.db3`` file, compressed or not, or several of these
                that follow one another.
            topics: names that are known; others are found by type, see
                :mod:`vjepa_ac_planner.bags.topics`.

        Raises:
            BagError: it cannot be read, is empty, lacks a named topic, or several topics fit.
            MissingDependencyError: the ``bags`` extra is not installed.
        """
        several = (paths,) if isinstance(paths, (str, Path)) else tuple(paths)
        skipped = Skipped()
        try:
            storage = open_storage(several, skipped)
        except OSError as error:
            raise BagError(f"{several[0]}: cannot be read ({error})") from error
        try:
            return cls(tuple(map(Path, several)), storage, topics or TopicNames(), skipped)
        except BaseException:
            storage.close()
            raise

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return str(self.paths[0]) + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def close(self) -> None:
        """Free the files; safe to call twice."""
        self._storage.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def samples(self, step_seconds: float, rules: ResampleRules | None = None) -> Iterator[Sample]:
        """Frames and states one action period apart, by the rules of :mod:`.resample`; streamed.

        Args:
            step_seconds: the action period, ``model.description.step_seconds`` [s].
            rules: see :class:`ResampleRules`.

        Raises:
            BagError: no camera or no pose in the recording, or not one sample came of it; the text says
                what was skipped.
        """
        image = self._required("image", "a camera (sensor_msgs Image or CompressedImage)")
        pose = self._required("pose", "an end-effector pose (PoseStamped or FrankaRobotState)")
        gripper = self.topics.gripper
        rules = rules or ResampleRules()

        def observe(frame: Stamped, state: Stamped, fingers: Stamped | None) -> Observation:
            position, rotation = self._decoder.pose(pose, state.message.data)
            vector = np.zeros(7)
            vector[:6] = state_pose(position, rotation, rules.offset)
            if fingers is not None and gripper is not None:
                vector[6] = self._decoder.closedness(gripper, fingers.message.data)
            pixels, frame_id = self._decoder.image(image, frame.message.data)
            return Observation(
                Frame(pixels, frame.stamp / 1e9, frame_id or "camera"),
                RobotState(vector, state.stamp / 1e9),
            )

        resampler = Resampler(image, pose, gripper, step_seconds, rules, observe, self.skipped)
        self.resampler = resampler
        wanted = {image, pose} | ({gripper} if gripper else set())
        count = 0
        for sample in resampler.samples(self._storage.messages(wanted)):
            count += 1
            yield sample
        if not count:
            raise BagError(f"{self.name}: not one sample came of it; {self._why(resampler)}")

    def frame_at(self, time: float, clock: str = "header") -> Frame:
        """The frame nearest to a time [s], on the clock of the headers, or of the recorder (``receive``).

        Raises:
            BagError: no camera, or no frame that can be decoded within 1 s of it.
        """
        check_range("time", time, -1e12, 1e12, "s")
        target = round(time * 1e9)
        near: list[tuple[int, memoryview, int]] = []
        image = self._required("image", "a camera")
        # Headers and recorder rarely differ by more than their transport; else all must be looked at.
        for margin in (2_000_000_000, None):
            near.clear()
            low, high = (None, None) if margin is None else (target - margin, target + margin)
            for message in self._storage.messages({image}, low, high):
                stamp = self._stamp(message.data, message.received, clock)
                if stamp is not None and abs(stamp - target) <= 1_000_000_000:
                    near.append((abs(stamp - target), message.data, stamp))
                    near = sorted(near, key=lambda item: item[0])[:8]
            for _, data, stamp in near:
                frame = self._frame(image, data, stamp)
                if frame is not None:
                    return frame
        raise BagError(
            f"{self.name}: no usable frame within 1 s of {time:.3f} s; recorded from {self.start:.3f} "
            f"to {self.end:.3f} s"
        )

    def last_frame(self) -> Frame:
        """The last frame that can be decoded.

        Raises:
            BagError: no camera, or no such frame.
        """
        image = self._required("image", "a camera")
        end = round(self.end * 1e9) + 1_000_000
        for seconds in (2, 20, None):
            start = None if seconds is None else end - seconds * 1_000_000_000
            recent: list[tuple[memoryview, int]] = []
            for message in self._storage.messages({image}, start):
                stamp = self._stamp(message.data, message.received, "header")
                recent = [*recent[-7:], (message.data, message.received if stamp is None else stamp)]
            for data, stamp in reversed(recent):
                frame = self._frame(image, data, stamp)
                if frame is not None:
                    return frame
        raise BagError(f"{self.name}: no frame of {image} can be decoded")

    def goals(self) -> tuple[Goal, ...]:
        """Goal images in the recording that can be read, in order; their names are their frame ids.

        At most ``MOST_GOALS`` are read.
        """
        if self.topics.goal is None:
            return ()
        goals = []
        for message in self._storage.messages({self.topics.goal}):
            stamp = self._stamp(message.data, message.received, "header")
            frame = self._frame(self.topics.goal, message.data, stamp or message.received)
            if frame is not None:
                goals.append(Goal(frame, frame.frame_id))
            if len(goals) == MOST_GOALS:
                break
        return tuple(goals)

    def plans(self) -> Iterator[PlanRecord]:
        """Plans that were recorded live, in order; damaged records are skipped and counted."""
        name = self._live_topic(PLAN_TOPIC)
        if name is None:
            return
        for message in self._storage.messages({name}):
            try:
                yield read_record(PlanRecord, self._json(name, message.data), name)
            except PlannerError:
                self.skipped["damaged plan record"] += 1

    def messages(self, topics: Sequence[str] | None = None) -> Iterator[tuple[TopicInfo, int, memoryview]]:
        """Raw messages with their topic and the time at which they were recorded [ns], for copying."""
        wanted = set(self.infos) if topics is None else set(topics)
        for message in self._storage.messages(wanted):
            yield self.infos[message.topic], message.received, message.data

    def stamp(self, data: memoryview) -> int | None:
        """Stamp [ns] in the header of a raw message that has one; None if damaged."""
        return self._stamp(data, 0, "header")

    def _of_franka(self) -> bool:
        name = self.topics.pose
        return name is not None and (self.infos[name].type == FRANKA_STATE or name.endswith(LIVE["pose"]))

    def _required(self, role: str, what: str) -> str:
        name: str | None = getattr(self.topics, role)
        if name is None:
            have = ", ".join(f"{i.name} ({i.type})" for i in self.infos.values())
            raise BagError(f"{self.name}: no topic shows {what}; it has {have}")
        return name

    def _why(self, resampler: Resampler) -> str:
        counts = ", ".join(f"{count} x {reason}" for reason, count in self.skipped.items() if reason != GAP)
        parts = [counts or "its topics do not overlap in time", resampler.ranges()]
        if resampler.first_error:
            parts.append(f"first error: {resampler.first_error}")
        parts.append("if the headers' clocks differ, use the recorder's (clock: receive)")
        return "; ".join(parts)

    def _stamp(self, data: memoryview, received: int, clock: str) -> int | None:
        if clock == "receive":
            return received
        try:
            return header_stamp(data)
        except BagError:
            return None

    def _frame(self, topic: str, data: memoryview, stamp: int) -> Frame | None:
        try:
            pixels, frame_id = self._decoder.image(topic, data)
            return Frame(pixels, stamp / 1e9, frame_id or "camera")
        except PlannerError as error:
            self.skipped[f"unusable message: {str(error).split(':')[0]}"] += 1
            return None

    def _has_fingers(self, topic: str) -> bool:
        if self.infos[topic].type != JOINTS:
            return False
        for _, message in zip(range(3), self._storage.messages({topic}), strict=False):
            try:
                return bool(finger_indices(self._decoder.message(topic, message.data).name))
            except BagError:
                continue
        return False

    def _live_topic(self, name: str) -> str | None:
        fits = [
            info.name
            for info in self.infos.values()
            if info.type == STRING and f"/{info.name.strip('/')}".endswith(f"/{name}")
        ]
        return fits[0] if fits else None

    def _json(self, topic: str, data: memoryview) -> object:
        text = self._decoder.message(topic, data).data
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BagError(f"{topic}: is not JSON ({error})") from error

    def _read_run(self) -> RunInfo | None:
        name = self._live_topic(RUN_TOPIC)
        if name is None:
            return None
        for message in self._storage.messages({name}):
            try:
                return read_record(RunInfo, self._json(name, message.data), name)
            except PlannerError:
                self.skipped["damaged run record"] += 1
        return None
