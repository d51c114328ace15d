from __future__ import annotations

import numpy as np
import pytest

from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.safety import SafetyConfig, SafetyLayer
from vjepa_ac_planner.errors import DeviceMemoryError, InputError, PlanningError
from vjepa_ac_planner.replay.goals import find_goals, parse_goal
from vjepa_ac_planner.replay.lockstep import RANDOM, Lockstep
from vjepa_ac_planner.replay.recording import survey
from vjepa_ac_planner.replay.scores import Replayed, score

STRAIGHT = [[0.02, 0.03, 0.01]] * 8


def replay(planner, recording, safety, *goals, seed=0, on_moment=None):
    found = survey(recording, 0.25)
    chain = find_goals(recording, found, [parse_goal(text) for text in goals or ["last"]], None, 0.25)
    return Lockstep(planner, safety, 0.25, seed).run(recording, found, chain, on_moment)


def test_a_model_that_knows_the_world_agrees_with_a_straight_way(walk, make_planner, safety):
    done = replay(make_planner(), walk(STRAIGHT), safety)
    found = score([Replayed(done.steps, (0, 1, 2), 0.25)])
    assert found["sign_agreement"]["value"] == 1.0 and found["sign_agreement"]["n"] == 24
    assert found["sign_agreement"]["baselines"]["zero"] == 0.0
    assert found["cosine_mean"]["value"] > 0.8
    assert found["energy_rank_correlation"]["value"] == pytest.approx(1.0)
    assert found["energy"]["recorded_below_zero"]["value"] == 1.0
    assert found["refusals"]["steps"] == 0 and found["refusals"]["standing_still"] == 1
    assert found["surprise"]["ratio"] < 0.01, "it foresees everything, to the rounding of its images"
    assert done.steps["distance"][0] == pytest.approx(8 * np.linalg.norm(STRAIGHT[0]))


def test_a_model_that_mistakes_left_for_right_does_not(walk, make_planner, point_model, safety):
    class Mirrored(type(point_model)):
        def rollout(self, z0, s0, actions):
            latents, states = super().rollout(z0, s0, -actions)
            return latents, states

    found = score(
        [Replayed(replay(make_planner(Mirrored()), walk(STRAIGHT), safety).steps, (0, 1, 2), 0.25)]
    )
    assert found["sign_agreement"]["value"] == 0.0
    assert found["surprise"]["ratio"] == pytest.approx(2.0, abs=0.01), "twice as wrong as no change"
    assert found["energy"]["recorded_below_zero"]["value"] == 0.0


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(walk, make_planner, safety):
    def columns(seed):
        return replay(make_planner(), walk(STRAIGHT), safety, seed=seed).steps

    first, again, other = columns(3), columns(3), columns(4)
    kept = [name for name in first.numbers if name != "plan_seconds"]
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in kept)
    assert not np.array_equal(first["planned_dx"], other["planned_dx"])
    assert not np.array_equal(first["random_dx"], other["random_dx"])


def test_plans_are_those_of_the_planner_with_the_seed_of_their_step(walk, make_planner, safety):
    recording, planner = walk(STRAIGHT), make_planner()
    done = replay(planner, recording, safety, seed=11)
    plan = planner.plan(recording.observations[5], done.goals[0].goal, seed=16)
    assert np.array_equal(done.steps.actions("planned")[5], plan.action)


def test_random_actions_are_not_those_that_the_search_begins_with(walk, make_planner, safety):
    """With the search's own seed the baseline would be one of its candidates."""
    moments = []
    replay(make_planner(), walk(STRAIGHT), safety, on_moment=moments.append)
    planner = make_planner()
    seen = {tuple(moment.row[f"random_d{axis}"] for axis in "xyz") for moment in moments}
    assert len(seen) == len(moments)
    import torch

    from vjepa_ac_planner.planning.proposals import ActionSpace

    space = ActionSpace(planner.config.search, 1)
    noise = space.draw(1, RANDOM, torch.Generator().manual_seed(0))[0]
    drawn = space.clip(space.mean + space.std * noise)[0, 0, :3].tolist()
    assert tuple(drawn) not in seen


def test_chance_is_what_random_actions_get(walk, make_planner, safety):
    way = [[0.02, -0.03, 0.01], [-0.02, 0.03, 0.01]] * 20
    done = replay(make_planner(), walk(way), safety)
    found = score([Replayed(done.steps, (0, 1, 2), 0.25)])
    assert found["sign_agreement"]["baselines"]["random"] == pytest.approx(0.5, abs=0.04)
    assert found["cosine_mean"]["baselines"]["random"] == pytest.approx(0.0, abs=0.08)


def test_actions_do_not_cross_a_gap(walk, make_planner, safety):
    segments = [0] * 4 + [1] * 5
    steps = replay(make_planner(), walk(STRAIGHT, segments), safety).steps
    assert np.isnan(steps.actions("recorded")[[3, 8]]).all()
    assert np.isfinite(np.delete(steps.actions("recorded"), [3, 8], axis=0)).all()
    assert np.isnan(steps["surprise"][[3, 8]]).all() and np.isnan(steps["energy_recorded"][[3, 8]]).all()
    assert not steps.actions("previous")[4].any(), "there is nothing to copy after a gap"
    assert steps.actions("previous")[5] == pytest.approx(steps.actions("recorded")[4])


def test_behind_the_last_goal_nothing_is_planned(walk, make_planner, safety):
    steps = replay(make_planner(), walk(STRAIGHT), safety, "1.0").steps
    assert np.isfinite(steps["energy_planned"][:5]).all() and np.isnan(steps["energy_planned"][5:]).all()
    assert steps["at_goal"][4] == 1.0 and steps["at_goal"][:4].sum() == 0
    assert steps.texts["command"][5:] == ("",) * 4


def test_sub_goals_turn_the_plans(walk, make_planner, safety):
    way = [[0.03, 0, 0]] * 4 + [[0, 0.03, 0]] * 4
    straight = replay(make_planner(), walk(way), safety).steps
    chained = replay(make_planner(), walk(way), safety, "4", "last").steps
    assert (straight["planned_dy"][:3] > 0.02).all(), "straight to the end"
    assert (np.abs(chained["planned_dy"][:3]) < 0.02).all() and (chained["planned_dx"][:3] > 0.02).all()
    assert chained["goal"].tolist() == [0] * 5 + [1] * 4


def test_with_a_horizon_the_recorded_sequence_is_rated_as_a_whole(walk, make_planner, safety):
    done = replay(make_planner(horizon=3), walk(STRAIGHT), safety)
    energies = done.steps["energy_recorded"]
    assert np.isnan(energies[6:]).all(), "fewer than three actions are left"
    step = np.abs(STRAIGHT[0]).mean()
    assert energies[:6] == pytest.approx([(8 - i - 3) * step for i in range(6)], abs=1e-4)


def test_a_plan_that_fails_is_a_hold_with_its_reason(walk, make_planner, point_model, safety):
    class Failing(type(point_model)):
        calls = 0

    planner = make_planner(Failing())
    made = planner.plan

    def plan(observation, goal, **options):
        Failing.calls += 1
        if Failing.calls == 3:
            raise PlanningError("no candidate has a finite energy")
        return made(observation, goal, **options)

    planner.plan = plan
    steps = replay(planner, walk(STRAIGHT), safety).steps
    assert steps.texts["command"][2] == "hold" and "plan (hold)" in steps.texts["limits"][2]
    assert steps.texts["error"][2] == "PlanningError: no candidate has a finite energy"
    assert np.isnan(steps["planned_dx"][2]) and np.isfinite(steps["planned_dx"][3])
    found = score([Replayed(steps, (0, 1, 2), 0.25)])
    assert found["refusals"]["steps"] == 1 and found["refusals"]["no_plan"] == 1


def test_a_device_that_gives_out_ends_the_replay(walk, make_planner, safety):
    planner = make_planner()

    def plan(*_, **__):
        raise DeviceMemoryError("out of memory")

    planner.plan = plan
    with pytest.raises(DeviceMemoryError):
        replay(planner, walk(STRAIGHT), safety)


def test_the_safety_layer_judges_in_the_shadow_and_goes_on_after_a_pause(walk, make_planner):
    tight = SafetyLayer(SafetyConfig(MotionLimits((0.2, -0.6, 0.0), (0.9, 0.6, 0.9), max_translation=0.01)))
    steps = replay(make_planner(), walk(STRAIGHT), tight).steps
    assert all("max_translation (limited)" in text for text in steps.texts["limits"][:7])
    # Away from the goal the energy rises above its lowest: a pause, once, and then judged afresh.
    away = walk([[0.03, 0, 0]] * 2 + [[-0.04, 0, 0]] * 10 + [[0.04, 0, 0]] * 9)
    wary = SafetyLayer(SafetyConfig(MotionLimits((0.0, -0.6, 0.0), (0.9, 0.6, 0.9)), max_energy_rise=0.2))
    steps = replay(make_planner(), away, wary).steps
    pauses = [i for i, text in enumerate(steps.texts["limits"]) if "max_energy_rise (pause)" in text]
    assert pauses and steps.texts["command"][pauses[0]] == "hold"
    assert steps.texts["command"][pauses[0] + 1] == "move"


def test_surprise_reaches_the_safety_layer(walk, make_planner, point_model):
    class Lost(type(point_model)):
        def rollout(self, z0, s0, actions):
            latents, states = super().rollout(z0, s0, actions)
            return latents + 1.0, states

    layer = SafetyLayer(SafetyConfig(MotionLimits((0.2, -0.6, 0.0), (0.9, 0.6, 0.9)), max_surprise=0.8))
    steps = replay(make_planner(Lost()), walk(STRAIGHT), layer).steps
    assert "max_surprise (pause)" in steps.texts["limits"][1]
    assert "max_surprise" not in steps.texts["limits"][0]


def test_a_recording_that_changes_while_it_is_read_is_refused(walk, make_planner, safety):
    recording = walk(STRAIGHT)
    found = survey(recording, 0.25)
    goals = find_goals(recording, found, [parse_goal("last")], None, 0.25)
    recording.observations.append(recording.observations[0])
    recording.segments.append(0)
    with pytest.raises(InputError, match="is it still being written"):
        Lockstep(make_planner(), safety, 0.25).run(recording, found, goals)
    del recording.observations[-3:], recording.segments[-3:]
    with pytest.raises(InputError, match="9 samples when it was first read and 7 now"):
        Lockstep(make_planner(), safety, 0.25).run(recording, found, goals)


def test_a_recording_without_a_sample_says_what_was_skipped(walk):
    recording = walk([])
    recording.observations, recording.segments = [], []
    recording.skipped = {"frame without a pose near it": 12}
    with pytest.raises(InputError, match="frame without a pose near it: 12"):
        survey(recording, 0.25)


def test_one_sample_alone_is_replayed_and_has_nothing_to_compare(walk, make_planner, safety):
    done = replay(make_planner(), walk([]), safety)
    found = score([Replayed(done.steps, (0, 1, 2), 0.25)])
    assert found["steps"] == 1 and found["compared"] == 0
