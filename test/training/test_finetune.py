"""Fine-tuning from data to a model folder: it learns, it resumes exactly, processes share a batch."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("accelerate")

from vjepa_ac_planner.errors import CheckpointError, ConfigError, DeviceMemoryError, InputError
from vjepa_ac_planner.training import estimate, session
from vjepa_ac_planner.training.dataset import ClipIndex, Dataset
from vjepa_ac_planner.training.export_finetuned import acceptance, export_run
from vjepa_ac_planner.training.finetune import FinetuneConfig, FinetuneStage
from vjepa_ac_planner.training.latents import LatentCache, encoder_key
from vjepa_ac_planner.training.logs import read_metrics
from vjepa_ac_planner.training.loop import LoopConfig
from vjepa_ac_planner.training.session import Request, Session
from vjepa_ac_planner.world_model import WorldModel

CONFIG = FinetuneConfig(
    clip_length=4,
    batch=4,
    micro_batch=2,
    held_out=0.3,
    evaluate_every=4,
    loop=LoopConfig(iterations=8, lr=1e-3, checkpoint_every=2, log_every=1),
)


@pytest.fixture
def request_of(dataset_folder, tiny_model, tmp_path):
    def make(out: str = "run", **options) -> Request:
        values = {"config": CONFIG, "device": "cpu", "encoder_dtype": "float32", **options}
        return Request(str(tiny_model), dataset_folder, tmp_path / out, **values)

    return make


def run(request: Request) -> tuple[dict, list[str]]:
    said: list[str] = []
    return Session(request, said.append).run(), said


def test_it_learns_and_exports_a_plain_model(request_of, tmp_path, tiny_model) -> None:
    loop = dataclasses.replace(CONFIG.loop, iterations=40, lr=3e-3)
    request = request_of(config=dataclasses.replace(CONFIG, loop=loop, evaluate_every=20))
    record, said = run(request)
    assert record["after"]["one_step"] < record["before"]["one_step"] - 0.05
    assert any(line.startswith("memory: ") for line in said)
    assert any(line.startswith("time: ") for line in said)
    assert any("26 frames" in line for line in said)
    with pytest.raises(CheckpointError, match="no better than by copying"):
        export_run(request.out, tmp_path / "model")
    figures = export_run(request.out, tmp_path / "model", force=True)
    assert figures["after"] == record["after"]
    model = WorldModel.load(tmp_path / "model", device="cpu", dtype="float32")
    assert model.description.name == "model"
    assert "fine-tuned on" in model.description.summary
    base = WorldModel.load(tiny_model, device="cpu", dtype="float32")
    assert torch.equal(
        next(model.encoder.parameters()), next(base.encoder.parameters())
    )  # the encoder is frozen
    z, s, a = torch.randn(4, 24), torch.zeros(7), torch.zeros(1, 2, 7)
    assert not torch.allclose(model.rollout(z, s, a)[0], base.rollout(z, s, a)[0], atol=1e-2)


@pytest.mark.parametrize("part", ["lora", "scratch", "last"])
def test_every_way_of_training_runs_and_exports(request_of, tmp_path, part) -> None:
    if part == "lora":
        pytest.importorskip("peft")
    config = dataclasses.replace(
        CONFIG, train=part, last_blocks=1, lora_rank=2, checkpoint_activations=True, precision="bfloat16"
    )
    request = request_of(config=config)
    run(request)
    export_run(request.out, tmp_path / "model", force=True)
    assert WorldModel.load(tmp_path / "model", device="cpu", dtype="float32").predictor.config.depth == 2


TRAIN = """
import sys
from vjepa_ac_planner.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def command_line(request: Request, config: Path) -> list[str]:
    config.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(request.config)))))
    return [
        *("train", "finetune", "--model", request.model, "--data", str(request.data)),
        *("--out", str(request.out), "--config", str(config), "--device", "cpu", "--threads", "1"),
        *("--encoder-dtype", "float32"),
    ]


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(request_of, monkeypatch) -> None:
    whole, broken = request_of("whole"), request_of("broken")
    run(whole)

    class Stopped(Exception):
        pass

    steps = 0

    def stop(self: FinetuneStage, progress: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:  # after the fifth line, and before the checkpoint that follows the sixth step
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(FinetuneStage, "after_step", stop)
        run(broken)
    assert [line["iteration"] for line in read_metrics(broken.out) if "loss" in line] == [0, 1, 2, 3, 4]
    run(broken)
    assert read_metrics(broken.out) == read_metrics(whole.out)  # to the last bit: JSON keeps every digit
    ours, theirs = (torch.load(r.out / "state.pt", weights_only=True) for r in (broken, whole))
    for name, value in ours["modules"]["predictor"].items():
        assert torch.equal(value, theirs["modules"]["predictor"][name])


@pytest.fixture
def one_thread():
    """Sums do not depend on how many threads add them up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(request_of, tmp_path) -> None:
    """kill -9 some time after the second checkpoint, then resumed; against a run that never stopped."""
    # Long enough that the kill comes in the middle; each iteration is a few milliseconds.
    loop = dataclasses.replace(CONFIG.loop, iterations=120, checkpoint_every=5)
    config = dataclasses.replace(CONFIG, loop=loop, evaluate_every=30)
    whole, broken = request_of("whole", config=config), request_of("broken", config=config)
    arguments = command_line(broken, tmp_path / "config.yaml")
    process = subprocess.Popen([sys.executable, "-c", TRAIN, *arguments], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 300
        while not (broken.out / "previous.pt").exists():
            assert process.poll() is None and time.monotonic() < end, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = read_metrics(broken.out)[-1]["iteration"]
    assert 5 < reached < 119
    run(broken)
    run(whole)
    assert read_metrics(broken.out) == read_metrics(whole.out)  # to the last bit: JSON keeps every digit
    assert len([line for line in read_metrics(whole.out) if "loss" in line]) == 120


def test_a_damaged_checkpoint_costs_one_interval(request_of) -> None:
    whole, broken = request_of("whole"), request_of("broken")
    run(whole)
    run(broken)
    (broken.out / "state.pt").write_bytes(b"PK\x03\x04 cut short by a full disk")
    run(broken)
    assert read_metrics(broken.out) == read_metrics(whole.out)


def test_best_weights_that_were_deleted_are_made_again(request_of) -> None:
    """As the error of damaged ones asks for: a finished run would not look at held-out clips any more."""
    record, _ = run(request_of())
    (request_of().out / "best.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="delete it, and resume the run"):
        run(request_of())
    (request_of().out / "best.safetensors").unlink()
    again, said = run(request_of())
    assert set(again["after"]) == set(record["after"]) and said[-1].startswith("best:   one_step")


def test_another_configuration_or_other_data_do_not_go_on(request_of) -> None:
    run(request_of())
    faster = dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, lr=2e-3))
    described = (request_of().out / "run.json").read_text()
    with pytest.raises(CheckpointError, match=r"another configuration \(config\.loop\.lr\)"):
        run(request_of(config=faster))
    assert (request_of().out / "run.json").read_text() == described
    # Started again by hand, nothing of the old run is taken for the new one's.
    (request_of().out / "state.pt").unlink()
    (request_of().out / "previous.pt").unlink()
    (request_of().out / "before.json").write_text("{}")
    run(request_of())
    assert "one_step" in (request_of().out / "before.json").read_text()
    # What changes rounding or logging only may change.
    run(request_of(config=dataclasses.replace(CONFIG, micro_batch=4, checkpoint_activations=True)))


def test_the_batch_does_not_depend_on_how_it_is_divided(request_of, dataset_folder, tiny_model) -> None:
    model = WorldModel.load(tiny_model, device="cpu", dtype="float32")
    data = Dataset.open(dataset_folder)
    cache = LatentCache(dataset_folder / "latents", encoder_key(model.encoder))
    cache.fill(data, model.encoder)

    def batches(micro: int, rank: int, processes: int) -> list[tuple[torch.Tensor, ...]]:
        predictor = WorldModel.load(tiny_model, device="cpu", dtype="float32").predictor
        config = dataclasses.replace(CONFIG, batch=8, micro_batch=micro)
        stage = FinetuneStage(
            config,
            predictor,
            ClipIndex(data, 4),
            cache.open(data),
            torch.device("cpu"),
            rank=rank,
            processes=processes,
        )
        try:
            return [*stage.batches(3), *stage.batches(4), *stage.batches(7)]  # read ahead, and not
        finally:
            stage.close()

    one = batches(8, 0, 1)
    two = [batches(2, rank, 2) for rank in (0, 1)]
    for iteration in range(3):
        parts = [part for rank in two for part in rank[2 * iteration : 2 * iteration + 2]]
        for kind in range(3):
            assert torch.equal(torch.cat([part[kind] for part in parts]), one[iteration][kind])
    assert not torch.equal(one[0][1], one[1][1])


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(request_of, tmp_path) -> None:
    one, two = request_of("one"), request_of("two")
    run(one)
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", "-m", "vjepa_ac_planner"),
    ]
    done = subprocess.run(
        [*launch, *command_line(two, tmp_path / "config.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: learned nothing in so few steps
    assert done.stdout.count("training on ") == 1  # one of them speaks
    first, second = read_metrics(one.out), read_metrics(two.out)
    assert len(first) == len(second) == 8 + 2
    for ours, theirs in zip(first, second, strict=True):
        assert ours["iteration"] == theirs["iteration"]
        if "loss" in ours:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=2e-5)
            assert theirs["grad"] == pytest.approx(ours["grad"], rel=2e-4)


def test_a_corrupt_shard_is_skipped_and_reported(request_of, dataset_folder) -> None:
    path = dataset_folder / "run1.safetensors"
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)
    _, said = run(request_of())
    assert "skipped 1 x unusable shard run1.safetensors" in said
    assert any("2 recordings, 3 episodes, 17 frames" in line for line in said)


def test_what_does_not_fit_is_refused_before_anything_is_done(request_of, monkeypatch) -> None:
    monkeypatch.setattr(session.estimate, "available_memory", lambda device: 1000)
    with pytest.raises(DeviceMemoryError, match="lower micro_batch, set checkpoint_activations"):
        run(request_of())
    _, said = run(request_of(force=True))
    assert any(line.startswith("warning: training needs") for line in said)
    monkeypatch.setattr(session.estimate, "available_memory", lambda device: None)
    monkeypatch.setattr(session.estimate, "free_bytes", lambda folder: 10)
    other = request_of("other", cache=request_of().data / "elsewhere")
    with pytest.raises(InputError, match=r"latents of 26 frames take .* name another --cache"):
        run(other)
    assert not other.out.exists()
    assert estimate.GB == 1e9


def test_an_estimate_writes_nothing(request_of) -> None:
    request = request_of()
    record = Session(request, print).run(dry_run=True)["estimate"]
    assert record["frames_to_encode"] == 26
    assert record["latents_bytes"] == 26 * 4 * 24 * 2
    assert record["training_s"] > 0
    assert not request.out.exists() and not request.cache_folder.exists()


def test_a_batch_that_cannot_be_divided_is_an_error() -> None:
    assert FinetuneConfig(batch=32, micro_batch=4).parts(2) == 4
    with pytest.raises(ConfigError, match=r"multiples of 24 \(3 processes x micro_batch 8\)"):
        FinetuneConfig(batch=32, micro_batch=8).parts(3)
    with pytest.raises(ConfigError, match="rollout_steps: received 4, allowed less than clip_length"):
        FinetuneConfig(clip_length=4, rollout_steps=4)


def test_data_for_another_model_are_refused(request_of, dataset_folder, mini_model, tmp_path) -> None:
    from vjepa_ac_planner.nn.checkpoint import save_model

    save_model(
        tmp_path / "mini",
        dataclasses.replace(mini_model.description, weights="model.safetensors"),
        mini_model.encoder.state_dict(),
        mini_model.predictor.state_dict(),
    )
    with pytest.raises(InputError, match="frames of 32 pixels, model 'mini-ac' takes 64; import again"):
        run(dataclasses.replace(request_of(), model=str(tmp_path / "mini")))


def test_tensorboard_gets_the_same_numbers(request_of) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    request = request_of(tensorboard=True)
    run(request)
    events = reader.EventAccumulator(str(request.out / "tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("train/loss")]
    lines = [line for line in read_metrics(request.out) if "loss" in line]
    assert written == [(line["iteration"], pytest.approx(line["loss"], rel=1e-6)) for line in lines]
    assert [event.step for event in events.Scalars("held_out/one_step")] == [3, 7]


def test_a_predictor_no_better_than_a_copy_is_not_exported() -> None:
    good = {"one_step": 0.1, "copy": 0.2, "shuffled": 0.2}
    assert acceptance(good) == []
    assert "the action does not help" in acceptance({**good, "shuffled": 0.1})[0]
    assert "not yet judged" in acceptance({})[0]
