"""Laws of the safety layer: no command that leaves violates a limit, whatever goes in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.limits import MotionLimits, pose_distance
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.types import Command, Frame, Observation, Plan, RobotState

LIMITS = MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6))
CONFIG = SafetyConfig(LIMITS)
IMAGE = np.zeros((16, 16, 3), dtype=np.uint8)
HOME = (0.5, 0.0, 0.3, 3.1, 0.0, -0.7, 0.2)
FORWARD = (0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def observe(state=HOME, stamp=100.0, image_stamp=None):
    return Observation(
        Frame(IMAGE, stamp if image_stamp is None else image_stamp), RobotState(np.array(state), stamp)
    )


def planned(action=FORWARD, stamp=100.0, **changes):
    values = {"energy": 0.4, "zero_energy": 0.5, "current_energy": 0.5, **changes}
    return Plan(
        actions=np.array([action]),
        predicted_states=np.zeros((2, 7)),
        iterations=(),
        evaluations=1,
        seed=0,
        stop_reason="iterations",
        stamp=stamp,
        **values,
    )


def test_an_improving_plan_in_order_becomes_a_move():
    verdict = SafetyLayer(CONFIG).judge(planned(), observe(), 100.1)
    command = verdict.command
    assert (command.kind, command.reason, command.duration, command.stamp) == ("move", "", 0.25, 100.1)
    np.testing.assert_allclose(command.target[:3], [0.55, 0.0, 0.3])
    assert verdict.executed


def test_a_limited_move_says_what_was_limited_and_is_not_executed_as_planned():
    verdict = SafetyLayer(CONFIG).judge(planned((0.2, 0, 0, 0, 0, 0, 0)), observe(), 100.1)
    assert verdict.command.kind == "move"
    assert verdict.command.reason == "max_translation: 0.200 m, allowed 0.130 m (limited)"
    assert not verdict.executed


@pytest.mark.parametrize(
    ("observation", "plan", "now", "text"),
    [
        (observe(image_stamp=99.95), planned(), 100.6, "max_image_age: 0.650 s, allowed 0.500 s (hold)"),
        (observe(), planned(), 100.3, "max_state_age: 0.300 s, allowed 0.200 s (hold)"),
        (observe(), planned(stamp=98.0), 100.1, "max_plan_age: 2.100 s, allowed 1.000 s (hold)"),
        (observe(image_stamp=99.8), planned(), 100.1, "max_skew: -0.200 s, allowed 0.100 s (hold)"),
        (observe(stamp=200.0), planned(), 100.1, "a stamp from the future"),
        (observe(), None, 100.1, "plan: none, allowed a plan (hold)"),
        (
            observe(),
            planned(energy=float("nan")),
            100.1,
            "energies: (nan, 0.5, 0.5), allowed finite (hold)",
        ),
        (
            observe(),
            planned(energy=0.5),
            100.1,
            "plan energy: 0.5000, allowed below 0.5000, standing still",
        ),
        (observe(), planned(energy=0.46, margin=0.1), 100.1, "plan energy: 0.4600, allowed below 0.4500"),
        (observe(), planned(surprise=0.9), 100.1, "max_surprise: 0.900, allowed 0.800 (pause)"),
        (observe(), planned(surprise=float("nan")), 100.1, "max_surprise: nan"),
        (observe(), planned(), float("nan"), "max_image_age: nan s"),
    ],
)
def test_what_holds_and_names_limit_value_and_bound(observation, plan, now, text):
    command = SafetyLayer(CONFIG).command(plan, observation, now)
    assert command.kind == "hold"
    assert text in command.reason
    np.testing.assert_array_equal(command.target, observation.state.vector)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (RobotStatus("reflex"), "robot mode: reflex, allowed idle or move (pause)"),
        (RobotStatus("move", ("joint_velocity_violation",)), "robot errors: joint_velocity_violation"),
        (RobotStatus("move", command_publishers=2), "command publishers: 2, allowed 1, this one (pause)"),
    ],
)
def test_a_robot_that_is_not_ready_pauses_until_resumed(status, text):
    safety = SafetyLayer(CONFIG)
    assert text in safety.command(planned(), observe(), 100.0, status).reason
    assert text in str(safety.paused) + str(safety.command(planned(), observe(), 100.1).reason)
    assert safety.command(planned(), observe(), 100.1, RobotStatus()).kind == "hold"
    safety.resume()
    assert safety.command(planned(), observe(), 100.1, RobotStatus()).kind == "move"


def test_energy_that_rises_again_and_again_pauses():
    safety = SafetyLayer(CONFIG)
    kinds = []
    for i, energy in enumerate((0.5, 0.2, 0.46, 0.46, 0.3, 0.46, 0.47, 0.48)):
        plan = planned(stamp=100.0 + i, current_energy=energy)
        kinds.append(safety.command(plan, observe(stamp=100.0 + i), 100.0 + i).kind)
    assert kinds == ["move"] * 7 + ["hold"]
    assert str(safety.paused) == "max_energy_rise: 0.4800, allowed 0.4500 (pause)"


def test_a_new_goal_forgets_the_energies():
    safety = SafetyLayer(CONFIG)
    safety.command(planned(current_energy=0.1), observe(), 100.0)
    safety.new_goal()
    for _ in range(5):
        assert safety.command(planned(current_energy=0.9), observe(), 100.0).kind == "move"


def test_the_held_pose_does_not_sink_but_a_moved_arm_is_not_pulled_back():
    safety = SafetyLayer(CONFIG)
    sinking = [observe((0.5, 0.0, 0.3 - 0.001 * i, *HOME[3:])) for i in range(10)]
    targets = [safety.command(None, observation, 100.0).target[2] for observation in sinking]
    assert targets == [0.3] * 10
    moved = observe((0.5, 0.2, 0.3, *HOME[3:]))
    np.testing.assert_array_equal(safety.command(None, moved, 100.0).target, moved.state.vector)


def test_a_hold_stops_at_the_measured_pose_and_with_a_stale_state_at_the_last_target():
    safety = SafetyLayer(CONFIG)
    target = safety.command(planned(), observe(), 100.0).target
    np.testing.assert_array_equal(safety.command(None, observe(), 103.0).target, target)
    safety.reset()
    safety.command(planned(), observe(), 100.0)
    np.testing.assert_array_equal(safety.command(None, observe(), 100.1).target[:6], HOME[:6])


def test_a_grasp_is_not_loosened_by_moving_or_holding():
    safety = SafetyLayer(CONFIG)
    closing = safety.command(planned((0, 0, 0, 0, 0, 0, 0.75)), observe(), 100.0)
    assert closing.target[6] == pytest.approx(0.95)
    holding_a_cup = observe((*HOME[:6], 0.5))  # the cup stops the fingers half way
    assert safety.command(planned(), holding_a_cup, 100.1).target[6] == pytest.approx(0.95)
    assert safety.command(None, holding_a_cup, 100.1).target[6] == pytest.approx(0.95)
    opening = safety.command(planned((0, 0, 0, 0, 0, 0, -0.4)), holding_a_cup, 100.1)
    assert opening.target[6] == pytest.approx(0.1)


def test_a_grip_of_before_the_run_is_followed_and_not_taken_for_a_command():
    """The fingers creep as a held object settles: the closedness of a while ago would open them."""
    safety = SafetyLayer(CONFIG)
    for measured in (0.30, 0.32, 0.35):
        observation = observe((*HOME[:6], measured))
        for command in (
            safety.command(planned(), observation, 100.0),
            safety.command(None, observation, 100),
        ):
            assert command.target[6] == pytest.approx(measured)
            assert not command.moves_gripper
    closing = planned((0, 0, 0, 0, 0, 0, 0.5))
    assert safety.command(closing, observation, 100.0).moves_gripper
    assert safety.command(planned(), observation, 100.0).moves_gripper  # what it was told still holds


def test_what_was_commanded_before_a_run_does_not_draw_the_arm_back():
    safety = SafetyLayer(replace(CONFIG, base="commanded"))
    safety.command(planned((0.02, 0, 0, 0, 0, 0, 0.8)), observe(), 100.0)
    safety.command(None, observe(), 100.0)
    guided = observe((0.5, 0.06, 0.3, 3.1, 0.1, -0.7, 0.0))
    safety.begin_run()
    hold = safety.command(None, guided, 100.1)
    np.testing.assert_array_equal(hold.target, guided.state.vector)
    move = safety.command(planned((0.02, 0, 0, 0, 0, 0, 0)), guided, 100.1)
    np.testing.assert_allclose(move.target, guided.state.vector + [0.02, 0, 0, 0, 0, 0, 0], atol=1e-9)
    assert not hold.moves_gripper and not move.moves_gripper


def test_time_running_backwards_starts_afresh():
    safety = SafetyLayer(CONFIG)
    safety.command(planned((0, 0, 0, 0, 0, 0, 0.75)), observe(), 100.0)
    command = safety.command(planned(stamp=5.0), observe(stamp=5.0), 5.0)
    assert command.kind == "move"
    assert command.target[6] == pytest.approx(0.2)  # the gripper target from before is forgotten


def test_dry_run_only_says_what_it_would_do():
    safety = SafetyLayer(replace(CONFIG, dry_run=True))
    command = safety.command(planned(), observe(), 100.0)
    assert command.kind == "hold"
    assert "dry_run: would move to [0.55, 0.0, 0.3" in command.reason
    np.testing.assert_array_equal(command.target, HOME)
    # Nobody holds the arm in a dry run: when it ends, where the arm is then counts.
    guided = observe((0.5, 0.06, 0.3, *HOME[3:]))
    np.testing.assert_array_equal(safety.command(planned(), guided, 100.0).target, guided.state.vector)
    safety.config = CONFIG
    np.testing.assert_array_equal(safety.command(None, observe(), 100.0).target, HOME)


def test_a_commanded_base_does_not_drift_and_gives_way_to_a_far_measured_pose():
    safety = SafetyLayer(replace(CONFIG, base="commanded"))
    first = safety.command(planned(), observe(), 100.0)
    np.testing.assert_allclose(first.target[:3], [0.55, 0.0, 0.3])
    short = observe((0.545, 0.0, 0.295, *HOME[3:]))
    np.testing.assert_allclose(safety.command(planned(), short, 100.0).target[:3], [0.6, 0.0, 0.3])
    far = observe((0.5, 0.1, 0.3, *HOME[3:]))
    np.testing.assert_allclose(safety.command(planned(), far, 100.0).target[:3], [0.55, 0.1, 0.3])


def test_the_setpoint_stream_ends_with_its_command():
    safety = SafetyLayer(CONFIG)
    command = safety.command(planned(), observe(), 100.0)
    moved = safety.setpoint(command, np.array(HOME), 100.1, 0.02)
    assert pose_distance(np.array(HOME), moved)[0] == pytest.approx(0.012)
    for now in (101.5, 99.0, float("nan")):
        np.testing.assert_array_equal(safety.setpoint(command, moved, now, 0.02), moved)


def test_a_twist_arrives_in_time_and_is_never_replayed():
    safety = SafetyLayer(CONFIG)
    command = safety.command(planned((0.05, 0, 0, 0, 0, 0.1, 0)), observe(), 100.0)
    np.testing.assert_allclose(
        safety.twist(command, np.array(HOME), 100.0), [0.2, 0, 0, 0, 0, 0.4], atol=1e-9
    )
    for now in (100.25, 107.0, 99.0, float("nan")):
        np.testing.assert_array_equal(safety.twist(command, np.array(HOME), now), np.zeros(6))
    hold = safety.command(None, observe(), 100.0)
    np.testing.assert_array_equal(safety.twist(hold, np.array(HOME), 100.0), np.zeros(6))


anything = st.floats(allow_nan=True, allow_infinity=True)
time = st.one_of(st.floats(99.0, 101.0), anything)
positions = st.tuples(st.floats(-0.2, 1.2), st.floats(-0.8, 0.8), st.floats(-0.3, 1.0))
states = st.builds(
    lambda p, e, g: (*p, *e, g), positions, st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.floats(0, 1)
)
actions = st.lists(
    st.one_of(st.floats(-0.3, 0.3), st.floats(-1e3, 1e3), st.just(1e300)), min_size=7, max_size=7
)


def mostly(good, bad):
    """Out of order now and then: otherwise nothing but holds would be tested."""
    return st.integers(0, 19).flatmap(lambda number: good if number else bad)


lag = mostly(st.floats(0.0, 0.05), st.one_of(st.floats(-0.3, 1.5), st.floats(-1e6, 1e6)))


@st.composite
def turn(draw):
    now = draw(st.floats(99.0, 101.0))
    observation = observe(draw(states), now - draw(lag), now - draw(lag))
    plan = planned(
        draw(actions),
        now - draw(lag),
        energy=draw(mostly(st.floats(0.0, 0.3), anything)),
        zero_energy=draw(mostly(st.floats(0.3, 1.0), anything)),
        surprise=draw(mostly(st.one_of(st.none(), st.floats(0.0, 0.7)), anything)),
    )
    return (
        draw(mostly(st.just(plan), st.none())),
        observation,
        draw(mostly(st.just(now), st.just(math.nan))),
    )


turns = st.lists(turn(), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(turns=turns, base=st.sampled_from(["measured", "commanded"]), still=st.booleans())
def test_no_command_that_leaves_violates_a_limit(turns, base, still):
    config = replace(CONFIG, base=base, stand_still_when_no_better=still)
    safety = SafetyLayer(config)
    sent = []
    for plan, observation, now in turns:
        command = safety.judge(plan, observation, now).command
        measured = observation.state.vector
        assert np.isfinite(command.target).all()
        assert 0.0 <= command.target[6] <= 1.0
        event(command.kind)
        if command.kind == "move":
            check_move(config, plan, observation, now, command, safety)
        else:
            check_hold(command, measured, sent)
            assert command.reason or plan is not None
        sent.append((command.target, measured))


def check_move(config, plan, observation, now, command, safety):
    measured = observation.state.vector
    distance, angle = pose_distance(measured, command.target)
    tracking = config.max_tracking_error if config.base == "commanded" else 0.0
    assert distance <= LIMITS.max_translation + tracking + 1e-9
    assert angle <= LIMITS.max_rotation * (2 if tracking else 1) + 1e-6
    slack = max(LIMITS.outside(measured[:3]), LIMITS.workspace_slack if tracking else 0.0)
    assert LIMITS.outside(command.target[:3]) <= slack + tracking + 1e-9
    assert now - observation.frame.stamp <= config.max_image_age
    assert now - observation.state.stamp <= config.max_state_age
    assert now - plan.stamp <= config.max_plan_age
    assert abs(observation.frame.stamp - observation.state.stamp) <= config.max_skew
    assert math.isfinite(plan.energy)
    assert math.isfinite(plan.zero_energy)
    assert plan.surprise is None or plan.surprise <= config.max_surprise
    assert plan.improves or not config.stand_still_when_no_better
    assert safety.paused is None


def check_hold(command, measured, sent):
    """A hold stays at a pose the arm was told to be at, or was measured at: it makes up no new one."""
    known = [measured, *(pose for pair in sent for pose in pair)]
    assert any(np.allclose(command.target[:6], pose[:6]) for pose in known)


@settings(max_examples=100, deadline=None)
@given(previous=states, target=states, kind=st.sampled_from(["move", "hold"]), now=time, dt=anything)
def test_no_setpoint_and_no_twist_violates_a_speed(previous, target, kind, now, dt):
    safety = SafetyLayer(CONFIG)
    command = Command(kind, np.array(target), 0.25, 100.0)
    start = np.array(previous)
    following = safety.setpoint(command, start, now, dt)
    distance, angle = pose_distance(start, following)
    seconds = min(dt, 0.25) if dt > 0 else 0.0
    assert distance <= LIMITS.max_speed * seconds + 1e-9
    assert angle <= LIMITS.max_rotation_speed * seconds + 1e-6
    assert LIMITS.outside(following[:3]) <= LIMITS.outside(start[:3]) + 1e-9
    twist = safety.twist(command, start, now)
    assert np.linalg.norm(twist[:3]) <= LIMITS.max_speed + 1e-9
    assert np.linalg.norm(twist[3:]) <= LIMITS.max_rotation_speed + 1e-9
    if kind == "hold" or not 100.0 <= now < 100.25:
        assert (twist == 0).all()


def test_what_the_configuration_refuses():
    limits = {"workspace_low": [0.3, -0.3, 0.1], "workspace_high": [0.7, 0.3, 0.6]}
    assert from_mapping(SafetyConfig, {"limits": limits}) == CONFIG
    with pytest.raises(ConfigError, match="missing limits"):
        from_mapping(SafetyConfig, {}, "safety.yaml")
    with pytest.raises(ConfigError, match=r"max_plan_age: received 0\.0 s, allowed 0\.001 \.\. 60\.0 s"):
        from_mapping(SafetyConfig, {"limits": limits, "max_plan_age": 0})
    for mode in ("run", "Move", "reflex", "guiding", "user_stopped", "other"):
        with pytest.raises(ConfigError, match=f"allowed_modes: received '{mode}', allowed idle, move"):
            replace(CONFIG, allowed_modes=("idle", mode))
    assert replace(CONFIG, allowed_modes=("move",)).allowed_modes == ("move",)
    with pytest.raises(ConfigError, match="base: received 'planned', allowed 'measured', 'commanded'"):
        from_mapping(SafetyConfig, {"limits": limits, "base": "planned"})


def test_a_scripted_pose_passes_the_same_limits() -> None:
    layer = SafetyLayer(SafetyConfig(LIMITS))
    start = RobotState([0.5, 0.0, 0.4, 3.1, 0.0, -0.8, 0.0], stamp=1.0)
    far = np.array([0.5, 5.0, 0.4, 3.1, 0.0, -0.8, 1.0])
    verdict = layer.toward(far, start, 1.0)
    assert verdict.command.kind == "move"
    assert verdict.findings
    assert np.linalg.norm(verdict.command.target[:3] - start.position) <= LIMITS.max_translation + 1e-9
    assert LIMITS.outside(verdict.command.target[:3]) <= 1e-9

    near = start.vector + np.array([0.01, 0, 0, 0, 0, 0, 0])
    assert np.allclose(layer.toward(near, start, 1.0).command.target, near, atol=1e-9)


@pytest.mark.parametrize(
    ("target", "age", "word"),
    [
        ([np.nan] * 7, 0.0, "target: not 7 finite numbers"),
        ([0.5] * 6, 0.0, "target: not 7 finite numbers"),
        ([0.5, 0.0, 0.4, 3.1, 0.0, -0.8, 0.0], 5.0, "max_state_age: 5.000 s"),
    ],
)
def test_a_scripted_pose_that_is_not_usable_holds(target, age, word) -> None:
    layer = SafetyLayer(SafetyConfig(LIMITS))
    start = RobotState([0.5, 0.0, 0.4, 3.1, 0.0, -0.8, 0.0], stamp=1.0)
    command = layer.toward(np.array(target), start, 1.0 + age).command
    assert command.kind == "hold"
    assert word in command.reason
    assert np.array_equal(command.target, start.vector)


def test_a_paused_layer_moves_for_no_script() -> None:
    layer = SafetyLayer(SafetyConfig(LIMITS))
    start = RobotState([0.5, 0.0, 0.4, 3.1, 0.0, -0.8, 0.0], stamp=1.0)
    layer.toward(start.vector, start, 1.0, RobotStatus(mode="reflex"))
    assert layer.toward(start.vector, start, 1.0, RobotStatus(mode="move")).command.kind == "hold"
    layer.resume()
    assert layer.toward(start.vector, start, 1.0, RobotStatus(mode="move")).command.kind == "move"


def frame_at(value, state=HOME, stamp=100.0):
    image = np.full((16, 16, 3), value, dtype=np.uint8)
    return Observation(Frame(image, stamp), RobotState(np.array(state), stamp))


def moved(distance):
    return (HOME[0] + distance, *HOME[1:])


def test_a_camera_that_does_not_see_the_arm_move_is_frozen_until_it_shows_something_else():
    layer = SafetyLayer(CONFIG)
    assert layer.refuse(frame_at(7), 100.0) is None
    assert layer.refuse(frame_at(7, moved(0.02), 100.2), 100.2) is None  # not yet far enough to tell
    frozen = layer.refuse(frame_at(7, moved(0.04), 100.4), 100.4)
    assert frozen.command.kind == "hold"
    assert frozen.command.reason == (
        "max_frozen_motion: equal frames while the arm moved 0.040 m, allowed 0.030 m (hold)"
    )
    assert layer.refuse(frame_at(8, moved(0.04), 100.6), 100.6) is None
    assert layer.refuse(frame_at(8, moved(0.04), 100.8), 100.8) is None  # at rest, equal frames are right
    off = SafetyLayer(replace(CONFIG, max_frozen_motion=None))
    assert off.refuse(frame_at(7), 100.0) is None
    assert off.refuse(frame_at(7, moved(0.2)), 100.0) is None


def test_refusals_come_before_planning_and_pause_where_a_plan_would():
    layer = SafetyLayer(CONFIG)
    assert layer.refuse(observe(), 100.0, RobotStatus()) is None
    late = layer.refuse(observe(stamp=100.0), 101.0)
    assert "max_image_age" in late.command.reason and "max_state_age" in late.command.reason
    skewed = layer.refuse(observe(stamp=100.2, image_stamp=100.0), 100.2)
    assert skewed.command.reason == "max_skew: -0.200 s, allowed 0.100 s (hold)"
    layer.refuse(observe(stamp=100.3), 100.3, RobotStatus(mode="reflex"))
    assert "reflex" in str(layer.paused)
    assert "reflex" in layer.refuse(observe(stamp=100.4), 100.4, RobotStatus()).command.reason
    layer.resume()
    assert layer.refuse(observe(stamp=100.5), 100.5, RobotStatus()) is None


def test_frame_and_state_of_different_moments_may_be_judged_where_they_are_said_to_be():
    skewed = observe(stamp=100.3, image_stamp=100.0)
    plan = planned(stamp=100.0)
    assert "max_skew" in SafetyLayer(CONFIG).judge(plan, skewed, 100.3).command.reason
    assert SafetyLayer(CONFIG).judge(plan, skewed, 100.3, paired=False).command.kind == "move"


def test_an_arm_without_a_fresh_state_or_that_does_not_listen_is_not_ready():
    layer = SafetyLayer(CONFIG)
    assert layer.unready(None, 100.0, None) == "no robot state has been received"
    state = observe().state
    assert layer.unready(state, 100.1, RobotStatus()) == ""
    assert layer.unready(state, 100.3, None) == "max_state_age: 0.300 s, allowed 0.200 s (hold)"
    assert "user_stopped" in layer.unready(state, 100.1, RobotStatus(mode="user_stopped"))
    assert layer.paused is None  # asking is not judging


def test_fingers_on_schedule_move_alone_where_the_arm_has_nothing_to_gain():
    nothing = planned(energy=0.5)
    assert "plan energy" in SafetyLayer(CONFIG).judge(nothing, observe(), 100.1).command.reason
    command = SafetyLayer(CONFIG).judge(nothing, observe(), 100.1, grip=1.0).command
    assert command.kind == "move"
    np.testing.assert_allclose(command.target, [*HOME[:6], 1.0], atol=1e-9)


@pytest.mark.parametrize(
    ("said", "plan", "seen", "status"),
    [
        ("max_plan_age", planned(stamp=98.0), observe(), None),
        ("max_image_age", planned(), observe(image_stamp=98.0), None),
        ("max_state_age", planned(), observe(stamp=99.0, image_stamp=100.0), None),
        ("max_surprise", planned(surprise=1e3), observe(), None),
        ("energies", planned(energy=float("nan")), observe(), None),
        ("reflex", planned(), observe(), RobotStatus(mode="reflex")),
        ("publishers", planned(), observe(), RobotStatus(command_publishers=2)),
    ],
)
def test_fingers_on_schedule_pass_every_other_check_of_a_plan(said, plan, seen, status):
    config = replace(CONFIG, max_surprise=0.5)
    verdict = SafetyLayer(config).judge(plan, seen, 100.1, status, paired=False, grip=1.0)
    assert verdict.command.kind == "hold" and said in verdict.command.reason
    assert verdict.command.target[6] == pytest.approx(HOME[6])


@pytest.mark.parametrize("grip", [float("nan"), float("inf")])
def test_fingers_are_not_sent_to_what_is_no_closedness(grip):
    assert SafetyLayer(CONFIG).judge(planned(), observe(), 100.1, grip=grip).command.kind == "hold"
