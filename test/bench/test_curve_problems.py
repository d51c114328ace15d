"""Stored planning problems: the shipped ones, the file, and how they are made."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest

from vjepa_ac_planner.bench.problems import SHOWING, TUNING, Problem, load_problems, save_problems
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.types import Frame, RobotState

STATE = [0.45, 0.05, 0.35, -3.05, 0.03, -1.91, 0.1]


def some(count=3):
    rng = np.random.default_rng(0)

    def frame():
        return Frame(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))

    return [
        Problem(frame(), RobotState(np.array(STATE) + 0.001 * i), frame(), 80000 + 5000 * i, "reach", 0.1)
        for i in range(count)
    ]


def test_the_shipped_problems_cover_what_they_promise():
    problems = load_problems()
    seeds = [problem.seed for problem in problems]
    assert len(set(seeds)) == len(seeds) >= 120
    assert all(seed in TUNING or seed in SHOWING for seed in seeds)
    assert len(load_problems(seeds=SHOWING)) >= 100
    kinds = Counter(problem.kind for problem in problems)
    assert set(kinds) == {
        "reach", "grasp_cup", "grasp_box", "reach_with_object", "pick_place_cup", "pick_place_box"
    }  # fmt: skip
    distances = np.array([problem.distance for problem in problems])
    assert distances.max() <= 0.40 and np.percentile(distances, 90) > 0.2
    assert (distances < 0.05).sum() >= 10
    closed = np.array([problem.state.gripper for problem in problems]) > 0.3
    assert 0.1 < closed.mean() < 0.9  # with and without an object in hand
    for problem in problems:
        assert problem.frame.image.shape == problem.goal.image.shape
        assert (problem.frame.image != problem.goal.image).any()


def test_problems_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "deep" / "problems.npz"
    save_problems(path, some())
    loaded = load_problems(path)
    for before, after in zip(some(), loaded, strict=True):
        np.testing.assert_array_equal(before.frame.image, after.frame.image)
        np.testing.assert_array_equal(before.goal.image, after.goal.image)
        np.testing.assert_array_equal(before.state.vector, after.state.vector)
        assert (before.seed, before.kind, before.distance) == (after.seed, after.kind, after.distance)
    assert [problem.seed for problem in load_problems(path, SHOWING)] == [85000]
    assert [entry.name for entry in path.parent.iterdir()] == ["problems.npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"goals": np.array([7])},
        {"goals": np.array([-1])},
        {"states": np.zeros((0, 7))},
        {"states": np.zeros((1, 6))},
        {"sizes": np.array(["a", "b"])},
        {"seeds": np.array(["x"])},
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change):
    path = tmp_path / "problems.npz"
    save_problems(path, some(1))
    np.savez(path, **{**np.load(path), **change})
    with pytest.raises(InputError, match=r"problems.npz: is damaged .*`vjepa-ac problems make --out"):
        load_problems(path)


def test_files_that_are_missing_damaged_or_hold_nothing_fit(tmp_path):
    path = tmp_path / "problems.npz"
    with pytest.raises(InputError, match=r"no such file; make one with `vjepa-ac problems make --out"):
        load_problems(path)
    save_problems(path, some(1))
    with pytest.raises(InputError, match=r"holds no problem with a seed in range\(85000, 90000\)"):
        load_problems(path, SHOWING)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is no file of planning problems; make one with"):
            load_problems(path)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_problems(tmp_path)
    np.savez(path, images=np.zeros(3, dtype=np.uint8))
    with pytest.raises(InputError, match="is no file of planning problems"):
        load_problems(path)


def test_problems_are_made_anew_the_same_and_lie_on_the_way_to_their_goal():
    if find_spec("mujoco") is None or find_spec("gymnasium_robotics") is None:
        pytest.skip("needs the simulator")
    from vjepa_ac_planner.cli.problems import KINDS, make_problems
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig

    with PandaSim(SimConfig(width=64, height=64)) as sim:
        first, again = (list(make_problems((80000, 80001), sim)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.kind == KINDS[one.seed % len(KINDS)]
        np.testing.assert_array_equal(one.frame.image, other.frame.image)
        np.testing.assert_array_equal(one.state.vector, other.state.vector)
        assert one.distance <= 0.40
