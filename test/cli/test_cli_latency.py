from __future__ import annotations

import pytest

pytest.importorskip("gymnasium_robotics")


def test_both_ways_are_run_and_every_episode_is_written(command, tmp_path, read_json):
    out = tmp_path / "latency.json"
    code, text, err = command(
        *("sim", "latency", "--trials", 1, "--seed", 72001, "--plan-seconds", "0.25", "--json", out)
    )
    assert (code, err) == (0, "")
    plain, ahead = read_json(out)["episodes"]
    assert (plain["pipelined"], ahead["pipelined"]) == (False, True)
    assert plain["success"] and ahead["success"]
    assert ahead["reached_s"] < plain["reached_s"]
    assert ahead["fates"]["confirmed"] >= 1
    assert plain["fates"] == {}
    for word in ("sequential", "pipelined", "1/1", f"{ahead['reached_s']:.2f} s"):
        assert word in text


def test_times_that_cannot_be_are_refused(command):
    code, _, err = command("sim", "latency", "--plan-seconds", "-1")
    assert code == 2
    assert "allowed 0 .. 60 s" in err
