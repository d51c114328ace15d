"""The annotated file, read back by a library that did not write it."""

from __future__ import annotations

import json
from itertools import pairwise

import cv2
import numpy as np
import pytest

pytest.importorskip("mcap")
from mcap import reader

from vjepa_ac_planner.replay.annotate import FLOATS, SURPRISES, AnnotatedBag
from vjepa_ac_planner.replay.goals import find_goals, parse_goal
from vjepa_ac_planner.replay.lockstep import Lockstep
from vjepa_ac_planner.replay.recording import survey

WAY = [[0.02, 0.03, 0.01]] * 8


@pytest.fixture
def annotated(tmp_path, walk, make_planner, safety):
    """A replay with two goals and a gap, its moments, and its messages by topic: (time [ns], message)."""
    recording = walk(WAY, [0] * 4 + [1] * 5)
    found = survey(recording, 0.25)
    goals = find_goals(recording, found, [parse_goal("3"), parse_goal("last")], None, 0.25)
    path, moments = tmp_path / "annotated.mcap", []
    with AnnotatedBag(path, goals) as bag:

        def on_moment(moment):
            moments.append(moment)
            bag.on_moment(moment)

        Lockstep(make_planner(), safety, 0.25).run(recording, found, goals, on_moment)
        bag.verdict("It agrees.")
    return path, moments


def messages(path):
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    found = {}
    with path.open("rb") as file:
        for schema, channel, message in reader.make_reader(file).iter_messages():
            assert schema.encoding == "ros2msg" and schema.data, "Foxglove needs the definitions"
            value = store.deserialize_cdr(message.data, schema.name)
            found.setdefault(channel.topic, []).append((message.log_time, value))
    return found


def test_every_moment_is_there_with_its_pose_plan_and_energies(annotated):
    path, moments = annotated
    found = messages(path)
    stamps = [round(moment.sample.time * 1e9) for moment in moments]
    for topic in (
        "/camera/image_raw/compressed",
        "/franka_robot_state_broadcaster/current_pose",
        "/planner/plan",
    ):
        assert [time for time, _ in found[topic]] == stamps
    for moment, (_, action), (_, energy) in zip(
        moments, found["/planner/action"], found["/planner/energy"], strict=True
    ):
        assert np.array_equal(action.position, moment.plan.action)
        assert energy.data == moment.plan.current_energy
    recorded = [moment for moment in moments if moment.recorded is not None]
    for moment, (time, action) in zip(recorded, found["/replay/recorded_action"], strict=True):
        assert time == round(moment.sample.time * 1e9) and np.array_equal(action.position, moment.recorded)
    for column, topic in FLOATS.items():
        values = [moment.row[column] for moment in moments if column in moment.row]
        assert [message.data for _, message in found[topic]] == values


def test_surprise_stands_with_the_frame_that_surprised(annotated):
    path, moments = annotated
    found = messages(path)
    pairs = [
        (before.row["surprise"], round(after.sample.time * 1e9))
        for before, after in pairwise(moments)
        if before.sample.segment == after.sample.segment
    ]
    assert len(pairs) == 7, "none across the gap"
    assert [(message.data, time) for time, message in found[SURPRISES["surprise"]]] == pairs


def test_goal_images_come_when_they_become_the_goal(annotated):
    path, moments = annotated
    goals = messages(path)["/goal_image/compressed"]
    switches = [moments[0].sample.time, moments[4].sample.time]
    assert [time for time, _ in goals] == [round(time * 1e9) for time in switches]
    image = cv2.imdecode(goals[1][1].data, cv2.IMREAD_COLOR)[..., ::-1]
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - moments[-1].sample.observation.frame.image).mean() < 8


def test_safety_and_verdict_are_told(annotated):
    path, _ = annotated
    found = messages(path)
    said = [json.loads(message.data) for _, message in found["/replay/safety"]]
    assert {item["command"] for item in said} == {"move", "hold"}
    assert found["/replay/verdict"][0][1].data == "It agrees."


def test_the_file_is_a_bag_that_can_be_replayed_again(annotated):
    from vjepa_ac_planner.bags.reader import Bag

    path, moments = annotated
    with Bag.open(path) as bag:
        samples = list(bag.samples(0.25))
    assert len(samples) == len(moments)
    for sample, moment in zip(samples, moments, strict=True):
        want = moment.sample.observation.state.vector
        assert sample.observation.state.vector == pytest.approx(want, abs=1e-6)
