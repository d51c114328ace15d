from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.cli.bench import rollout_flops, uncached_rollout
from vjepa_ac_planner.nn.predictor import PredictorConfig
from vjepa_ac_planner.planning.presets import PlannerConfig


def test_the_published_candidate_step_is_0162_tflop():
    assert rollout_flops(PredictorConfig(), 1) == pytest.approx(0.162e12, rel=0.02)


def test_the_count_agrees_with_torch_s_own(mini_model):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    n, d = mini_model.description.tokens, mini_model.description.latent_dim
    for horizon in (1, 3):
        # torch counts attention only where it is spelt out
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            mini_model.rollout(torch.zeros(n, d), torch.zeros(7), torch.zeros(1, horizon, 7))
        # torch counts the two small embeddings of action and state too
        assert counter.get_total_flops() == pytest.approx(
            rollout_flops(mini_model.description.predictor, horizon), rel=0.001
        )


def test_the_uncached_rollout_is_the_same_function(mini_model):
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(16, 128, generator=generator)
    s0, actions = torch.zeros(7), 0.05 * torch.randn(3, 4, 7, generator=generator)
    cached, _ = mini_model.rollout(z0, s0, actions)
    assert torch.allclose(uncached_rollout(mini_model, z0, s0, actions), cached, atol=1e-5)


def test_figures(command, tmp_path, read_json):
    out = tmp_path / "bench.json"
    code, text, _ = command(
        "bench",
        "--plans",
        2,
        "--samples",
        8,
        "--horizon",
        2,
        "--ratios",
        "--dtype",
        "float32",
        "--json",
        out,
    )
    assert code == 0
    record = read_json(out)
    assert 0 < record["evaluations"] <= 8 * PlannerConfig.preset("demo").cem.iterations
    assert record["p50_plan_s"] <= record["p95_plan_s"]
    assert record["candidate_steps_per_s"] > 0 and record["peak_memory_bytes"] > 1e7
    assert 0 < record["share_of_matmul"] < 2
    assert set(record["ratios"]) == {"uncached_over_cached", "float32_over_bfloat16"}
    assert "of the matrix products" in text
