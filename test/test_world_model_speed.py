"""Each faster way of rolling out against the plain one: latents, elites, gradients; and its memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from vjepa_ac_planner import geometry, world_model
from vjepa_ac_planner.errors import ConfigError, MissingDependencyError
from vjepa_ac_planner.nn.layers import latent_norm
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor
from vjepa_ac_planner.world_model import WorldModel


@pytest.fixture(scope="module")
def half(mini_model: WorldModel) -> WorldModel:
    predictor = ActionConditionedPredictor(mini_model.description.predictor).to(torch.bfloat16)
    predictor.load_state_dict(mini_model.predictor.state_dict())
    return WorldModel(mini_model.description, mini_model.encoder, predictor.requires_grad_(False))


def problem(candidates: int, horizon: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(candidates + horizon)
    z0, z_goal = latent_norm(torch.randn(2, 16, 128, generator=generator))
    s0 = torch.tensor([0.5, 0.1, 0.3, 3.0, 0.1, -0.7, 0.2])
    return z0, z_goal, s0, 0.1 * torch.randn(candidates, horizon, 7, generator=generator)


def plain(model: WorldModel, z0: Tensor, s0: Tensor, actions: Tensor) -> Tensor:
    """The definition: the whole clip again at every step, every token through every block. [K, H, N, D]."""
    dtype = model.dtype
    states = geometry.integrate(s0, actions)
    z = z0.to(dtype).expand(len(actions), 1, *z0.shape)
    for t in range(actions.shape[1]):
        following = model.predictor(z, states[:, : t + 1].to(dtype), actions[:, : t + 1].to(dtype))
        z = torch.cat((z, latent_norm(following[:, -1:])), dim=1)
    return z[:, 1:]


def energy(latents: Tensor, z_goal: Tensor) -> Tensor:
    return (latents[:, -1].float() - z_goal).abs().mean((1, 2))


@pytest.mark.parametrize("candidates", [1, 2, 37])
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_the_engine_equals_the_definition(mini_model, monkeypatch, candidates, horizon):
    z0, _, s0, actions = problem(candidates, horizon)
    expected = plain(mini_model, z0, s0, actions)
    for rows in (18, 5 * 18, 100 * 18):  # one candidate at a time, five, all
        monkeypatch.setattr(world_model, "_CPU_ROWS", rows)
        latents, states = mini_model.rollout(z0, s0, actions)
        torch.testing.assert_close(latents, expected, atol=1e-5, rtol=0)
        assert torch.equal(states, geometry.integrate(s0, actions))


@pytest.mark.parametrize("horizon", [1, 3])
def test_in_bfloat16_it_is_as_near_to_float32_as_the_definition_is(mini_model, half, horizon):
    z0, _, s0, actions = problem(20, horizon)
    exact = plain(mini_model, z0, s0, actions)
    fast = (half.rollout(z0, s0, actions)[0].float() - exact).norm()
    slow = (plain(half, z0, s0, actions).float() - exact).norm()
    assert fast < 1.2 * slow
    assert fast < 0.02 * exact.norm()


def test_the_same_elites_are_chosen(mini_model, half):
    """Float32 to the last one; bfloat16 may swap those whose energies it cannot tell apart."""
    z0, z_goal, s0, actions = problem(120, 2)
    expected = energy(plain(mini_model, z0, s0, actions), z_goal)
    order = expected.argsort(stable=True)
    fast = energy(mini_model.rollout(z0, s0, actions)[0], z_goal)
    assert torch.equal(fast.argsort(stable=True)[:10], order[:10])
    rounded = energy(half.rollout(z0, s0, actions)[0], z_goal)
    chosen = rounded.argsort(stable=True)[:10]
    rounding = (rounded - expected).abs().max()
    assert expected[chosen].max() <= expected[order[9]] + 2 * rounding
    assert len(set(chosen.tolist()) & set(order[:10].tolist())) >= 8


@pytest.mark.parametrize(("candidates", "horizon"), [(1, 1), (1, 3), (5, 1), (5, 3)])
def test_gradients_equal_those_of_the_definition(mini_model, candidates, horizon):
    z0, z_goal, s0, actions = problem(candidates, horizon)
    gradients = []
    for roll in (lambda a: mini_model.rollout(z0, s0, a)[0], lambda a: plain(mini_model, z0, s0, a)):
        a = actions.clone().requires_grad_()
        energy(roll(a), z_goal).sum().backward()
        gradients.append(a.grad)
    assert gradients[0].abs().amax() > 1e-4
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_parts_are_near_equal_and_none_is_too_large(mini_model, monkeypatch):
    sizes = []
    step = mini_model.predictor.forward_step

    def spy(z, state, action, *rest):
        sizes.append(len(action))
        return step(z, state, action, *rest)

    monkeypatch.setattr(mini_model.predictor, "forward_step", spy)
    monkeypatch.setattr(world_model, "_CPU_ROWS", 10 * 18 + 17)
    z0, _, s0, actions = problem(23, 1)
    mini_model.rollout(z0, s0, actions)
    assert sizes == [8, 8, 7]
    sizes.clear()
    mini_model.rollout(z0, s0, actions.requires_grad_())
    assert sizes == [23]  # autograd keeps everything anyway


def test_what_candidates_share_is_projected_once(mini_model, monkeypatch):
    """The first block sees the frame's tokens once, and those of action and state for each candidate."""
    seen = []
    first = mini_model.predictor.blocks[0].attention.qkv
    hook = first.register_forward_hook(lambda module, given, answer: seen.append(tuple(given[0].shape)))
    z0, _, s0, actions = problem(6, 2)
    try:
        mini_model.rollout(z0, s0, actions)
    finally:
        hook.remove()
    assert seen == [(6, 2, 128), (1, 16, 128), (6, 18, 128)]


def test_a_rollout_s_memory_is_an_upper_bound_and_follows_the_horizon(mini_model):
    """At full size a step of keys and values is 25.4 MB in bfloat16."""
    config = mini_model.description.predictor
    one, two, three = (mini_model.rollout_bytes(h) for h in (1, 2, 3))
    step = (2 * config.depth * 18 * config.dim + config.tokens * config.latent_dim) * 4
    assert three - two == step
    assert two - one > step  # a single step keeps no keys and values
    held = 18 * config.dim * 4
    assert one > 10 * held


def test_a_gpu_s_memory_decides_how_many_are_computed_at_once(mini_model, monkeypatch):
    monkeypatch.setattr(WorldModel, "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30_000_000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80_000_000, 500_000_000))
    parts = (mini_model.description, mini_model.encoder, mini_model.predictor)
    free = WorldModel(*parts)
    usable = 0.7 * (80_000_000 + 20_000_000)
    assert free.candidates_at_once(2) == int(usable / free.rollout_bytes(2))
    assert free.candidates_at_once(1) > free.candidates_at_once(2) > free.candidates_at_once(4) > 1
    limited = WorldModel(*parts, memory_limit=40_000_000)
    assert limited.candidates_at_once(2) == int(0.7 * 10_000_000 / limited.rollout_bytes(2))
    assert (
        WorldModel(*parts, memory_limit=1).candidates_at_once(2) == 1
    )  # then the device says what it lacks


def wide():
    """A model whose layers float8 takes."""
    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.nn.encoder import EncoderConfig
    from vjepa_ac_planner.nn.predictor import PredictorConfig

    return ModelDescription(
        name="wide",
        summary="Untrained.",
        encoder=EncoderConfig(image_size=64, dim=128, depth=1, heads=2),
        predictor=PredictorConfig(latent_dim=128, dim=256, depth=2, heads=4, grid=(4, 4)),
    )


def test_float8_says_what_it_needs(mini_model, monkeypatch):
    with pytest.raises(MissingDependencyError, match=r"float8: cpu has no float8 products .*use bfloat16"):
        WorldModel.untrained(mini_model.description, dtype="float8")

    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(MissingDependencyError, match=r"compute capability 8\.9 or above"):
        world_model.float8_library(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(MissingDependencyError, match=r"needs torchao 0\.13 or later.*pip install torchao"):
        world_model.float8_library(gpu)


def test_float8_is_for_the_blocks_alone(mini_model):
    """What surrounds them is a small part of the work, and decides what latents look like."""
    seen = []

    class Torchao:
        PerRow = staticmethod(lambda: "row by row")
        Float8DynamicActivationFloat8WeightConfig = dict
        quantize_ = staticmethod(lambda module, config: seen.append((module, config)))

    world_model.use_float8(mini_model.predictor, Torchao)
    ((module, config),) = seen
    assert module is mini_model.predictor.blocks and config["granularity"] == "row by row"
    assert config["activation_value_lb"] > 0  # or rows of zeros are divided by a scale of 0

    class Older(Torchao):
        Float8DynamicActivationFloat8WeightConfig = staticmethod(lambda granularity: granularity)

    with pytest.raises(MissingDependencyError, match=r"needs torchao 0\.13 or later, an older one"):
        world_model.use_float8(mini_model.predictor, Older)


class Quantised(torch.Tensor):
    """A weight of another type, as torchao's: nothing is reshaped before it is dequantised."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.flatten:
            raise AssertionError("only 2D and 3D")
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.dequantize else result


def quantised(model):
    """The same model, one of its weights of another type."""
    predictor = ActionConditionedPredictor(model.description.predictor)
    predictor.load_state_dict(model.predictor.state_dict())
    predictor.requires_grad_(False)
    layer = predictor.blocks[0].mlp.up
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)
    return WorldModel(model.description, model.encoder, predictor)


@pytest.mark.parametrize("optimiser", ["gradient", "hybrid"])
def test_an_optimiser_that_descends_is_refused_without_gradients(mini_model, optimiser):
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig

    eighth = quantised(mini_model)
    assert mini_model.differentiable and not eighth.differentiable
    with pytest.raises(ConfigError, match=f"received '{optimiser}'.*float8.*allowed cem, icem, mppi, or"):
        Planner(eighth, PlannerConfig(optimiser=optimiser))
    Planner(eighth, PlannerConfig(optimiser="icem"))


def test_ranks_compare_weights_of_any_type(mini_model):
    from vjepa_ac_planner.planning.sharded import _fingerprint

    assert torch.equal(_fingerprint(quantised(mini_model)), _fingerprint(mini_model))
    other = quantised(mini_model)
    next(other.predictor.parameters()).add_(1.0)
    assert not torch.equal(_fingerprint(other), _fingerprint(mini_model))


def test_float8_plans_from_standing_still_and_shares_its_candidates(monkeypatch):
    """torchao's own arithmetic, which is slow on a CPU and the same: the first tokens are rows of zeros."""
    api = pytest.importorskip("torchao.quantization.quant_api")
    monkeypatch.setattr(api, "_check_hardware_support", lambda *_, **__: None)
    monkeypatch.setattr(api, "is_sm_at_least_89", lambda: True)
    import torchao.quantization

    from vjepa_ac_planner.planning.sharded import _fingerprint

    half, eighth = (WorldModel.untrained(wide(), dtype="bfloat16") for _ in range(2))
    world_model.use_float8(eighth.predictor, torchao.quantization)
    z0 = torch.randn(16, 128)
    standing_still = torch.zeros(1, 2, 7)
    expected = half.rollout(z0, torch.zeros(7), standing_still)[0].float()
    found = eighth.rollout(z0, torch.zeros(7), standing_still)[0].float()
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert not eighth.differentiable
    assert _fingerprint(eighth).isfinite().all()


@pytest.mark.slow
def test_compiled_equals_plain_at_every_size_and_in_gradients(mini_model):
    """One block's code serves all blocks, horizons and numbers of candidates, in every thread."""
    import torch._dynamo

    torch._dynamo.reset()
    compiled = WorldModel(mini_model.description, mini_model.encoder, mini_model.predictor, compile=True)
    size = mini_model.description.image_size
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    compiled.encode(images)
    with ThreadPoolExecutor(1) as another:
        latents = another.submit(compiled.encode, images).result()
    torch.testing.assert_close(latents, mini_model.encode(images), atol=1e-5, rtol=0)
    for candidates, horizon in ((3, 1), (7, 2), (12, 4), (1, 1)):
        z0, z_goal, s0, actions = problem(candidates, horizon)
        expected = mini_model.rollout(z0, s0, actions)[0]
        torch.testing.assert_close(compiled.rollout(z0, s0, actions)[0], expected, atol=1e-5, rtol=0)
    gradients = []
    for model in (compiled, mini_model):
        a = actions.clone().requires_grad_()
        energy(model.rollout(z0, s0, a)[0], z_goal).sum().backward()
        gradients.append(a.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_agrees_with_the_cpu(mini_model, dtype, compiled):
    device = torch.device("cuda")
    predictor = ActionConditionedPredictor(mini_model.description.predictor)
    predictor.load_state_dict(mini_model.predictor.state_dict())
    predictor.to(device, getattr(torch, dtype)).requires_grad_(False)
    model = WorldModel(mini_model.description, mini_model.encoder, predictor, compile=compiled)
    for candidates, horizon in ((1, 1), (40, 1), (40, 3)):
        z0, z_goal, s0, actions = problem(candidates, horizon)
        expected = mini_model.rollout(z0, s0, actions)[0]
        latents = model.rollout(z0, s0, actions.to(device))[0].cpu().float()
        tolerance = 1e-3 if dtype == "float32" else 0.02
        assert (latents - expected).norm() < tolerance * expected.norm()
        best = energy(expected, z_goal).sort()
        chosen = energy(latents, z_goal).argmin()
        assert energy(expected, z_goal)[chosen] <= best.values[0] + tolerance


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_inside_a_plan(mini_model):
    device = torch.device("cuda")
    predictor = ActionConditionedPredictor(mini_model.description.predictor).to(device)
    model = WorldModel(mini_model.description, mini_model.encoder, predictor.requires_grad_(False))
    z0, _, s0, actions = (part.to(device) for part in problem(8, 3))
    model.rollout(z0, s0, actions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.rollout(z0, s0, actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_float8_is_near_bfloat16():
    pytest.importorskip("torchao")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no float8 products")
    half, eighth = (WorldModel.untrained(wide(), device="cuda", dtype=d) for d in ("bfloat16", "float8"))
    z0, _, s0, actions = (part.cuda() for part in problem(16, 2))
    expected = half.rollout(z0, s0, actions)[0].float()
    assert (eighth.rollout(z0, s0, actions)[0].float() - expected).norm() < 0.1 * expected.norm()
