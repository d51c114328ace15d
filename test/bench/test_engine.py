"""Rates of scoring and encoding, the arithmetic behind them, and where the time goes."""

from __future__ import annotations

import math

import pytest
import torch

from vjepa_ac_planner.bench import engine
from vjepa_ac_planner.bench.comparison import uncached_rollout, variants
from vjepa_ac_planner.bench.flops import encode_flops, rollout_flops
from vjepa_ac_planner.bench.profile import GROUPS, OTHER, group_of, operator_groups
from vjepa_ac_planner.bench.timing import Budget
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import PredictorConfig


def test_the_published_candidate_step_is_0162_tflop():
    assert rollout_flops(PredictorConfig(), 1) == pytest.approx(0.162e12, rel=0.02)


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_count_agrees_with_torch_s_own(mini_model, horizon):
    """Torch counts what is done: less, by what candidates share and what the last block leaves out."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = mini_model.description.predictor
    n, d, s = config.tokens, config.dim, config.tokens + 2
    candidates = 3
    # torch counts attention only where it is spelt out
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        mini_model.rollout(torch.zeros(n, d), torch.zeros(7), torch.zeros(candidates, horizon, 7))
    counted = counter.get_total_flops()
    saved = (candidates - 1) * 2 * n * d * (config.latent_dim + 3 * d)  # shared embedding and qkv
    not_gone_on = 2 * 2 * d * (d + 2 * config.mlp_hidden)  # output and MLP of two tokens, last block
    not_gone_on *= candidates * horizon
    unseen = sum(2 * 2 * 2 * s * t * d for t in range(1, horizon + 1)) * candidates  # their attention
    conditions = candidates * horizon * 2 * 2 * 7 * d  # torch counts their small embeddings too
    expected = candidates * rollout_flops(config, horizon) - saved - not_gone_on - unseen + conditions
    expected += candidates * horizon * 2 * 27  # and the rotations of states, 3 x 3
    assert counted == expected


def test_an_encoded_frame_is_half_a_tflop():
    assert encode_flops(EncoderConfig()) == pytest.approx(0.54e12, rel=0.05)


def test_the_uncached_rollout_is_the_same_function(mini_model):
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(16, 128, generator=generator)
    s0, actions = torch.zeros(7), 0.05 * torch.randn(3, 4, 7, generator=generator)
    cached, _ = mini_model.rollout(z0, s0, actions)
    assert torch.allclose(uncached_rollout(mini_model, z0, s0, actions), cached, atol=1e-5)


def test_a_rate_is_work_over_time(tiny, clock, monkeypatch):
    """On a clock that only scoring moves: 5 candidates take 0.25 s."""

    class Energy:
        def __init__(self) -> None:
            self.z0 = None

        def __call__(self, actions: torch.Tensor) -> None:
            clock.now += 0.05 * len(actions)

    monkeypatch.setattr(engine, "problem", lambda model, h, k: (Energy(), torch.zeros(k, h, 7)))
    row = engine.score_rate(tiny, 2, 5, 1e9, Budget(10.0, clock))
    assert row["candidates_per_s"] == pytest.approx(20.0)
    assert row["candidate_steps_per_s"] == pytest.approx(40.0)
    flops = 20.0 * rollout_flops(tiny.description.predictor, 2)
    assert row["tflops"] == pytest.approx(flops / 1e12)
    assert row["percent_of_peak"] == pytest.approx(100 * flops / 1e9)
    # A quarter of 10 s is 2.5 s: 32 candidates take 1.6 s, 64 would take 3.2 s.
    assert engine.score_rate(tiny, 1, None, 1e9, Budget(10.0, clock))["samples"] == 32


def test_no_more_candidates_than_a_plan_ever_has(clock):
    assert engine.affordable(lambda k: lambda: None, Budget(1.0, clock), lambda: None) == 800


def test_measured_rows_are_whole(tiny):
    row = engine.score_rate(tiny, 1, 4, 1e9, Budget(0.05))
    assert row["candidates_per_s"] > 0 and row["peak_memory_bytes"] > 1e6 and row["rounds"] >= 1
    frame = engine.encoder_rate(tiny, 1e9, Budget(0.05))
    assert 0 < frame["p50_s"] <= frame["p95_s"] and frame["tflops"] > 0


def test_a_sweep_ends_with_its_budget(clock):
    def measure(value: int, budget: Budget) -> dict[str, int]:
        clock.now += value
        return {"value": value}

    rows = engine.sweep(measure, [3, 4, 5, 6], Budget(7.0, clock))
    assert [row["value"] for row in rows] == [3, 4]
    assert len(engine.sweep(measure, [1, 2], Budget(-1.0, clock))) == 1  # never nothing


def test_variants_are_compared_with_the_plain_way(mini_model):
    from vjepa_ac_planner.world_model import WorldModel

    half = WorldModel.untrained(mini_model.description, dtype="bfloat16")
    found = variants({"float32": mini_model, "bfloat16": half}, 4, Budget(0.5))
    ratios = [found["uncached_over_cached"], found["bfloat16_over_float32"]]
    assert all(0.0 < ratio < math.inf for ratio in ratios)  # by how much is the benchmark's to say


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::addmm", "linear layers"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::gelu", "GELU"),
        ("aten::native_layer_norm", "layer norms"),
        ("aten::addcmul_", "rotary positions and residual sums"),
        ("aten::copy_", "copies"),
        ("aten::cat", "copies"),
        ("aten::view", OTHER),
    ],
)
def test_operators_have_their_group(operator, group):
    assert group_of(operator) == group


def test_a_profile_adds_up(tiny):
    energy, actions = engine.problem(tiny, 2, 3)
    groups = operator_groups(lambda: energy(actions), calls=2)
    total = groups.pop("total")
    assert set(groups) == {*GROUPS, OTHER}
    assert sum(groups.values()) == pytest.approx(total)
    assert all(groups[name] > 0 for name in GROUPS)
