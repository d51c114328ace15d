from __future__ import annotations

from importlib.util import find_spec

import pytest

from vjepa_ac_planner.cli import sim as sim_command

if find_spec("gymnasium_robotics") is None:  # not importorskip: the package must import mujoco itself
    pytest.skip("needs the sim extra", allow_module_level=True)

CONTRACT = {
    "success_rate", "ci95", "median_final_error_m", "mean_error_by_step_m", "p50_plan_s", "p95_plan_s",
    "model", "preset",
}  # fmt: skip


def test_the_tasks_named_in_help_are_those_of_the_simulator():
    from vjepa_ac_planner.sim.tasks import TASKS

    assert sim_command.TASKS == TASKS


@pytest.mark.parametrize("policy", ["planner", "random"])
def test_eval_keeps_its_contract(command, tmp_path, policy, read_json):
    out = tmp_path / "eval.json"
    code, text, err = command(
        "sim", "eval", "--task", "reach", "--trials", 2, "--seed", 7, "--policy", policy, "--json", out
    )
    assert (code, err) == (0, "")
    record = read_json(out)
    assert set(record) >= CONTRACT
    assert (record["model"], record["preset"], record["policy"]) == ("panda-sim", "demo", policy)
    assert record["seeds"] == [7, 8] and record["trials"] == 2
    assert len(record["mean_error_by_step_m"]) == 13
    low, high = record["ci95"]
    assert 0 <= low <= record["success_rate"] <= high <= 1
    assert 0.15 <= record["mean_error_by_step_m"][0] <= 0.35
    assert "seed 7" in text and "[2/2]" in text


def test_a_required_rate_is_a_check(command):
    code, _, err = command("sim", "eval", "--trials", 1, "--policy", "random", "--require", 1)
    assert code == 1 and "below the required" in err
    code, _, err = command("sim", "eval", "--trials", 1, "--require", 90)
    assert code == 2 and "argument --require: received 90, allowed 0 .. 1" in err


def test_processes_do_not_change_the_result(command, tmp_path, read_json):
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        base = ("sim", "eval", "--trials", 2, "--policy", "random", "--processes", processes)
        assert command(*base, "--json", out)[0] == 0
        results.append([episode["errors_m"] for episode in read_json(out)["episodes"]])
    assert results[0] == results[1]


def test_the_oracle_succeeds(command, tmp_path, read_json):
    out = tmp_path / "oracle.json"
    assert command("sim", "oracle", "--task", "reach", "--trials", 2, "--require", 1, "--json", out)[0] == 0
    assert read_json(out)["success_rate"] == 1.0


def test_recorded_episodes_are_bags_that_hold_the_whole_run(command, tmp_path):
    pytest.importorskip("rosbags")
    from vjepa_ac_planner.bags.reader import Bag

    assert command("sim", "eval", "--trials", 1, "--seed", 7, "--record", tmp_path / "bags")[0] == 0
    with Bag.open(tmp_path / "bags" / "reach-7.mcap") as bag:
        steps = [record.index for record in bag.plans()]
        assert steps == list(range(len(steps))) and 3 <= len(steps) <= 12
        assert bag.run.seed == 7000 and bag.run.extra == {"task": "reach", "task_seed": 7}
        assert len(list(bag.samples(bag.run.step_seconds))) == len(steps) + 1
        assert len(bag.goals()) == 1
    code, _, err = command("sim", "eval", "--policy", "random", "--record", tmp_path)
    assert code == 2 and "--record: received with policy 'random'" in err


def test_a_trial_that_is_interrupted_leaves_no_recording_in_the_way(command, tmp_path, monkeypatch):
    """Its name would be taken when the run goes on, as the ledger does not have it."""
    pytest.importorskip("rosbags")
    from vjepa_ac_planner.cli import trial

    base = ("sim", "eval", "--trials", 1, "--seed", 7, "--no-films")
    base = (*base, "--out", tmp_path / "run", "--record", tmp_path / "bags")
    run_trial = trial.run_trial

    def interrupted(*args, **options):
        run_trial(*args, **options)
        assert [path.name for path in (tmp_path / "bags").iterdir()] == ["reach-7.mcap.partial"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trial, "run_trial", interrupted)
        assert command(*base)[0] == 130
    assert not list((tmp_path / "bags").iterdir())
    assert command(*base)[0] == 0
    assert [path.name for path in (tmp_path / "bags").iterdir()] == ["reach-7.mcap"]


def test_another_camera_is_seen_and_written_down(command, tmp_path, read_json):
    base = ("sim", "eval", "--trials", 1, "--seed", 7, "--policy", "random")
    out = tmp_path / "lab"
    assert command(*base, "--scene", "lab-camera", "--out", out, "--no-films")[0] == 0
    scene = read_json(out / "table2.json")["settings"]["scene"]
    assert scene == {
        "camera_position": [1.25, 0.45, 0.85],
        "camera_target": [0.35, 0, 0.25],
        "camera_fovy": 45,
    }
    code, _, err = command(
        *base, "--out", out
    )  # what was seen by another camera does not go on with this one
    assert code == 2 and "other settings (scene.camera_fovy: 45.0 there, None now" in err


def test_the_camera_of_a_scene_is_the_one_that_looks(tmp_path):
    import numpy as np

    from vjepa_ac_planner.cli.scene import scene_options
    from vjepa_ac_planner.cli.trial import make_simulation
    from vjepa_ac_planner.errors import ConfigError
    from vjepa_ac_planner.models import find_model

    description, views = find_model("panda-sim").description, []
    for scene in (None, "lab-camera"):
        with make_simulation(description, scene_options(scene)) as sim:
            sim.reset(3)
            views.append((sim.render(), sim.state()))
    (here, state), (there, same) = views
    assert here.shape == there.shape == (192, 192, 3) and np.array_equal(state, same)
    assert np.abs(here.astype(float) - there).mean() > 10

    wrong = tmp_path / "wrong.yaml"
    for text, said in (
        ("camera_fov: 45", "unknown camera_fov"),
        ("width: 640", "width cannot be chosen"),
        ("camera_fovy: 500", "camera_fovy: received 500"),
    ):
        wrong.write_text(text)
        with pytest.raises(ConfigError, match=said):
            scene_options(str(wrong))
    with pytest.raises(ConfigError, match="no such file"):
        scene_options(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"received 'nowhere', .* known: .*lab-camera"):
        scene_options("nowhere")


def test_a_classifier_may_end_a_trial(command, tmp_path, read_json):
    import torch

    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.training.probe import AttentiveProbe, ProbeConfig, save_probe

    encoder = find_model("panda-sim").description.encoder
    config = ProbeConfig(dim=12, depth=1, heads=1)
    probe = AttentiveProbe(config, 2 * encoder.tokens, encoder.dim, 1)
    torch.nn.init.zeros_(probe.out.weight)
    steps = {}
    for name, logit in (("done", 9.0), ("never", -9.0)):
        torch.nn.init.constant_(probe.out.bias, logit)
        save_probe(tmp_path / f"{name}.safetensors", probe)
        out = tmp_path / f"{name}.json"
        base = ("sim", "eval", "--trials", 1, "--seed", 7, "--json", out)
        assert command(*base, "--done-probe", tmp_path / f"{name}.safetensors")[0] == 0
        (episode,) = read_json(out)["episodes"]
        steps[name] = len(episode["errors_m"]) - 1, episode["stop_reason"]
        assert len(read_json(out)["settings"]["done_probe_sha256"]) == 64
    assert steps["done"] == (0, "reached")
    assert steps["never"][0] > 2 and steps["never"][1] != "reached"

    other = tmp_path / "other.safetensors"
    save_probe(other, AttentiveProbe(config, 4, encoder.dim, 1))
    code, _, err = command("sim", "eval", "--trials", 1, "--done-probe", other)
    assert code == 2 and "train one with `vjepa-ac train probe`" in err
    code, _, err = command("sim", "eval", "--policy", "random", "--done-probe", other)
    assert code == 2 and "--done-probe: received with policy 'random'" in err
    code, _, err = command("sim", "eval", "--trials", 1, "--done-probe", tmp_path / "no.safetensors")
    assert code == 2 and "no.safetensors" in err and "Traceback" not in err
