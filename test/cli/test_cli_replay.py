"""``vjepa-ac replay`` from the command line, over small bags and an untrained model."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mcap")
from vjepa_ac_planner.bags.writer import BagWriter
from vjepa_ac_planner.cli.replay_run import OUTPUTS

STEPS = 6


def write_bag(path, steps: int = STEPS, seed: int = 0, move: float = 0.02, run: str = ""):
    rng = np.random.default_rng(seed)
    with BagWriter(path) as bag:
        if run:
            bag.text("/planner/run", run, 10**12)
        for i in range(steps):
            stamp = 10**12 + i * 250_000_000
            bag.image("/cam", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), stamp, "cam")
            bag.pose("/pose", [0.4 + move * i, 0.01 * i, 0.4, np.pi, 0.0, 0.0], stamp)
    return path


@pytest.fixture
def bag(tmp_path):
    return write_bag(tmp_path / "run.mcap")


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_bag_gives_all_four_files(command, bag, tmp_path, read_json):
    code, out, err = command("replay", bag, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(OUTPUTS)
    scores = read_json(tmp_path / "out" / "scores.json")
    for name in ("sign_agreement", "cosine_mean", "energy_rank_correlation", "surprise"):
        assert {"value", "ci95", "n", "baselines"} <= set(scores[name])
    assert {"zero", "random", "previous"} == set(scores["sign_agreement"]["baselines"])
    assert {"copy", "shuffled", "zero"} == set(scores["surprise"]["baselines"])
    assert scores["frames"] == STEPS and scores["skipped"] == {} and scores["p50_plan_s"] > 0
    assert scores["axes"] == ["dx", "dy", "dz"] and scores["model"] == "panda-sim"
    rows = read_csv(tmp_path / "out" / "steps.csv")
    assert len(rows) == STEPS
    assert float(rows[0]["recorded_dx"]) == pytest.approx(0.02) and rows[-1]["recorded_dx"] == ""
    assert "The report:" in out and f"{STEPS} steps" in out


def test_the_scores_follow_from_the_csv(command, bag, tmp_path, read_json):
    from vjepa_ac_planner.replay.scores import Replayed, score
    from vjepa_ac_planner.replay.table import StepTable

    command("replay", bag, "--out", tmp_path / "out")
    steps = StepTable.from_csv((tmp_path / "out" / "steps.csv").read_text())
    again = score([Replayed(steps, (0, 1, 2), 0.25)])
    scores = read_json(tmp_path / "out" / "scores.json")
    for name in ("sign_agreement", "cosine_mean", "surprise"):
        assert again[name]["value"] == scores[name]["value"]


def test_the_same_bag_gives_the_same_steps(command, bag, tmp_path):
    def steps(folder, *options):
        assert command("replay", bag, "--out", tmp_path / folder, *options)[0] == 0
        rows = read_csv(tmp_path / folder / "steps.csv")
        return [{name: cell for name, cell in row.items() if name != "plan_seconds"} for row in rows]

    assert steps("one") == steps("two")
    assert steps("three", "--seed", 5) != steps("one")


def test_a_page_that_says_what_it_cannot_show_and_fetches_nothing(command, bag, tmp_path):
    command("replay", bag, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "cannot show that the planner would have completed the task" in page
    assert "It &lt;knows&gt; nothing." in page, "the model's limits"
    assert not re.search(r'(src|href)="(?!data:)', page) and "url(" not in page
    assert page.count("<h3>Step ") >= STEPS and "energy landscape" in page
    assert f"vjepa-ac replay {bag}" in page


def test_thresholds_decide_the_exit_code(command, bag, tmp_path, read_json):
    code, _, err = command("replay", bag, "--out", tmp_path / "out", "--min-steps", 3, "--max-refusals", 1)
    assert (code, err) == (0, "")
    code, _, err = command(
        "replay", bag, "--out", tmp_path / "out", "--min-steps", 99, "--min-cosine", "0.999"
    )
    assert code == 1
    assert "threshold missed: --min-steps 99: 5" in err and "--min-cosine 0.999" in err
    assert len(read_json(tmp_path / "out" / "scores.json")["missed_thresholds"]) == 2
    assert "2 of 2 thresholds are missed" in (tmp_path / "out" / "report.html").read_text()
    code, _, err = command("replay", bag, "--out", tmp_path / "out", "--require-identical")
    assert code == 1 and "0 have recorded plans" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--goal", "soon"], "goal: received 'soon', allowed: last"),
        (["--goal", "99"], "step 99 is not in the bag, allowed 0 .. 5"),
        (["--goal", "9.5"], "9.5 s is not in the bag"),
        (["--goal", "nowhere.png"], "nowhere.png: cannot be read"),
        (["--landscape", "6"], "landscape: step 6 is not in the bag, allowed 0 .. 5"),
        (["--preset", "best"], "preset: received 'best'"),
        (["--pose-topic", "/arm"], "pose topic '/arm' is not in the recording"),
        (["--min-cosine", "2"], "min_cosine: received 2.0, allowed -1.0 .. 1.0"),
        (["--robot", "hal"], "robot: received 'hal'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(command, bag, tmp_path, options, message):
    code, _, err = command("replay", bag, "--out", tmp_path / "out", *options)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    assert left == []


def test_bags_that_cannot_be_read(command, tmp_path):
    (tmp_path / "text.mcap").write_text("not a bag")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("text.mcap", "neither an MCAP file"),
        ("empty", "holds no recording"),
        ("gone", "no such"),
    ):
        code, _, err = command("replay", tmp_path / name, "--out", tmp_path / "out")
        assert code == 2 and message in err and "Traceback" not in err


def test_an_image_file_as_goal_and_sub_goals(command, bag, images, tmp_path, read_json):
    code, _, err = command("replay", bag, "--out", tmp_path / "a", "--goal", images["good"])
    assert (code, err) == (0, "")
    scores = read_json(tmp_path / "a" / "scores.json")
    assert scores["energy_rank_correlation"]["value"] is None, "where the goal lies is not known"
    assert scores["goals"][0]["until_s"] is None and scores["goals"][0]["name"] == "good.png"
    code, _, _ = command("replay", bag, "--out", tmp_path / "b", "--goal", "2", "--goal", "1.25")
    rows = read_csv(tmp_path / "b" / "steps.csv")
    assert code == 0 and [row["goal"] for row in rows] == ["0"] * 3 + ["1"] * 3


def test_several_bags_have_a_page_each_and_one_over_all(command, tmp_path, read_json):
    folder = tmp_path / "bags"
    write_bag(folder / "one.mcap", seed=1)
    write_bag(folder / "sub" / "two.mcap", seed=2)
    (folder / "notes.txt").write_text("not a bag")
    code, _, err = command("replay", folder, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    for name in ("one", "two"):
        assert all((tmp_path / "out" / name / output).is_file() for output in OUTPUTS)
    scores = read_json(tmp_path / "out" / "scores.json")
    assert scores["frames"] == 2 * STEPS and [item["folder"] for item in scores["bags"]] == ["one", "two"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'href="one/report.html"' in page and 'href="two/report.html"' in page
    rows = read_csv(tmp_path / "out" / "steps.csv")
    assert [row["bag"] for row in rows] == ["one"] * STEPS + ["two"] * STEPS


def test_what_is_done_is_not_done_again_unless_inputs_change(command, tmp_path):
    folder, out = tmp_path / "bags", tmp_path / "out"
    for name in ("one", "two"):
        write_bag(folder / f"{name}.mcap", steps=3)
    command("replay", folder, "--out", out, "--no-landscape")
    before = {name: (out / name / "scores.json").stat().st_mtime_ns for name in ("one", "two")}
    (out / "two" / "annotated.mcap").unlink()

    def changed(*options):
        code, text, _ = command("replay", folder, "--out", out, "--no-landscape", *options)
        now = {name: (out / name / "scores.json").stat().st_mtime_ns for name in ("one", "two")}
        renewed = {name for name in now if now[name] != before[name]}
        before.update(now)
        assert code == 0
        return renewed, text

    renewed, text = changed()
    assert renewed == {"two"} and text.count("(done before)") == 1
    (folder / "one.mcap").unlink()
    write_bag(folder / "one.mcap", steps=3, seed=9)
    assert changed()[0] == {"one"}
    assert changed("--seed", 7)[0] == {"one", "two"}
    assert changed("--seed", 7)[0] == set()
    assert changed("--seed", 7, "--force")[0] == {"one", "two"}


def test_one_bad_bag_among_several_is_reported_and_the_others_are_done(command, tmp_path, read_json):
    folder = tmp_path / "bags"
    write_bag(folder / "good.mcap")
    (folder / "bad.mcap").write_bytes((folder / "good.mcap").read_bytes()[:40])
    code, _, err = command("replay", folder, "--out", tmp_path / "out")
    assert code == 2 and "bad.mcap" in err and "1 of 2 bags could not be replayed" in err
    assert (tmp_path / "out" / "good" / "report.html").is_file()
    failed = [item for item in read_json(tmp_path / "out" / "scores.json")["bags"] if item["error"]]
    assert [item["folder"] for item in failed] == ["bad"]
    assert "bad.mcap" in (tmp_path / "out" / "report.html").read_text()


def test_its_own_outputs_are_no_input(command, tmp_path):
    write_bag(tmp_path / "run.mcap")
    assert command("replay", tmp_path / "run.mcap", "--out", tmp_path / "out")[0] == 0
    code, text, _ = command("replay", tmp_path, "--out", tmp_path / "all")
    assert code == 0 and "1 bag" in text.splitlines()[0]


@pytest.mark.parametrize("where", ["write_text", "annotated"])
def test_a_full_disk_is_an_error_and_keeps_the_old_report(command, bag, tmp_path, monkeypatch, where):
    import errno
    from pathlib import Path

    out = tmp_path / "out"
    assert command("replay", bag, "--out", out)[0] == 0
    before = {name: (out / name).read_bytes() for name in OUTPUTS}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write_text":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        import mcap.writer

        monkeypatch.setattr(mcap.writer.Writer, "add_message", full)
    code, _, err = command("replay", bag, "--out", out, "--force")
    assert code == 2 and "No space left on device" in err and len(err.splitlines()) == 1
    assert {name: (out / name).read_bytes() for name in OUTPUTS} == before
    assert {path.name for path in out.iterdir()} == set(OUTPUTS), "nothing half-written is left"


def test_a_folder_that_cannot_be_written(command, bag, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = command("replay", bag, "--out", tmp_path / "file")
    assert code == 2 and "cannot be written" in err
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_frame_of_the_pose_can_be_named(command, bag, tmp_path):
    command("replay", bag, "--out", tmp_path / "link8")
    command("replay", bag, "--out", tmp_path / "tcp", "--pose-frame", "hand_tcp")
    link8, tcp = (read_csv(tmp_path / name / "steps.csv")[0] for name in ("link8", "tcp"))
    # The hand points down: link8 is 10.34 cm above its TCP.
    assert float(tcp["z"]) - float(link8["z"]) == pytest.approx(0.1034, abs=1e-6)
    assert "taken for that of link8" in (tmp_path / "link8" / "report.html").read_text()
    assert "taken for that of link8" not in (tmp_path / "tcp" / "report.html").read_text()


def test_our_own_recordings_hold_the_models_frame(command, tmp_path, read_json):
    """Whatever frame the robot reports: the recorder has converted it."""
    from dataclasses import asdict

    from vjepa_ac_planner.bags.record import RunInfo, to_json

    run = RunInfo("panda-sim", "0" * 64, {}, 0, 0.25)
    path = write_bag(tmp_path / "run.mcap", run=to_json(asdict(run)))
    code, _, err = command("replay", path, "--out", tmp_path / "out", "--pose-frame", "hand_tcp")
    assert (code, err) == (0, "")
    assert float(read_csv(tmp_path / "out" / "steps.csv")[0]["z"]) == pytest.approx(0.4, abs=1e-9)
    assert read_json(tmp_path / "out" / "scores.json")["identical"]["recorded"] == 0
    command("replay", path, "--out", tmp_path / "plain")
    assert "taken for that of link8" not in (tmp_path / "plain" / "report.html").read_text()


def test_goals_are_found_on_either_clock(command, tmp_path, read_json):
    """Stamped by a simulator's clock, recorded by the wall's: 12 days lie between them."""
    with BagWriter(tmp_path / "run.mcap") as bag:
        for i in range(STEPS):
            stamp, received = 10**9 + i * 250_000_000, 10**15 + i * 250_000_000
            header = bag.header(stamp, "cam")
            shade = np.full(48 * 64 * 3, 40 * i, np.uint8)
            image = bag.types["sensor_msgs/msg/Image"](header, 48, 64, "rgb8", 0, 64 * 3, shade)
            bag.write("/cam", "sensor_msgs/msg/Image", image, received)
            pose = bag.pose_of([0.4 + 0.02 * i, 0.0, 0.4, np.pi, 0.0, 0.0])
            stamped = bag.types["geometry_msgs/msg/PoseStamped"](header, pose)
            bag.write("/pose", "geometry_msgs/msg/PoseStamped", stamped, received)
    for clock in ("header", "receive"):
        for goal, step in (("3", 3), ("0.75", 3), ("last", 5)):
            out = tmp_path / f"{clock}-{goal}"
            code, _, err = command(
                "replay",
                tmp_path / "run.mcap",
                "--out",
                out,
                "--clock",
                clock,
                "--goal",
                goal,
                "--no-landscape",
            )
            assert (code, err) == (0, "")
            scores = read_json(out / "scores.json")
            assert scores["goals"][0]["until_s"] == pytest.approx(0.25 * step)
            assert scores["goals"][0]["state"][0] == pytest.approx(0.4 + 0.02 * step)
            rows = read_csv(out / "steps.csv")
            assert float(rows[step]["energy"]) == pytest.approx(0.0, abs=1e-6), "the goal image itself"
            assert float(rows[0]["energy"]) > 0.01


def test_limits_of_a_robot_are_those_of_its_profile(command, bag, tmp_path, read_json):
    code, _, _ = command("replay", bag, "--out", tmp_path / "out", "--robot", "panda")
    assert code == 0
    safety = read_json(tmp_path / "out" / "scores.json")["safety"]
    assert safety["dry_run"] is False, "in the shadow nothing moves anyhow"
    assert safety["limits"]["max_speed"] == 0.1
    rows = read_csv(tmp_path / "out" / "steps.csv")
    assert float(rows[0]["z"]) == pytest.approx(0.5034, abs=1e-6), "the profile's frames hold too"


def test_help_names_the_exit_codes_and_goals(command):
    code, out, _ = command("replay", "--help")
    assert code == 0 and "exit codes: 0 done, 1 a threshold was missed" in out and "cup.png@12.5" in out


def test_the_steps_of_all_bags_keep_what_their_texts_say():
    from vjepa_ac_planner.cli.replay import _all_steps
    from vjepa_ac_planner.replay.table import StepTable

    said = 'image: "no"\nsecond line\x85\u2028third'
    steps = StepTable.from_rows([{"index": 0, "error": said}, {"index": 1}])
    result = SimpleNamespace(replayed=SimpleNamespace(steps=steps))
    folders = {Path("a"): Path('out/one, "a"'), Path("b"): Path("out/b")}
    rows = list(
        csv.DictReader(io.StringIO(_all_steps(dict.fromkeys(folders, result), folders), newline=""))
    )
    assert [row["bag"] for row in rows] == ['one, "a"', 'one, "a"', "b", "b"]
    assert [row["error"] for row in rows] == [said, "", said, ""]
