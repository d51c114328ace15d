"""Laws that hold whatever is recorded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rosbags")

import itertools
import math

from vjepa_ac_planner.bags.resample import GAP, Resampler, ResampleRules, in_order
from vjepa_ac_planner.bags.storage import RawMessage, Skipped
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.types import Frame, Observation, RobotState

MS = 1_000_000
T0 = 5_000 * MS
PICTURE = np.zeros((16, 16, 3), dtype=np.uint8)


def message(topic: str, stamp: int, received: int) -> RawMessage:
    head = b"\0\1\0\0" + np.array([stamp // 10**9, stamp % 10**9], dtype="<u4").tobytes()
    return RawMessage(topic, received, memoryview(head))


@st.composite
def recordings(draw):
    """Frames and poses at odd rates, lost, late, twice, undecodable."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rates = {"image": draw(st.sampled_from([3, 8, 15, 30])), "pose": draw(st.sampled_from([10, 100]))}
    late = draw(st.sampled_from([0, 50, 500]))
    lost = draw(st.sampled_from([0.0, 0.1, 0.6]))
    messages = []
    for topic, rate in rates.items():
        for i in range(4 * rate):
            if rng.uniform() >= lost:
                stamp = T0 + round(i * 1000 / rate) * MS + int(rng.integers(0, 5)) * MS
                messages.append(message(topic, stamp, stamp + int(rng.integers(0, late + 1)) * MS))
    bad = {int(s) for s in rng.choice([m.received for m in messages] or [0], 5)} if lost else set()
    return sorted(messages, key=lambda m: m.received), bad


@settings(max_examples=150)
@given(recordings(), st.sampled_from([0.1, 0.25, 0.5]), st.sampled_from([0.1, 0.25, 0.33]))
def test_the_laws_of_samples(recording, period, tolerance):
    messages, bad = recording
    rules = ResampleRules(tolerance=tolerance, window_s=0.6)
    skipped = Skipped()
    used = []

    def observe(frame, pose, gripper):
        if frame.message.received in bad:
            raise InputError("image: damaged")
        used.append((frame, pose))
        return Observation(Frame(PICTURE, frame.stamp / 1e9), RobotState(np.zeros(7), pose.stamp / 1e9))

    resampler = Resampler("image", "pose", None, period, rules, observe, skipped)
    samples = list(resampler.samples(iter(messages)))
    assert len(samples) == len(used)
    stamps = {m.data.tobytes() for m in messages if m.topic == "image"}
    for sample, (frame, pose) in zip(samples, used, strict=True):
        assert frame.message.data.tobytes() in stamps and frame.message.topic == "image"
        assert sample.time == frame.stamp / 1e9
        assert abs(pose.stamp - frame.stamp) <= 50 * MS
        # No pose is nearer than the one that was taken.
        others = (header(m) for m in messages if m.topic == "pose")
        assert abs(pose.stamp - frame.stamp) == min(abs(s - frame.stamp) for s in others)
    segments = [s.segment for s in samples]
    assert segments == sorted(segments) and skipped[GAP] in (len(set(segments)) - 1, len(set(segments)))
    for one, two in itertools.pairwise(samples):
        assert two.index == one.index + 1 and two.time > one.time
        if one.segment == two.segment:
            assert abs(two.time - one.time - period) <= tolerance * period + 1e-9
    # Whatever is lost is counted: a usable frame is passed over only for one that is nearer to its turn.
    poses = [header(m) for m in messages if m.topic == "pose"]
    usable = {
        header(m)
        for m in messages
        if m.topic == "image" and m.received not in bad and any(abs(s - header(m)) < 50 * MS for s in poses)
    }
    taken = [round(s.time * 1e9 / MS) * MS for s in samples]
    if not samples:
        assert not usable and (skipped or not any(m.topic == "image" for m in messages))
        return
    assert not [s for s in usable if s < taken[0]]
    reach = (1 + tolerance) * period * 1e9 + 1
    ends = [*(k for k in range(1, len(samples)) if segments[k] > segments[k - 1]), len(samples)]
    for k in ends:
        stop = taken[k] if k < len(taken) else math.inf
        assert not [s for s in usable if taken[k - 1] + reach < s < stop], (
            "a gap ends at the next usable frame"
        )


def header(m: RawMessage) -> int:
    seconds, rest = np.frombuffer(m.data[4:12], dtype="<u4")
    return int(seconds) * 10**9 + int(rest)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 800)), max_size=60))
def test_order_is_restored_where_nothing_is_later_than_the_window(pairs):
    messages = sorted(
        (message("image", T0 + stamp * MS, T0 + (stamp + delay) * MS) for stamp, delay in pairs),
        key=lambda m: m.received,
    )
    skipped = Skipped()
    ordered = [item.stamp for item in in_order(iter(messages), ResampleRules(window_s=0.9), skipped)]
    assert ordered == sorted({header(m) for m in messages})
    assert skipped["stamp out of order"] == 0
    assert skipped["duplicate stamp"] == len(messages) - len(ordered)


@pytest.mark.parametrize(
    ("frames", "segments"),
    [
        ([0, 250, 500, 1000, 1250, 1500], [3, 3]),  # a 4 Hz camera that lost one frame
        ([0, 250, 1000], [2, 1]),
        ([0, 250, 750, 1000, 1500, 1750], [2, 2, 2]),
    ],
)
def test_the_frame_that_ends_a_gap_begins_the_new_segment(frames, segments):
    messages = [message("image", T0 + ms * MS, T0 + ms * MS) for ms in frames]
    messages += [message("pose", T0 + i * 10 * MS, T0 + i * 10 * MS) for i in range(200)]

    def observe(frame, pose, gripper):
        return Observation(Frame(PICTURE, frame.stamp / 1e9), RobotState(np.zeros(7), pose.stamp / 1e9))

    skipped = Skipped()
    resampler = Resampler("image", "pose", None, 0.25, ResampleRules(), observe, skipped)
    samples = list(resampler.samples(iter(sorted(messages, key=lambda m: m.received))))
    assert [round(s.time * 1000) - T0 // MS for s in samples] == frames
    assert [[s.segment for s in samples].count(k) for k in range(len(segments))] == segments
    assert skipped == {GAP: len(segments) - 1}


def test_times_that_stand_still_or_run_back_hold_no_more_than_the_limit():
    from vjepa_ac_planner.bags import resample

    count = resample._HELD_MESSAGES + 1000
    stuck = (message("image", T0 + i, 7) for i in range(count))
    seen = [item.stamp for item in in_order(stuck, ResampleRules(), Skipped())]
    assert seen == [T0 + i for i in range(count)]
    back = (message("image", T0 + i, 10**12 - i * MS) for i in range(1000))
    assert len(list(in_order(back, ResampleRules(), Skipped()))) == 1000
