from __future__ import annotations

import math

import numpy as np
import pytest

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.replay.goals import find_goals, goal_at, parse_goal
from vjepa_ac_planner.replay.recording import survey
from vjepa_ac_planner.types import Frame

IMAGE = Frame(np.full((16, 16, 3), 7, np.uint8))


def goals(recording, *texts):
    return find_goals(
        recording, survey(recording, 0.25), [parse_goal(t) for t in texts], lambda _: IMAGE, 0.25
    )


def test_the_four_forms():
    assert parse_goal(" last ").is_last
    assert parse_goal("12.5").seconds == parse_goal("12.5s").seconds == 12.5
    assert parse_goal("12s").seconds == 12.0 and parse_goal("0.").seconds == 0.0
    assert parse_goal("40").index == 40
    spec = parse_goal("some/cup.png@3.5")
    assert (spec.file.name, spec.until) == ("cup.png", 3.5)
    assert parse_goal("cup.png").until is None


@pytest.mark.parametrize("text", ["", "soon", "-3", "1.2.3", "12 s", "last@3"])
def test_other_forms_are_refused(text):
    with pytest.raises(InputError, match=r"goal: received .*allowed: last"):
        parse_goal(text)


def test_a_goal_in_the_recording_knows_the_pose_there(walk):
    recording = walk([[0.02, 0, 0]] * 8)
    (last,) = goals(recording, "last")
    assert last.until == 102.0 and np.array_equal(last.state, recording.observations[-1].state.vector)
    (second,) = goals(recording, "1.0")
    (fourth,) = goals(recording, "4")
    assert second.until == fourth.until == 101.0
    assert np.array_equal(second.goal.frame.image, recording.observations[4].frame.image)
    assert np.array_equal(fourth.state, recording.observations[4].state.vector)


def test_a_file_knows_no_pose_and_holds_to_the_end(walk):
    (goal,) = goals(walk([[0.02, 0, 0]] * 3), "cup.png")
    assert goal.state is None and goal.until == math.inf and goal.goal.name == "cup.png"


def test_sub_goals_come_in_order_of_time_and_each_holds_until_its_own(walk):
    chain = goals(walk([[0.02, 0, 0]] * 8), "last", "cup.png@0.5", "1.0")
    assert [goal.until for goal in chain] == [100.5, 101.0, 102.0]
    times = [100.0, 100.5, 100.6, 100.75, 101.0, 101.25, 102.0, 102.2, 102.4]
    assert [goal_at(chain, time, 0.125) for time in times] == [0, 0, 0, 1, 1, 2, 2, None, None]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["9"], "step 9 is not in the bag, allowed 0 .. 8"),
        (["3.0"], "3 s is not in the bag, allowed 0 .. 2.00 s"),
        (["a.png", "last"], "must say until when it is the goal: a.png@SECONDS"),
        (["2.0", "last"], "less than half a step apart"),
        ([], "received none"),
    ],
)
def test_goals_that_cannot_be(walk, texts, message):
    with pytest.raises(InputError, match=message):
        goals(walk([[0.02, 0, 0]] * 8), *texts)
