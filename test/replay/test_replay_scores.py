from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.replay.scores import Replayed, cosines, gripper_f1, score, signs_agree
from vjepa_ac_planner.replay.table import NUMBERS, TEXTS, StepTable, action_cells
from vjepa_ac_planner.replay.verdict import OPEN_LOOP, Thresholds, judge

finite = st.floats(-1, 1, allow_subnormal=False)
actions = st.lists(st.tuples(*[finite] * 7), min_size=1, max_size=6).map(np.array)


def table(recorded, planned, **columns) -> StepTable:
    """A table of steps; every further column is one value for all, or one per step."""
    rows = []
    for i, (did, would) in enumerate(zip(recorded, planned, strict=True)):
        row = {"index": i, "time": 0.25 * i, "segment": 0, "goal": 0, "at_goal": 0, "command": "move"}
        row |= action_cells("recorded", did) | action_cells("planned", would)
        row |= action_cells("previous", np.zeros(7)) | action_cells("random", np.zeros(7))
        row["energy_planned"] = 0.1
        for name, value in columns.items():
            row[name] = value[i] if isinstance(value, (list, tuple, np.ndarray)) else value
        rows.append(row)
    return StepTable.from_rows(rows)


def scores(recorded, planned, axes=(0, 1, 2), **columns):
    return score([Replayed(table(recorded, planned, **columns), axes, 0.25)])


def moves(count: int = 8) -> np.ndarray:
    rng = np.random.default_rng(1)
    recorded = np.zeros((count, 7))
    recorded[:, :3] = rng.uniform(0.01, 0.05, (count, 3)) * rng.choice([-1, 1], (count, 3))
    return recorded


def test_the_same_plans_as_the_recording_are_perfect():
    found = scores(moves(), moves())
    assert found["sign_agreement"]["value"] == 1.0 and found["sign_agreement"]["n"] == 24
    assert found["cosine_mean"]["value"] == pytest.approx(1.0)
    assert found["errors"]["planned"]["translation_cm"] == 0.0
    assert found["errors"]["length_ratio_median"] == pytest.approx(1.0)


def test_opposite_plans_are_as_wrong_as_can_be():
    found = scores(moves(), -moves())
    assert found["sign_agreement"]["value"] == 0.0
    assert found["cosine_mean"]["value"] == pytest.approx(-1.0)
    lengths = np.linalg.norm(moves()[:, :3], axis=1)
    assert found["errors"]["planned"]["translation_cm"] == pytest.approx(200 * lengths.mean())


def test_errors_are_in_centimetres_and_degrees():
    recorded, planned = np.zeros((1, 7)), np.zeros((1, 7))
    recorded[0, 0], planned[0, 0] = 0.02, 0.05
    planned[0, 5] = math.radians(10)
    found = scores(recorded, planned, axes=tuple(range(7)))["errors"]["planned"]
    assert found["dx_cm"] == pytest.approx(3.0) and found["drz_deg"] == pytest.approx(10.0)
    assert found["rotation_deg"] == pytest.approx(10.0)


@given(actions, actions)
def test_only_searched_axes_count(recorded, noise):
    planned = recorded.copy()
    count = min(len(recorded), len(noise))
    planned[:count, 3:] = noise[:count, 3:]
    plain, noisy = scores(recorded, recorded), scores(recorded, planned)
    assert (
        noisy["sign_agreement"]["value"] == plain["sign_agreement"]["value"]
        or not (plain["sign_agreement"]["n"])
    )
    assert set(noisy["errors"]["planned"]) == {"dx_cm", "dy_cm", "dz_cm", "translation_cm"}
    assert set(noisy["errors"]["recorded_where_not_searched"]) == {"drx_deg", "dry_deg", "drz_deg", "dgrip"}


def test_the_dead_zone_is_of_the_recording_alone():
    recorded = np.zeros((3, 7))
    recorded[:, 0] = 0.0049, 0.0051, -0.02
    planned = np.zeros((3, 7))
    planned[:, 0] = -0.05, 1e-6, 0.0
    agree, counted = signs_agree(recorded, planned, [0, 1, 2])
    assert counted.tolist() == [0, 1, 1]
    assert agree.tolist() == [0, 1, 0], "any sign counts, and none at all is wrong"


@given(actions, st.floats(0.1, 10))
def test_lengths_do_not_change_a_cosine(recorded, factor):
    values, counted = cosines(recorded, factor * recorded)
    assert np.allclose(values[counted], 1.0)
    assert not cosines(recorded, np.zeros_like(recorded))[0].any()


def test_gripper_events():
    recorded = np.array([0.0, 1.0, 0.0, -1.0, 0.05])
    assert gripper_f1(recorded, recorded) == 1.0
    assert gripper_f1(recorded, -recorded) == 0.0
    assert gripper_f1(recorded, np.array([0.0, 1.0, 1.0, 0.0, 0.0])) == pytest.approx(2 * 1 / (2 + 2))
    assert math.isnan(gripper_f1(np.zeros(3), np.zeros(3)))


def test_the_gripper_is_scored_where_it_is_searched():
    recorded = np.zeros((4, 7))
    recorded[1, 6] = 1.0
    left, searched = scores(recorded, recorded), scores(recorded, recorded, axes=(0, 1, 2, 6))
    assert math.isnan(left["gripper_f1"]["value"]) and "does not move" in left["gripper_f1"]["note"]
    assert searched["gripper_f1"]["value"] == 1.0 and searched["gripper_f1"]["baselines"]["zero"] == 0.0


def test_steps_without_a_next_pose_or_a_plan_are_not_compared():
    recorded, planned = moves(5), -moves(5)
    steps = table(recorded, planned)
    steps.numbers["recorded_dx"][1] = np.nan
    steps.numbers["planned_dz"][3] = np.nan
    assert score([Replayed(steps, (0, 1, 2), 0.25)])["compared"] == 3


def test_the_rank_correlation_leaves_out_the_goals_own_frame_and_keeps_goals_apart():
    energy = [0.4, 0.3, 0.2, 0.1, 0.9, 0.4, 0.3, 0.2, 0.1]
    distance = [0.4, 0.3, 0.2, 0.1, 0.0, 0.8, 0.6, 0.4, 0.2]
    found = scores(
        moves(9), moves(9), energy=energy, distance=distance, pixels=[-e for e in energy],
        goal=[0.0] * 5 + [1.0] * 4, at_goal=[0.0] * 4 + [1.0] + [0.0] * 4,
    )["energy_rank_correlation"]  # fmt: skip
    assert found["value"] == pytest.approx(1.0) and found["n"] == 8
    assert found["baselines"]["pixels"] == pytest.approx(-1.0)
    assert found["baselines"]["time_left"] == pytest.approx(1.0)


def test_surprise_is_measured_where_the_arm_moves():
    recorded = moves(6)
    recorded[4:] = 0.0
    found = scores(
        recorded, recorded, surprise=[0.1] * 4 + [9.0] * 2, surprise_copy=0.4, surprise_shuffled=0.3,
        surprise_zero=0.4,
    )["surprise"]  # fmt: skip
    assert found["n"] == 4 and found["value"] == pytest.approx(0.1)
    assert found["ratio"] == pytest.approx(0.25) and found["below_shuffled"]["value"] == 1.0


def test_refusals_are_told_from_standing_still_and_from_cuts():
    steps = table(
        moves(5), moves(5),
        command=["move", "move", "hold", "hold", "hold"],
        limits=["", "max_translation (limited)", "plan energy (hold)", "max_image_age (hold)",
                "max_image_age (hold); plan energy (hold)"],
    )  # fmt: skip
    found = score([Replayed(steps, (0, 1, 2), 0.25)])["refusals"]
    assert (found["steps"], found["standing_still"], found["limited"], found["of"]) == (2, 1, 1, 5)
    assert found["share"] == 0.4
    assert found["by_limit"] == {
        "max_image_age (hold)": 2, "max_translation (limited)": 1, "plan energy (hold)": 2,
    }  # fmt: skip


def test_several_bags_are_scored_together():
    good = Replayed(table(moves(), moves()), (0, 1, 2), 0.25)
    bad = Replayed(table(moves(), -moves()), (0, 1, 2), 0.25)
    found = score([good, bad, bad])
    assert found["sign_agreement"]["value"] == pytest.approx(1 / 3) and found["steps"] == 24


def test_latency():
    found = scores(moves(4), moves(4), plan_seconds=[0.1, 0.2, 0.3, 0.4])["latency"]
    assert found["p50"] == pytest.approx(0.25) and found["over_step"] == 0.5 and found["max"] == 0.4


@given(st.lists(st.floats(allow_infinity=False), min_size=1, max_size=5), st.text())
def test_a_table_survives_csv_to_the_last_bit(values, text):
    text = text.replace("\r", " ").replace("\x00", "").encode("utf-8", "ignore").decode()
    rows = [dict.fromkeys(NUMBERS, value) | dict.fromkeys(TEXTS, text) for value in values]
    steps = StepTable.from_rows(rows)
    again = StepTable.from_csv(steps.to_csv())
    for name in NUMBERS:
        assert np.array_equal(again[name], steps[name], equal_nan=True)
        assert np.array_equal(np.signbit(again[name]), np.signbit(steps[name])) or np.isnan(values).any()
    assert dict(again.texts) == dict(steps.texts)


def test_hours_of_recording_fit_in_memory():
    import tracemalloc

    def rows():
        for i in range(10_000):
            yield {name: float(i) for name in NUMBERS} | {"command": "".join(("mo", "ve"))}

    tracemalloc.start()
    steps = StepTable.from_rows(rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(steps) == 10_000 and peak < 3 * 8 * len(NUMBERS) * len(steps)


def test_a_table_of_other_columns_is_refused():
    with pytest.raises(InputError, match="unknown columns \\['speed'\\]"):
        StepTable.from_rows([{"speed": 1.0}])
    with pytest.raises(InputError, match="lacks the columns"):
        StepTable.from_csv("index,time\n0,1\n")
    header = ",".join((*NUMBERS, *TEXTS))
    with pytest.raises(InputError, match="not a number"):
        StepTable.from_csv(f"{header}\n{'x,' * (len(NUMBERS) - 1)}x,,,,\n")


def test_thresholds_name_what_was_missed():
    found = scores(
        moves(), -moves(), surprise=0.1, surprise_copy=0.1, surprise_shuffled=0.1, surprise_zero=0.1
    )
    met = Thresholds(
        min_sign_agreement=0.0, min_cosine=-1.0, max_surprise_ratio=1.01, max_refusals=0.0, min_steps=8
    )
    assert met.missed(found) == ()
    missed = Thresholds(min_sign_agreement=0.7, min_cosine=0.1, max_surprise_ratio=0.9, min_steps=9).missed(
        found
    )
    assert [text.split()[0] for text in missed] == [
        "--min-sign-agreement", "--min-cosine", "--max-surprise-ratio", "--min-steps",
    ]  # fmt: skip
    assert missed[0] == "--min-sign-agreement 0.7: 0"


def test_what_cannot_be_measured_misses_its_threshold():
    still = np.zeros((5, 7))
    found = scores(still, still)
    assert found["sign_agreement"]["n"] == 0
    (text,) = Thresholds(min_energy_rank_correlation=-1.0).missed(found)
    assert "not measurable" in text
    with pytest.raises(ConfigError, match=r"min_sign_agreement: received 1.2, allowed 0.0 .. 1.0"):
        Thresholds(min_sign_agreement=1.2)


def test_verdicts():
    assert judge(scores(moves(), moves())).level == "good"
    assert judge(scores(moves(), -moves())).level == "bad"
    assert judge(scores(moves(3), moves(3))).level == "few", "9 signs are too few, however well they agree"
    half = moves(40)
    half[::2] *= -1
    verdict = judge(scores(moves(40), half))
    assert verdict.level == "bad", "chance is not enough"
    few = moves(4)
    few[0] *= -1
    verdict = judge(scores(moves(4), few))
    assert verdict.level == "unsure", "nine of twelve: 47 % to 91 % is no evidence against the plans"
    assert "not clear" in verdict.headline
    mixed = moves(40)
    mixed[::3] *= -1
    assert judge(scores(moves(40), mixed)).level == "unsure"
    still = judge(scores(np.zeros((5, 7)), np.zeros((5, 7))))
    assert still.level == "few" and "never moves far enough" in still.sentences[0]


def test_a_model_that_foresees_nothing_is_not_good_however_its_plans_agree():
    blind = {"surprise": 0.4, "surprise_copy": 0.4, "surprise_shuffled": 0.4, "surprise_zero": 0.4}
    verdict = judge(scores(moves(), moves(), **blind))
    assert verdict.level == "unsure" and "cannot foresee" in verdict.headline
    assert any("do not trust its plans" in text for text in verdict.sentences)
    seeing = blind | {"surprise": 0.2}
    assert judge(scores(moves(), moves(), **seeing)).level == "good"


def test_a_sound_model_that_disagrees_points_to_sub_goals():
    sound = {
        "energy": np.linspace(1, 0.1, 40), "distance": np.linspace(1, 0.1, 40), "pixels": 0.1,
        "surprise": 0.1, "surprise_copy": 0.4, "surprise_shuffled": 0.3, "surprise_zero": 0.4,
    }  # fmt: skip
    assert any("sub-goals" in text for text in judge(scores(moves(40), -moves(40), **sound)).sentences)
    assert not any("sub-goals" in text for text in judge(scores(moves(40), moves(40), **sound)).sentences)


def test_the_caveat_says_that_success_is_not_shown():
    assert (
        "open loop" in OPEN_LOOP
        and "cannot show that the planner would have completed the task" in OPEN_LOOP
    )
