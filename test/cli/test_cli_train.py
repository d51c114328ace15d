"""``vjepa-ac train``: a tiny model from collected data to a model folder, all through the command line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

from vjepa_ac_planner.cli.main import main

ENCODER = {"image_size": 32, "dim": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0}
PREDICTOR = {"latent_dim": 24, "dim": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "grid": [2, 2]}
LOOP = {"iterations": 2, "log_every": 1}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with a recipe for a tiny model and play data really collected for it."""
    folder = tmp_path_factory.mktemp("lab")
    recipe = {
        "model": {"name": "tiny", "summary": "For a test.", "encoder": ENCODER, "predictor": PREDICTOR},
        "encoder": {
            "encoder": ENCODER,
            "predictor": {"dim": 12, "depth": 1, "heads": 1},
            "batch": 4,
            "loop": LOOP,
        },
        "alignment": {"encoder": ENCODER, "episodes": 2, "loop": LOOP},
        "predictor": {"predictor": PREDICTOR, "batch": 2, "loop": LOOP},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    play = {"frames": 5, "store_size": 32, "processes": 1, "sim": {"width": 64, "height": 64}}
    (folder / "play.yaml").write_text(yaml.safe_dump(play))
    collect = ["train", "collect", "--config", str(folder / "play.yaml"), "--episodes", "4"]
    assert main([*collect, "--out", str(folder / "play")]) == 0
    return folder


def stage(lab, name, *more):
    where = [
        "--recipe",
        lab / "recipe.yaml",
        "--data",
        lab / "play",
        "--test",
        lab / "play",
        "--run",
        lab / "run",
    ]
    return main(["train", name, *map(str, where), *map(str, more)])


def test_every_stage_runs_and_the_figures_are_judged(lab, capsys) -> None:
    for name in ("encoder", "alignment", "predictor"):
        assert stage(lab, name) == 0
        assert (lab / "run" / name / "state.pt").is_file()

    code = stage(lab, "evaluate", "--json", lab / "figures.json")
    figures = json.loads((lab / "figures.json").read_text())
    assert code == (0 if figures["accepted"] else 1)
    assert figures["held_out_episodes"] == 4

    capsys.readouterr()
    assert stage(lab, "export", "--out", lab / "tiny") == code
    assert (lab / "tiny" / "model.safetensors").exists() == figures["accepted"]
    if not figures["accepted"]:
        assert "not exported: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("export", "--out", "none"), ("evaluate",)])
def test_a_run_that_is_not_there_is_named(arguments, tmp_path, capsys) -> None:
    assert main(["train", *arguments, "--run", str(tmp_path / "typo")]) == 2
    assert f"no run in {tmp_path / 'typo'}: " in capsys.readouterr().err


def test_missing_data_is_bad_input(tmp_path, capsys) -> None:
    assert main(["train", "encoder", "--data", str(tmp_path), "--run", str(tmp_path / "run")]) == 2
    assert f"make some with `vjepa-ac train collect --out {tmp_path}`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_stage_before_its_turn_says_which_one_is_missing(lab, tmp_path, capsys) -> None:
    assert stage(lab, "predictor", "--run", tmp_path) == 2
    assert "run the stage before this one first" in capsys.readouterr().err


def test_play_is_collected_in_front_of_another_camera(lab, tmp_path, capsys) -> None:
    config = yaml.safe_load((lab / "play.yaml").read_text())
    collect = ["train", "collect", "--config", str(lab / "play.yaml"), "--scene", "lab-camera"]
    assert main([*collect, "--episodes", "1", "--out", str(tmp_path / "there")]) == 0
    scene = json.loads((tmp_path / "there" / "manifest.json").read_text())["config"]["sim"]
    assert scene["camera_position"] == [1.25, 0.45, 0.85] and scene["width"] == config["sim"]["width"]

    view = {"camera_position": [1.0, 0.5, 0.8], "camera_target": [0.3, 0.0, 0.3]}
    (tmp_path / "views.yaml").write_text(yaml.safe_dump({**config, "views": [view]}))
    both = ["train", "collect", "--config", str(tmp_path / "views.yaml"), "--scene", "lab-camera"]
    assert main([*both, "--out", str(tmp_path / "nowhere")]) == 2
    assert "lists views of its own" in capsys.readouterr().err


def test_values_of_the_recipe_are_replaced(lab, tmp_path, capsys) -> None:
    run = ("--run", tmp_path, "--set", "frozen=chance", "predictor.loop.iterations=1", "episodes=2")
    assert stage(lab, "predictor", *run) == 0
    assert len((tmp_path / "predictor" / "metrics.jsonl").read_text().splitlines()) == 2  # step, held out
    assert stage(lab, "export", *run, "--out", tmp_path / "model") == 1
    assert not (tmp_path / "model").exists()
    assert stage(lab, "export", "--force", *run, "--out", tmp_path / "model") == 0
    assert (tmp_path / "model" / "model.safetensors").exists()

    capsys.readouterr()
    assert stage(lab, "predictor", "--set", "frozen=middle") == 2
    assert "received 'middle', allowed 'alignment', 'encoder', 'chance'" in capsys.readouterr().err
    assert stage(lab, "predictor", "--set", "episodes=1", "episodes.first=2") == 2
    assert "goes into 'episodes', which was given a value before" in capsys.readouterr().err


def test_probes_say_what_the_latents_hold(lab, tmp_path, capsys) -> None:
    run = ("--run", tmp_path / "run", "--set", "frozen=chance", "predictor.loop.iterations=1")
    assert stage(lab, "predictor", *run) == 0
    assert stage(lab, "export", "--force", *run, "--out", tmp_path / "model") == 0
    probe = [
        "train",
        "probe",
        "--model",
        tmp_path / "model",
        "--data",
        lab / "play",
        "--test",
        lab / "play",
    ]
    options = ["--set", "dim=24", "depth=2", "loop.iterations=3", "--json", tmp_path / "probe.json"]
    words = [str(word) for word in [*probe, *options, "--out", tmp_path / "probes"]]
    assert main(words) == 0
    figures = json.loads((tmp_path / "probe.json").read_text())
    assert 0 < figures["hand_m"] < 1 and 0 < figures["cup_m_mean"] < 1 and figures["closedness_r2"] < 1
    assert figures["done_pairs"] > 1000 and 0 <= figures["done_auc"] <= 1
    assert (tmp_path / "probes" / "done" / "probe.safetensors").exists()

    # Recordings of a robot do not know where objects are: the hand is asked for alone.
    bare = tmp_path / "bare"
    shutil.copytree(lab / "play", bare, ignore=shutil.ignore_patterns("*-objects.npy"))
    words = [str(bare) if word == str(lab / "play") else word for word in words]
    assert main([*words[:-1], str(tmp_path / "bare-probes")]) == 0
    figures = json.loads((tmp_path / "probe.json").read_text())
    assert "hand_m" in figures and "cup_m" not in figures and "done_auc" in figures

    np.save(bare / "shard-00000-objects.npy", np.zeros((1, 5, 2, 3)))
    assert main([*words[:-1], str(tmp_path / "other-probes")]) == 2
    assert "do not belong to frames" in capsys.readouterr().err
