"""``sim eval`` beyond reaching: all tasks, resuming, films, tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("gymnasium_robotics") is None:  # not importorskip: the package must import mujoco itself
    pytest.skip("needs the sim extra", allow_module_level=True)

RANDOM = ("sim", "eval", "--policy", "random", "--seed", 7)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_tasks_give_cells_and_a_table(command, tmp_path, read_json):
    from vjepa_ac_planner.sim.tasks import TASKS

    out, extra = tmp_path / "run", tmp_path / "all.json"
    code, text, err = command(
        *RANDOM,
        "--task",
        "all",
        "--trials",
        1,
        "--randomise",
        1,
        "--no-films",
        "--out",
        out,
        "--json",
        extra,
    )
    assert (code, err) == (0, "")
    record = read_json(out / "table2.json")
    assert record == read_json(extra)
    assert tuple(record["cells"]) == TASKS and record["seeds"] == [7, 7]
    assert {"success_rate", "trials", "ci95", "causes"} <= set(record["cells"]["grasp_box"])
    assert record["protocol"]["randomise"] == 1 and record["command"]
    assert (out / "table2.md").read_text() in text + "\n"
    assert "V-JEPA 2-AC, real robot (published) | 100 | 65 | 25 | cup 75, box 75 | 80 | 65 |" in text

    code, text, _ = command("sim", "table", f"chance={extra}", "--into", tmp_path / "table.md")
    assert code == 0 and "| chance |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}", "without 'cells'"),
        (b"[]", "it is no mapping"),
        (b"half", "it is not JSON"),
        (b"\x89PNG" * 1000, "it is not JSON"),
    ],
)
def test_a_table_of_something_else_is_refused_in_one_line(command, tmp_path, content, why):
    (tmp_path / "none.json").write_bytes(content)
    code, _, err = command("sim", "table", tmp_path / "none.json")
    assert code == 2 and err.count("\n") == 1 and len(err) < 300
    assert f"is not a result file of `vjepa-ac sim eval` ({why})" in err


def test_the_shipped_results_can_be_put_into_a_table(command):
    models = Path(__file__).parents[2] / "models" / "panda-sim"
    code, text, _ = command("sim", "table", models / "reach.json", models / "table2.json")
    assert code == 0 and "| panda-sim, planner, preset demo | 100 (96 to 100, n=100) |" in text


def test_one_success_and_one_failure_are_filmed(command, tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    code, text, _ = command(*RANDOM, "--trials", 1, "--out", tmp_path)
    (film,) = (tmp_path / "films").iterdir()
    assert code == 0 and film.name == "reach-failure-7.webp" and "came out differently" not in text
    with Image.open(film) as frames:
        assert frames.n_frames == 12 * 3 + 1 and frames.size == (320, 346)


def test_a_run_that_was_stopped_goes_on_and_other_settings_are_refused(command, tmp_path, read_json):
    whole, part = tmp_path / "whole", tmp_path / "part"
    base = (*RANDOM, "--trials", 2, "--no-films", "--out")
    assert command(*base, whole)[0] == 0
    assert command(*RANDOM, "--trials", 1, "--no-films", "--out", part)[0] == 0
    ledger, (_, _, second) = part / "trials.jsonl", (whole / "trials.jsonl").read_bytes().splitlines()
    ledger.write_bytes(ledger.read_bytes() + second[:-20])  # killed while it wrote the second trial
    code, text, _ = command(*base, part)
    assert code == 0 and "1 of 2 trials were made before" in text
    ends = [[trial["errors_m"] for trial in lines(run / "trials.jsonl")[1:]] for run in (whole, part)]
    assert ends[0] == ends[1]
    cells = [read_json(run / "table2.json")["cells"]["reach"] for run in (whole, part)]
    assert cells[0]["median_final_error_m"] == cells[1]["median_final_error_m"]

    code, _, err = command(*base, part, "--settled-below", 0.01)
    assert code == 2 and "protocol.settled_below: 0.004 there, 0.01 now" in err


def test_goal_logic_can_be_switched_off_piece_by_piece(command, tmp_path, read_json):
    out = tmp_path / "eval.json"
    base = ("sim", "eval", "--task", "grasp_cup", "--trials", 1, "--seed", 7, "--json", out)
    pieces = ("--gripper", "plan", "--switch", "steps", "--no-full-grip", "--known-states")
    code, _, err = command(*base, *pieces, "--set", "state_weight=0.5", "cem.samples=8")
    assert (code, err) == (0, "")
    record = read_json(out)
    logic = record["protocol"]
    assert (logic["gripper"], logic["switch"], logic["full_grip"]) == ("plan", "steps", False)
    assert logic["sub_goals"] == "fine" and logic["known_states"] is True
    planner = record["settings"]["planner"]
    assert (planner["state_weight"], planner["cem"]["samples"]) == (0.5, 8)
    assert record["trials"] == 1 and "settled" not in record["episodes"][0]["stop_reason"]

    code, _, err = command(*base, "--set", "cem.sample=8")
    assert code == 2 and "unknown sample (did you mean 'samples'?)" in err
    code, _, err = command(*base, "--set", "cem.samples")
    assert code == 2 and "--set: expected OPTION=VALUE" in err


def test_the_oracle_is_a_policy_too(command, tmp_path, read_json):
    out = tmp_path / "oracle.json"
    code, _, _ = command(
        "sim", "eval", "--policy", "oracle", "--task", "pick_place_box", "--trials", 1, "--json", out
    )
    assert code == 0 and read_json(out)["cells"]["pick_place_box"]["success_rate"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_loses_the_trials_under_way_and_leaves_no_process(tmp_path, processes):
    out = tmp_path / "run"
    words = [*map(str, RANDOM), "--trials", "40", "--no-films", "--processes", str(processes)]
    command = [sys.executable, "-m", "vjepa_ac_planner", *words, "--out", str(out)]
    ledger = out / "trials.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = ledger.read_bytes().count(b"\n") - 1
    while any(_alive(int(child)) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{found} of 40 trials were made before" in again.stdout
    assert [len(lines(ledger)), len({trial["seed"] for trial in lines(ledger)[1:]})] == [41, 40]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
