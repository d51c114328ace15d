from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise

import pytest
from ros_domains import own_domain

from vjepa_ac_planner.cli import ros_processes
from vjepa_ac_planner.cli.main import build_parser

ROS = find_spec("rclpy") is not None and find_spec("gymnasium_robotics") is not None
needs_ros = pytest.mark.skipif(not ROS, reason="needs the ros and sim extras")


@pytest.mark.parametrize("node", ["planner", "sim"])
def test_what_follows_ros_args_goes_to_the_node_untouched(node):
    words = ["-p", "robot:=sim", "-r", "a:=b", "--log-level", "debug", "--help"]
    args = build_parser().parse_args(["ros", node, "--ros-args", *words])
    assert args.ros_args == words
    assert build_parser().parse_args(["ros", node]).ros_args is None


def test_options_of_the_player_are_its_own():
    args = build_parser().parse_args(["ros", "play", "run.mcap", "--clock", "100", "--loop"])
    assert (args.bag, args.options) == ("run.mcap", ["--clock", "100", "--loop"])


@pytest.mark.parametrize("words", ["planner", "sim", "demo", "soak", "play run.mcap"])
def test_a_machine_without_ros_is_told_how_to_get_it(command, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    code, out, err = command("ros", *words.split())
    assert (code, out) == (3, "")
    assert "pip install 'vjepa_ac_planner[ros]'" in err and "setup.bash" in err


@needs_ros
@pytest.mark.parametrize("words", ["planner", "sim", "demo", "soak", "play run.mcap"])
def test_humble_is_refused_by_name(command, monkeypatch, words):
    monkeypatch.setattr(ros_processes, "find_spec", lambda name: None)
    monkeypatch.setenv("ROS_DISTRO", "humble")
    code, out, err = command("ros", *words.split())
    assert (code, out) == (3, "")
    assert "received humble without rclpy.event_handler" in err and "Jazzy or later" in err


@needs_ros
def test_the_node_itself_refuses_humble():
    script = (
        "import sys, rclpy.action, rclpy.lifecycle; sys.modules['rclpy.event_handler'] = None; "
        "import vjepa_ac_planner.ros.planner_node"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"ROS_DISTRO": "humble"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "MissingDependencyError: ROS 2: received humble without" in last
    assert "allowed Jazzy or later" in last


def left_behind(marker: str) -> list[str]:
    """Processes of this machine that carry an environment variable of ours."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if marker.encode() in file.read() and int(pid) != os.getpid():
                    found.append(pid)
        except OSError:
            continue
    return found


def run(verb: str, *words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """``ros demo`` or ``ros soak`` in a domain of its own, and what it has left behind."""
    marker = f"VJEPA_TEST_{os.getpid()}"
    with own_domain() as domain:
        done = subprocess.run(
            [sys.executable, "-m", "vjepa_ac_planner", "ros", verb, "--domain", str(domain), *words],
            env=os.environ | {marker: "1"},
            capture_output=True,
            text=True,
            timeout=180,
        )
    return done, left_behind(marker)


@pytest.mark.ros
@needs_ros
def test_two_processes_reach_the_goal_over_dds(tmp_path, read_json):
    out = tmp_path / "ros.json"
    done, left = run("demo", "--seed", "3", "--plans", "10", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 reached" in done.stdout and done.stderr == ""
    record = read_json(out)
    assert record["success_rate"] == 1.0 and record["max_final_error_m"] < 0.04
    assert 0.0 < record["ci95"][0] < 1.0 == record["ci95"][1]
    (episode,) = record["episodes"]
    assert 0.14 < episode["errors_m"][0] < 0.36
    assert episode["setpoints"]["received"] > 20 and episode["setpoints"]["refused"] == {}
    assert all(len(values) == 2 for values in record["overhead"].values())
    assert left == []


@pytest.mark.ros
@needs_ros
def test_a_node_that_dies_is_named_with_its_last_words():
    done, left = run("demo", "--model", "no-such-model")
    assert done.returncode == 1
    assert "the planner node ended with code" in done.stderr and "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr
    assert left == []


@pytest.mark.ros
@needs_ros
def test_a_soak_counts_what_both_nodes_do(tmp_path, read_json):
    out = tmp_path / "soak.json"
    words = ("--minutes", "0.2", "--state-rate", "300", "--goal-seconds", "5", "--json", str(out))
    done, left = run("soak", *words)
    record = read_json(out)
    # Whether there was a gap is this machine's affair; that the exit code says so is ours.
    assert done.returncode == (record["gaps_over_two_periods"] > 0), done.stdout + done.stderr
    assert f"{record['setpoints']:,} setpoints in " in done.stdout and done.stderr == ""
    assert ("kept" if done.returncode == 0 else "missed") + " the beat" in done.stdout
    assert record["seconds"] >= 12.0 and record["setpoints"] > 50
    assert record["frames_per_s"] > 0.5 and record["plans_per_s"] > 0.0 and record["states_per_s"] > 10
    first, *windows = record["samples"]
    assert len(windows) >= 2 and all(b["seconds"] - a["seconds"] >= 5.0 for a, b in pairwise(windows[:-1]))
    assert record["host_quiet"]["windows"] + record["host_stealing"]["windows"] == len(windows)
    assert windows[-1]["setpoints"] - first["setpoints"] == record["setpoints"]
    assert windows[-1]["planner"]["memory_mb"] > 100 and windows[-1]["planner"]["threads"] > 3
    assert left == []


@pytest.mark.ros
@pytest.mark.slow
@needs_ros
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_soak_that_is_told_to_end_says_what_it_has_seen_and_leaves_nothing(tmp_path, read_json, number):
    """Also in the background of a shell, which has SIGINT ignored."""
    out, marker = tmp_path / "soak.json", f"VJEPA_TEST_{os.getpid()}"
    with own_domain() as domain:
        soak = subprocess.Popen(
            [
                *(sys.executable, "-m", "vjepa_ac_planner", "ros", "soak", "--domain", str(domain)),
                *("--minutes", "100", "--width", "64", "--height", "64", "--json", str(out)),
            ],
            env=os.environ | {marker: "1", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        try:
            for line in soak.stdout:
                if line.startswith("  min"):
                    break
            time.sleep(8.0)  # a window has five seconds
            soak.send_signal(number)
            text, _ = soak.communicate(timeout=60.0)
            assert soak.returncode == 130
        finally:
            soak.kill()
            soak.communicate()
    record = read_json(out)
    assert record["interrupted"] and record["setpoints"] > 50 and len(record["samples"]) >= 2
    assert f"{record['setpoints']:,} setpoints in " in text
    assert left_behind(marker) == []


@pytest.mark.parametrize(
    ("option", "value"), [("--minutes", "0"), ("--state-rate", "2000"), ("--goal-seconds", "nan")]
)
def test_a_soak_that_cannot_be_is_refused_before_anything_starts(command, option, value):
    code, out, err = command("ros", "soak", option, value)
    assert (code, out) == (2, "") and f"{option}: received" in err and "allowed" in err
