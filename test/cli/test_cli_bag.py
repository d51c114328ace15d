from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.cli import bag as bag_command
from vjepa_ac_planner.cli.bag import add_parser
from vjepa_ac_planner.errors import BagError, MissingDependencyError

T0 = 1_700_000_000_000_000_000


@pytest.fixture
def run(capsys):
    """Run ``bag`` by itself; returns exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        add_parser(parser.add_subparsers(required=True))
        args = parser.parse_args(["bag", *map(str, arguments)])
        code = args.handler(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def recording(tmp_path):
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / "run.mcap") as writer:
        for i in range(45):
            stamp = T0 + i * 66_666_667
            writer.pose("/ee", [0.4 + 0.001 * i, 0, 0.3, 3.0, 0, 0.2], stamp + 3_000_000)
            if not 20 <= i < 30:
                image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                writer.image("/cam", image, stamp, "camera")
    return tmp_path / "run.mcap"


def test_info_shows_topics_samples_and_problems(run, recording, tmp_path):
    code, text, err = run("info", recording, "--json", tmp_path / "info.json")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "/cam" in lines["image"] and "35" in lines["image"]
    assert "/ee" in lines["pose"] and "15.0 Hz" in lines["pose"]
    assert "samples at 4 Hz: 10 in 2 segments, 1 gap\n" in text
    assert "skipped 1 x gap" in text and "note: no gripper topic" in text
    assert "frame to pose: 3 .. 3 ms" in text
    record = json.loads((tmp_path / "info.json").read_text())
    assert record["samples"] == 10 and record["topics"]["/cam"]["longest_pause_s"] == pytest.approx(
        0.733, abs=0.01
    )
    assert record["chosen"] == {"image": "/cam", "pose": "/ee", "gripper": None, "goal": None}


def test_info_of_a_recording_without_samples_is_exit_code_1(run, recording):
    code, _, err = run("info", recording, "--max-skew", 0.001)
    assert code == 1 and "not one sample" in err and err.count("\n") == 1


def test_options_reach_the_reader(run, recording, tmp_path):
    with pytest.raises(BagError, match="image topic '/nope' is not in the recording"):
        run("info", recording, "--image-topic", "/nope")
    code, text, _ = run("info", recording, "--pose-frame", "hand_tcp", "--clock", "receive", "--step", 0.5)
    assert code == 0 and "samples at 2 Hz" in text


def test_bench_times_this_reader_and_others(run, recording, tmp_path):
    code, text, _ = run("bench", recording, "--json", tmp_path / "bench.json")
    assert code == 0
    rates = json.loads((tmp_path / "bench.json").read_text())["rates"]
    assert set(rates) == {"read", "decode", "read, rosbags", "decode, rosbags", "read, mcap", "samples"}
    assert all(rate > 0 for rate in rates.values())
    assert all(way in text for way in rates)


def test_convert_reports_each_episode_and_fails_if_one_does(run, tmp_path, monkeypatch):
    from vjepa_ac_planner.bags import convert_droid as module
    from vjepa_ac_planner.bags.convert import Converted

    def fake(source, out, camera, pairing):
        assert (source, out, camera, pairing) == (tmp_path, tmp_path / "out", "11", "index")
        yield Converted("a", out / "a.mcap", 5, 5, notes=["a note"])
        yield Converted("b", out / "b.mcap", existed=True)
        yield Converted("c", out / "c.mcap", problem="c: is broken")

    monkeypatch.setattr(module, "convert_droid", fake)
    code, text, err = run(
        "convert", "droid", tmp_path, "--out", tmp_path / "out", "--camera", 11, "--pairing", "index",
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 1 and "c: is broken" in err
    assert "a.mcap: 5 frames, 5 states; a note" in text and "b.mcap: exists" in text
    assert "2 of 3 episodes; 5 frames" in text
    assert [e["source"] for e in json.loads((tmp_path / "r.json").read_text())["episodes"]] == [
        "a",
        "b",
        "c",
    ]


def test_lerobot_options_reach_the_converter(run, tmp_path, monkeypatch):
    from vjepa_ac_planner.bags import convert_lerobot as module

    seen = []
    monkeypatch.setattr(module, "convert_lerobot", lambda *arguments: seen.append(arguments) or iter(()))
    assert (
        run("convert", "lerobot", tmp_path, "--out", "o", "--episodes", "2:4", "--gripper-means", "width")[
            0
        ]
        == 0
    )
    assert seen[0][3] == range(2, 4) and seen[0][2].gripper_means == "width"
    with pytest.raises(SystemExit):
        run("convert", "lerobot", tmp_path, "--out", "o", "--episodes", "x")


def test_a_missing_extra_is_named(run, recording, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    with pytest.raises(MissingDependencyError, match=r"\[bags\]"):
        run("info", recording)
    assert bag_command.STEP_SECONDS == 0.25
