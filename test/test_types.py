"""The values that flow through the planner refuse what cannot be used, and say why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vjepa_ac_planner.errors import InputError, PlannerError
from vjepa_ac_planner.types import (
    ACTION_DIM,
    ACTION_NAMES,
    STATE_DIM,
    STATE_NAMES,
    Command,
    Frame,
    Plan,
    RobotState,
)

IMAGE = np.zeros((32, 48, 3), dtype=np.uint8)
STATE = [0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2]


def plan(**changes):
    values = {
        "actions": np.zeros((2, 7)),
        "predicted_states": np.zeros((3, 7)),
        "energy": 0.4,
        "zero_energy": 0.5,
        "current_energy": 0.5,
        "iterations": (),
        "evaluations": 1,
        "seed": 0,
        "stop_reason": "iterations",
    }
    return Plan(**{**values, **changes})


def test_names_match_dimensions():
    assert (len(STATE_NAMES), len(ACTION_NAMES)) == (STATE_DIM, ACTION_DIM)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ([[0]], "expected a NumPy array .* received list"),
        (np.zeros((32, 48), dtype=np.uint8), r"expected shape \[H, W, 3\] .* received \(32, 48\)"),
        (np.zeros((3, 32, 48), dtype=np.uint8), r"channels last\), received \(3, 32, 48\)"),
        (np.zeros((32, 48, 4), dtype=np.uint8), "RGBA"),
        (np.full((32, 48, 3), np.nan), r"expected dtype uint8 \(0\.\.255\), received float64"),
        (np.zeros((0, 0, 3), dtype=np.uint8), "at least 16x16 pixels"),
        (np.zeros((8, 48, 3), dtype=np.uint8), r"at least 16x16 pixels, received \(8, 48\)"),
    ],
)
def test_images_that_cannot_be_used_are_refused(image, text):
    with pytest.raises(InputError, match=text):
        Frame(image)


@pytest.mark.parametrize(
    ("index", "value", "text"),
    [
        (0, np.nan, "every value must be finite"),
        (1, np.inf, "every value must be finite"),
        (2, 450.0, "within 10 m .* are these millimetres"),
        (5, 180.0, "within .*2 pi rad.* are these degrees"),
        (6, 1.2, r"closedness must lie in 0 \(open\) \.\. 1 \(closed\), received 1\.2"),
        (6, -0.1, "closedness must lie in"),
    ],
)
def test_states_that_cannot_be_used_are_refused(index, value, text):
    state = list(STATE)
    state[index] = value
    with pytest.raises(InputError, match=text):
        RobotState(state)


@pytest.mark.parametrize("vector", [STATE[:6], [STATE], "0.5,0,0.3", None])
def test_states_of_another_shape_are_refused(vector):
    with pytest.raises(InputError, match="state: expected"):
        RobotState(vector)


@pytest.mark.parametrize("stamp", [np.nan, np.inf])
def test_stamps_are_finite(stamp):
    with pytest.raises(InputError, match="stamp must be finite"):
        RobotState(STATE, stamp)
    with pytest.raises(InputError, match="stamp must be finite"):
        Frame(IMAGE, stamp)


def test_values_are_frozen_and_leave_what_they_were_made_from_alone():
    source = np.array(STATE)
    state, frame = RobotState(source), Frame(IMAGE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.stamp = 1.0
    for array in (state.vector, frame.image, plan().actions, Command("move", source, 0.25).target):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    source[0] = 9.0
    assert state.vector[0] == 0.5
    IMAGE[0, 0, 0] = 0  # still writable by its owner


def test_parts_of_a_state():
    state = RobotState(STATE)
    assert state.position.tolist() == STATE[:3]
    assert state.gripper == 0.2


@pytest.mark.parametrize(
    ("energy", "zero", "margin", "improves"),
    [
        (0.4, 0.5, 0.0, True),
        (0.5, 0.5, 0.0, False),
        (0.46, 0.5, 0.1, False),
        (0.44, 0.5, 0.1, True),
        (float("nan"), 0.5, 0.0, False),
        (0.4, float("nan"), 0.0, False),
    ],
)
def test_a_plan_improves_only_when_it_is_better_by_the_margin(energy, zero, margin, improves):
    assert plan(energy=energy, zero_energy=zero, margin=margin).improves is improves


def test_plans_and_commands_are_finite_and_of_the_right_shape():
    assert plan(actions=np.arange(14.0).reshape(2, 7)).action.tolist() == list(range(7))
    with pytest.raises(InputError, match=r"actions: expected shape Nx7, received \(7,\)"):
        plan(actions=np.zeros(7))
    with pytest.raises(InputError, match="predicted_states: every value must be finite"):
        plan(predicted_states=np.full((3, 7), np.nan))
    with pytest.raises(InputError, match=r"target: expected shape 7, received \(6,\)"):
        Command("hold", np.zeros(6), 0.25)


def test_input_errors_are_of_the_family_and_are_value_errors():
    assert issubclass(InputError, PlannerError)
    assert issubclass(InputError, ValueError)
    assert InputError.exit_code == 2
