"""Descent through the world model: its gradients, its steps, and what it does where there are none."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.errors import ConfigError, DeviceMemoryError, PlanCancelled, PlanningError
from vjepa_ac_planner.planning.energy import LatentEnergy, value_and_gradient
from vjepa_ac_planner.planning.gradient import Gradient, GradientConfig
from vjepa_ac_planner.planning.hybrid import Hybrid, HybridConfig
from vjepa_ac_planner.planning.icem import ICEMConfig
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig

TARGET = torch.tensor([0.03, -0.02, 0.04, 0, 0, 0, 0.5])
SPACE = ActionSpace(SearchConfig(xyz=0.05, gripper_dead_zone=0.0), 1)


def quadratic(actions):
    return ((actions.sum(1) - TARGET) ** 2).sum(-1)


def model_energy(golden, mini_model, **options):
    z0, zg, s0 = (torch.from_numpy(golden[f"roll_{k}"][0]) for k in ("z0", "zg", "s0"))
    return LatentEnergy(mini_model, z0, s0, zg, **options)


def some_actions(count=5, horizon=2):
    return torch.randn(count, horizon, 7, generator=torch.Generator().manual_seed(1)) * 0.05


@pytest.mark.parametrize("energy_over", ["final", "mean"])
def test_gradients_are_those_of_finite_differences(golden, mini_model, energy_over):
    score = model_energy(golden, mini_model, energy_over=energy_over)
    action = some_actions(1)
    energies, gradients = score.value_and_gradient(action)
    torch.testing.assert_close(energies, score(action))
    directions = torch.randn(60, 2, 7, generator=torch.Generator().manual_seed(2))
    step = 1e-3
    change = (score(action + step * directions) - score(action - step * directions)) / (2 * step)
    slopes = (gradients * directions).sum((1, 2))
    # float32 and the corners of the L1 norm allow no more
    assert (slopes - change).norm() < 0.04 * change.norm()
    assert not energies.requires_grad and not gradients.requires_grad


def test_gradients_are_found_where_nothing_else_is_recorded(golden, mini_model):
    score, actions = model_energy(golden, mini_model), some_actions()
    expected = score.value_and_gradient(actions)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(score.value_and_gradient(actions.clone()), expected)
    for parameter in mini_model.predictor.parameters():
        assert parameter.grad is None


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_the_chunk_does_not_change_gradients(golden, mini_model, chunk):
    whole = model_energy(golden, mini_model).value_and_gradient(some_actions())
    parts = model_energy(golden, mini_model, gradient_chunk=chunk).value_and_gradient(some_actions())
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


class Full:
    """A world whose device holds ``fits`` sequences, fewer where gradients are kept."""

    def __init__(self, fits):
        self.fits, self.sizes = fits, []

    def rollout(self, z0, s0, actions):
        self.sizes.append(len(actions))
        if len(actions) > (self.fits if actions.requires_grad else 100):
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        shift = actions[..., :3].sum(-1).cumsum(1)
        return z0 + shift[..., None, None], s0.expand(len(actions), actions.shape[1] + 1, 7)


def test_gradients_that_do_not_fit_are_taken_in_smaller_chunks_than_energies():
    world = Full(fits=3)
    score = LatentEnergy(world, torch.zeros(4, 8), torch.zeros(7), torch.full((4, 8), 0.3))
    actions = some_actions(10)
    _, gradients = score.value_and_gradient(actions)
    assert gradients.shape == actions.shape
    assert (score.chunk, score.gradient_chunk) == (None, 2)
    world.sizes.clear()
    score(actions)
    score.value_and_gradient(actions)
    assert world.sizes == [10] + [2] * 5
    world.fits = 0
    with pytest.raises(DeviceMemoryError, match="out of memory while rolling out a single"):
        score.value_and_gradient(actions)


def test_a_plain_function_is_differentiated_as_it_stands():
    actions = some_actions(3, 1)
    energies, gradients = value_and_gradient(quadratic, actions)
    torch.testing.assert_close(gradients, 2 * (actions - TARGET))
    torch.testing.assert_close(energies, quadratic(actions))


def test_a_world_without_gradients_is_an_error_that_says_what_to_choose():
    optimiser = Gradient(GradientConfig())
    with pytest.raises(PlanningError, match="choose optimiser cem, icem or mppi"):
        optimiser.optimise(
            lambda actions: quadratic(actions.detach()), SPACE, generator=torch.Generator().manual_seed(0)
        )


def test_gradients_that_are_not_finite_move_nothing():
    class Broken:
        def __call__(self, actions):
            return quadratic(actions)

        def value_and_gradient(self, actions):
            return quadratic(actions), torch.full_like(actions, torch.nan)

    result = Gradient(GradientConfig(starts=1, descents=1)).optimise(
        Broken(), SPACE, generator=torch.Generator(), init_mean=torch.full((1, 7), 0.01)
    )
    torch.testing.assert_close(result.actions, torch.full((1, 7), 0.01) * (SPACE.bound > 0))


def test_the_best_starts_are_followed():
    starts = []

    class Watched:
        def __call__(self, actions):
            return quadratic(actions)

        def value_and_gradient(self, actions):
            starts.append(actions.clone())
            return value_and_gradient(quadratic, actions)

    noise = torch.randn(1, 19, 1, 4, generator=torch.Generator().manual_seed(3))
    config = GradientConfig(starts=20, descents=3, iterations=4)
    result = Gradient(config).optimise(Watched(), SPACE, generator=torch.Generator(), noise=noise)
    all_starts = SPACE.clip(torch.cat((torch.zeros(1, 1, 7), SPACE.std * SPACE.spread(noise[0]))))
    best = all_starts[quadratic(all_starts).argsort()[:3]]
    torch.testing.assert_close(starts[0], best)
    assert result.evaluations == 20 + 3 * 3 * 4 + 3


def test_the_first_step_is_the_rate_on_every_axis_that_has_a_slope():
    def steep(actions):  # slopes of very different size: the step is the same share of each bound
        return actions[:, 0, 0] * 1e3 + actions[:, 0, 1] * 1e-3 - actions[:, 0, 6]

    seen = []

    def score(actions):
        seen.append(actions.detach().clone())
        return steep(actions)

    config = GradientConfig(starts=1, descents=1, iterations=1, rate=0.2)
    Gradient(config).optimise(score, SPACE, generator=torch.Generator())
    expected = torch.tensor([-0.2 * 0.05, -0.2 * 0.05, 0, 0, 0, 0, 0.2 * 0.75])
    torch.testing.assert_close(seen[-1][0, 0], expected, rtol=1e-4, atol=1e-7)


def test_it_stops_when_steps_are_small():
    config = GradientConfig(iterations=100, converged_below=0.02)
    result = Gradient(config).optimise(quadratic, SPACE, generator=torch.Generator().manual_seed(0))
    assert result.stop_reason == "converged"
    assert len(result.iterations) < 15  # steps shrink to 0.7 each: 0.3 * 0.7^8 < 0.02


def test_the_hybrid_ends_with_its_first_half_when_time_is_up_or_it_is_cancelled():
    config = HybridConfig(ICEMConfig(samples=20, elites=4, iterations=2), GradientConfig(descents=2))
    calls = []

    def score(actions):
        calls.append(actions.requires_grad)
        return quadratic(actions)

    now = iter(range(100))
    hybrid = Hybrid(config, clock=lambda: float(next(now)))
    first = hybrid.optimise(score, SPACE, generator=torch.Generator().manual_seed(0), deadline=1.5)
    assert (first.stop_reason, calls) == ("deadline", [False])

    calls.clear()
    answers = iter([False, False, False, True])  # before, after each iteration, before the descent
    result = Hybrid(config).optimise(
        score, SPACE, generator=torch.Generator().manual_seed(0), cancel=lambda: next(answers)
    )
    assert (result.stop_reason, calls) == ("cancelled", [False, False])
    with pytest.raises(PlanCancelled):
        Hybrid(config).optimise(score, SPACE, generator=torch.Generator(), cancel=lambda: True)


def test_the_hybrid_follows_the_best_candidate_of_its_first_half():
    best, starts = [], []

    class Watched:
        def __call__(self, actions):
            energies = quadratic(actions)
            if not starts:
                best.append(actions[energies.argmin()])
            return energies

        def value_and_gradient(self, actions):
            starts.append(actions.clone())
            return value_and_gradient(quadratic, actions)

    config = HybridConfig(ICEMConfig(samples=20, elites=4, iterations=3), GradientConfig(descents=2))
    Hybrid(config).optimise(Watched(), SPACE, generator=torch.Generator().manual_seed(0))
    energies = quadratic(torch.stack(best))
    assert torch.equal(starts[0][0], best[int(energies.argmin())])
    assert not torch.equal(starts[0][0], starts[0][1])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: GradientConfig(descents=17), r"descents: received 17 of 16 starts, allowed 1 \.\. 16"),
        (lambda: GradientConfig(rate=0.0), "rate: received 0.0"),
        (lambda: GradientConfig(momentum=1.0), "momentum: received 1.0"),
        (
            lambda: HybridConfig(ICEMConfig(keep=0.0)),
            "keep: received 0.0 of 8 elites, allowed at least one",
        ),
    ],
)
def test_what_the_configurations_refuse(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
