from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("gymnasium_robotics") is None:  # not importorskip: the package must import mujoco itself
    pytest.skip("needs the sim extra", allow_module_level=True)


def test_both_ways_are_run_and_every_episode_is_written(command, tmp_path, read_json):
    out = tmp_path / "latency.json"
    code, text, err = command(
        *("sim", "latency", "--trials", 1, "--seed", 72001, "--plan-seconds", "0.25", "--json", out)
    )
    assert (code, err) == (0, "")
    plain, ahead = read_json(out)["episodes"]
    assert (plain["pipelined"], ahead["pipelined"]) == (False, True)
    assert plain["fates"] == {} and ahead["fates"]
    assert all(one["plan_s"] == 0.25 and one["steps"] > 1 for one in (plain, ahead))
    assert ahead["seconds"] / ahead["steps"] < plain["seconds"] / plain["steps"] + 1e-6
    for word in ("sequential", "pipelined", "0.25 s", f"{100 * ahead['final_error_m']:.1f} cm"):
        assert word in text


@pytest.mark.parametrize("option", ["--plan-seconds", "--look-seconds"])
@pytest.mark.parametrize("value", ["-1", "nan", "61"])
def test_times_that_cannot_be_are_refused(command, option, value):
    code, _, err = command("sim", "latency", option, value)
    assert code == 2
    assert f"argument {option}: received {value}, allowed 0 .. 60" in err
