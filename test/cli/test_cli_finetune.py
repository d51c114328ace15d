"""``vjepa-ac train import``, ``finetune``, ``export`` and ``bench``, from play data to a plan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("accelerate")


@pytest.fixture
def play(tmp_path):
    """Play data for the tiny model: noise, in which nothing can be learned but that runs."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "play"
    folder.mkdir()
    for shard in range(3):
        states = np.cumsum(rng.uniform(-0.05, 0.05, (2, 8, 7)), axis=1).astype(np.float32)
        states[..., 6] = 0.5
        np.save(folder / f"shard-{shard:05d}-images.npy", rng.integers(0, 256, (2, 8, 32, 32, 3), np.uint8))
        np.save(folder / f"shard-{shard:05d}-states.npy", states)
    np.save(folder / "shard-00009-images.npy", np.zeros(3))
    config = {"clip_length": 3, "batch": 4, "micro_batch": 2, "held_out": 0.3}
    config["loop"] = {"iterations": 3, "log_every": 1}
    (tmp_path / "finetune.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_stride_that_is_not_the_model_s_step_is_refused(command, tmp_path) -> None:
    wanted = ("train", "import", tmp_path, "--out", tmp_path / "data", "--kind", "droid")
    code, _, err = command(*wanted, "--stride", 15)
    assert code == 2 and "--stride: received 15, which are steps of 1 s in DROID" in err
    assert "allowed 4, or a --model whose description says step_seconds: 1, with --step 1" in err
    code, _, err = command(*wanted, "--stride", 4)
    assert code == 2 and "no trajectory.h5" in err  # 4 of 15 a second are near enough to 0.25 s


@pytest.mark.parametrize(
    ("device", "code", "says"),
    [
        ("banana", 2, "received 'banana', allowed 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ("meta", 2, "received 'meta', allowed 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ("cuda:93", 3, "cuda:93 is not there"),
        ("cuda", 3, "cuda is not there"),
    ],
)
def test_a_device_that_is_not_there_is_refused(command, tmp_path, device, code, says) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    where = ("--data", tmp_path, "--out", tmp_path / "run", "--device", device)
    got, _, err = command("train", "finetune", *where)
    assert got == code and err.startswith("vjepa-ac: error: device: ") and says in err


def test_from_recordings_to_a_model_that_plans(command, read_json, play, tmp_path, images) -> None:
    data, run, model = tmp_path / "data", tmp_path / "run", tmp_path / "mine"
    code, out, err = command("train", "import", play, "--out", data, "--json", tmp_path / "import.json")
    assert code == 0
    assert "3 of 4 recordings usable, 1 with problems; 48 new frames" in out
    assert "skipped: " in err and "shard-00009" in err
    assert read_json(tmp_path / "import.json")["problems"] == 1

    where = ("--data", data, "--out", run, "--device", "cpu", "--config", tmp_path / "finetune.yaml")
    code, out, _ = command("train", "finetune", *where, "--estimate")
    assert code == 0 and not run.exists()
    assert out.count("\nmemory: ") == out.count("\ndisk: ") == out.count("\ntime: ") == 1

    code, out, err = command("train", "finetune", *where, "--json", tmp_path / "run.json")
    record = read_json(tmp_path / "run.json")
    better = sum(record["after"][name] - record["before"][name] for name in ("one_step", "rollout")) < 0
    assert code == (0 if better else 1)
    assert "before: " in out and "best: " in out
    assert better or "no better than before" in err

    code, _, err = command("train", "export", "--run", run, "--out", model)
    assert (code, model.exists()) == (1, False) or code == 0
    code, out, _ = command("train", "export", "--run", run, "--out", model, "--force")
    assert code == 0 and "plan with it" in out
    code, _, _ = command(
        *("plan", "--model", model, "--image", images["good"], "--goal", images["goal"]),
        *("--state", "0.5,0,0.4,3.14,0,0,0"),
    )
    assert code == 0


def test_nothing_to_train_on_says_how_to_make_it(command, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = command("train", "finetune", "--data", tmp_path / "empty", "--out", tmp_path / "run")
    assert code == 2
    assert "make it of bags, DROID, LeRobot or play data with: vjepa-ac train import" in err


def test_bench_prints_speed_and_memory(command, read_json, tmp_path) -> None:
    code, out, _ = command(
        *("train", "bench", "--model", "panda-sim", "--device", "cpu", "--batch", 4, "--micro-batch", 2),
        *("--steps", 2, "--json", tmp_path / "bench.json"),
    )
    assert code == 0
    for name in ("clips", "peak memory", "arithmetic"):
        assert name in out
    record = read_json(tmp_path / "bench.json")
    assert record["options"]["batch"] == 4
    assert record["clips_per_s"] == pytest.approx(4 / record["step_s"])
    assert record["peak_memory_bytes"] > record["estimated_memory_bytes"] > 0  # of the whole process


def test_a_value_out_of_range_is_named(command, tmp_path) -> None:
    code, _, err = command("train", "bench", "--model", "panda-sim", "--clip-length", 2)
    assert code == 2
    assert "rollout_steps: received 2, allowed less than clip_length (2)" in err


def test_the_shipped_configurations_are_valid() -> None:
    from pathlib import Path

    from vjepa_ac_planner.config import from_mapping, load_yaml
    from vjepa_ac_planner.training.finetune import FinetuneConfig

    folder = Path(__file__).parents[2] / "config" / "training"
    for name in ("finetune.yaml", "finetune-small.yaml"):
        config = from_mapping(FinetuneConfig, load_yaml(folder / name), name)
        assert config.parts(1) >= 1


@pytest.fixture
def configuration(tmp_path):
    """What ``train finetune`` makes of a model and options."""
    from vjepa_ac_planner.cli.main import build_parser
    from vjepa_ac_planner.cli.train_finetune import _config

    def configuration(model, *options):
        where = ("--model", str(model), "--data", str(tmp_path), "--out", str(tmp_path))
        return _config(build_parser().parse_args(["train", "finetune", *where, *options]))

    return configuration


def test_a_small_model_by_any_name_is_trained_as_small_ones_are(configuration, tmp_path) -> None:
    from vjepa_ac_planner.models import find_model

    renamed = tmp_path / "my-encoder"
    renamed.symlink_to(find_model("panda-sim").path.parent)
    small, published = configuration("panda-sim"), configuration("vjepa2-ac-vitg")
    assert configuration(renamed) == small
    assert (small.precision, published.precision) == ("float32", "bfloat16")


def test_options_replace_what_the_file_says_and_nothing_else(configuration) -> None:
    plain = configuration("panda-sim")
    config = configuration("panda-sim", "--lr", "0.5", "--batch", "6", "--iterations", "9")
    assert (config.loop.lr, config.batch, config.loop.iterations) == (0.5, 6, 9)
    loop = dataclasses.replace(plain.loop, lr=0.5, iterations=9)
    assert config == dataclasses.replace(plain, batch=6, loop=loop)
