"""Estimates: counted memory is what autograd really keeps, and what does not fit is refused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.training import estimate, finetune
from vjepa_ac_planner.training.finetune import FinetuneConfig, Objective, adapt_as, judged_bytes
from vjepa_ac_planner.training.throughput import forward_flops, measure, time_micro_batch
from vjepa_ac_planner.training.trainable import checkpoint_activations

CONFIG = PredictorConfig(latent_dim=48, dim=36, depth=5, heads=3, grid=(3, 3))


def really_kept(config: FinetuneConfig) -> int:
    """Bytes held at the end of a real forward pass, each storage counted once, weights left out."""
    model = ActionConditionedPredictor(CONFIG)
    adapt_as(config, model)
    if config.checkpoint_activations:
        checkpoint_activations(model)
    objective = Objective(model, config)
    clips, frames = config.micro_batch, config.clip_length
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(
            torch.randn(clips, frames, 9, 48),
            torch.randn(clips, frames, 7),
            torch.randn(clips, frames - 1, 7),
        )
    return sum(sizes.values())


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_length": 5, "rollout_steps": 3}, {"train": "last", "last_blocks": 2}, {"micro_batch": 7}],
)
def test_activations_are_counted_as_autograd_keeps_them(options) -> None:
    config = FinetuneConfig(**{"micro_batch": 2, "batch": 14, **options})
    assert estimate.activation_bytes(config, CONFIG) == pytest.approx(really_kept(config), rel=0.02)


def test_layer_norms_are_counted_in_float32_as_a_gpu_computes_them(monkeypatch) -> None:
    config = FinetuneConfig(micro_batch=2, batch=14, precision="bfloat16")
    counted, on_a_cpu = estimate.activation_bytes(config, CONFIG), really_kept(config)
    norm = torch.nn.functional.layer_norm

    def on_a_gpu(x, *args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return norm(x.float(), *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", on_a_gpu)
    assert counted == pytest.approx(really_kept(config), rel=0.02)
    assert counted > 1.1 * on_a_cpu


def test_held_out_clips_are_counted_as_the_judge_keeps_them() -> None:
    frames = finetune._CLIPS * finetune._FRAMES
    assert judged_bytes(CONFIG) == torch.zeros(frames, 9, 48, dtype=torch.bfloat16).nbytes
    config = FinetuneConfig()
    with_judge, without = (estimate.memory(config, CONFIG, judged=judged) for judged in (True, False))
    assert (with_judge.judged, without.judged) == (judged_bytes(CONFIG), 0)
    assert with_judge.total > without.total + with_judge.judged


@pytest.mark.parametrize("checkpointed", [False, True])
def test_timing_leaves_nothing_alive(checkpointed) -> None:
    config = FinetuneConfig(clip_length=3, micro_batch=1, batch=1, checkpoint_activations=checkpointed)
    predictor = ActionConditionedPredictor(CONFIG)
    weight = weakref.ref(predictor.blocks[0].mlp.up.weight)
    gc.disable()  # what a collector must find is there until it happens to look
    try:
        assert time_micro_batch(config, predictor, torch.device("cpu")) > 0
        del predictor
        assert weight() is None
    finally:
        gc.enable()


def test_checkpointing_and_bfloat16_keep_less() -> None:
    def kept(**options) -> int:
        return estimate.activation_bytes(FinetuneConfig(micro_batch=4, **options), CONFIG)

    assert kept(checkpoint_activations=True) < 0.6 * kept()
    assert kept(precision="bfloat16") < 0.8 * kept()


@pytest.mark.parametrize("part", ["all", "last", "lora"])
def test_weights_and_optimiser_are_counted(part) -> None:
    if part == "lora":
        pytest.importorskip("peft")
    config = FinetuneConfig(train=part, last_blocks=2, lora_rank=3)
    model = ActionConditionedPredictor(CONFIG)
    trained = sum(parameter.numel() for parameter in adapt_as(config, model).values())
    found = estimate.memory(config, CONFIG)
    assert (found.gradients, found.optimiser) == (4 * trained, 8 * trained)
    extra = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    plain = sum(parameter.numel() for parameter in ActionConditionedPredictor(CONFIG).parameters())
    assert found.weights == pytest.approx(4 * (plain + extra), rel=0.05)


def test_the_published_size() -> None:
    config = FinetuneConfig(micro_batch=1, clip_length=2, rollout_steps=1)
    full = PredictorConfig()
    assert estimate.memory(config, full).gradients == 4 * 305_213_824
    # One step of 258 tokens: 0.162 TFLOP, see the planner's own count.
    assert forward_flops(config, full) == pytest.approx(0.162e12, rel=0.02)


def test_free_memory_and_disk_are_found(tmp_path) -> None:
    free = estimate.available_memory(torch.device("cpu"))
    assert free is None or 0 < free < 1e14
    assert estimate.free_bytes(tmp_path / "not" / "there" / "yet") > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_throughput_is_measured_on_real_steps(precision) -> None:
    config = FinetuneConfig(batch=4, micro_batch=2, clip_length=3, precision=precision)
    found = measure(config, CONFIG, torch.device("cpu"), steps=3, warm_up=1)
    assert len(found["losses"]) == 4
    assert found["losses"][-1] < found["losses"][0]  # AdamW really steps
    assert found["clips_per_s"] == pytest.approx(4 / found["step_s"])
    assert found["peak_memory_bytes"] > 0


def test_times_are_told_in_fitting_units() -> None:
    assert estimate.pretty_time(75) == "1 min 15 s"
    assert estimate.pretty_time(2 * 3600 + 5 * 60) == "2 h 5 min"
