"""Ours against the reference: the same weights, the same candidates, one process, in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.bench.engine import problem
from vjepa_ac_planner.bench.reference import Reference, autocast, noise_of
from vjepa_ac_planner.bench.timing import Budget, in_turn, quantile, settle

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vjepa_ac_planner.bench.models import Models
    from vjepa_ac_planner.world_model import WorldModel

BOUND = 0.05
"""Bound of a translation [m], as in the reference."""
COUNTS = (2, 4, 16, 64, 256)
"""Candidates at a time, of which two are the fewest that have an elite."""


def against_reference(
    models: Models,
    checkout: Path,
    peaks: Mapping[str, float],
    samples: int | None,
    rate: Callable[[], float],
    budget: Budget,
    *,
    few: bool,
) -> dict[str, Any]:
    """At horizons 1, 2 and 4, and at several numbers of candidates.

    Args:
        models: the model under test.
        checkout: folder of the public reference.
        peaks: matrix products of the device by dtype [FLOP/s].
        samples: candidates of a measurement; None: what the time is enough for.
        rate: tells how many candidate steps the engine makes a second.
        budget: how long to measure, all together.
        few: without the numbers of candidates.
    """
    exact = models.of("float32")
    both = {"float32": exact, "bfloat16": models.of("bfloat16")}
    reference = Reference(checkout, exact)
    samples = samples or _affordable(budget, rate(), peaks, models.name)
    found = compare(both, models.name, reference, (1, 2, 4), samples, budget if few else budget.share(2, 3))
    sweep = []
    for count in () if few else COUNTS:
        if budget.left > 0 and count <= 4 * samples:
            sweep.append(ratio({"float32": exact}, reference, 1, count, budget.share(1, 4), rounds=9))
    return {**found, "by_samples": sweep}


def _affordable(budget: Budget, steps_per_s: float, peaks: Mapping[str, float], dtype: str) -> int:
    """So many candidates that horizons 1, 2 and 4 of both fit, in both dtypes, three times.

    A candidate is 1 + 2 + 4 steps of ours and, since the reference evaluates the whole clip again for
    every step, 1 + 3 + 10 of the reference's.
    """
    slower = sum(peaks[dtype] / peaks[name] for name in ("float32", "bfloat16"))
    affordable = budget.left * steps_per_s / (3 * (7 + 14 * 1.3) * slower)
    return max(2, min(64, int(affordable)))


def agreement(model: WorldModel, reference: Reference, horizon: int, samples: int) -> dict[str, float]:
    """How far the two implementations are apart, in float32 on the same weights.

    Returns:
        ``prediction``: largest difference of the raw predictions of a clip of ``horizon`` steps (their
        size is about 1); ``action``: largest difference of the actions that one iteration of CEM gives.
    """
    import torch

    z0, s0, _, actions = _inputs(model, horizon, samples)
    with torch.inference_mode():
        clip = z0.expand(samples, horizon, *z0.shape)
        states = s0.expand(samples, horizon, 7)
        theirs = reference.predict(clip, states, actions)
        ours = model.predictor(clip, states, actions)
    ours_action, theirs_action = (
        _ours(model, horizon, samples)(),
        _theirs(model, reference, horizon, samples)(),
    )
    return {
        "prediction": float((ours.float() - theirs.float()).abs().max()),
        "action": float((ours_action - theirs_action).abs().max()),
    }


def ratio(
    models: Mapping[str, WorldModel],
    reference: Reference,
    horizon: int,
    samples: int,
    budget: Budget,
    rounds: int = 7,
) -> dict[str, Any]:
    """One iteration of CEM, of the reference's planner and of ours, timed in turn.

    Args:
        models: the same model by name of its dtype, "float32" or "bfloat16".
        reference: on the same weights; it computes in every dtype of ``models``, in bfloat16 under
            autocast.
        horizon: actions of a candidate.
        samples: candidates.
        budget: how long.
        rounds: at most so often.

    Returns:
        Median seconds by implementation and dtype, and the ratio reference / ours of equal dtypes.
    """
    import torch

    device = next(iter(models.values())).device
    rivals: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        theirs = _theirs(model, reference, horizon, samples, getattr(torch, name))
        rivals[f"reference {name}"] = theirs
        rivals[f"ours {name}"] = _ours(model, horizon, samples)
    times = in_turn(*rivals.values(), budget=budget, rounds=rounds, settle=settle(device))
    seconds = {name: quantile(t, 0.5) for name, t in zip(rivals, times, strict=True)}
    return {
        "horizon": horizon,
        "samples": samples,
        "rounds": len(times[0]),
        "seconds": seconds,
        "equal_dtype": {name: seconds[f"reference {name}"] / seconds[f"ours {name}"] for name in models},
    }


def compare(
    models: Mapping[str, WorldModel],
    auto: str,
    reference: Reference,
    horizons: Sequence[int],
    samples: int,
    budget: Budget,
    rounds: int = 7,
) -> dict[str, Any]:
    """Ratios by horizon.

    The headline lets each run as it would be run: the reference under bfloat16 autocast, ours in the
    dtype that "auto" chooses for the device.

    Args:
        models: the same model by name of its dtype.
        auto: name of the dtype that "auto" chooses here.
        reference: on the same weights.
        horizons: to compare at.
        samples: candidates.
        budget: how long, all together.
        rounds: at most so often for each.

    Returns:
        ``ratio``: by horizon, as strings; ``rows``: what :func:`ratio` measured; ``difference``: what
        :func:`agreement` found.
    """
    rows = []
    exact = models["float32"]
    difference = agreement(exact, reference, max(horizons), min(samples, 4))
    for number, horizon in enumerate(horizons):
        cost = sum(h * h for h in horizons[number:])
        share = budget.share(horizon * horizon, cost)
        rows.append(ratio(models, reference, horizon, samples, share, rounds))
    usual = "reference bfloat16" if "bfloat16" in models else "reference float32"
    return {
        "headline": f"{usual} over ours {auto}",
        "ratio": {str(r["horizon"]): r["seconds"][usual] / r["seconds"][f"ours {auto}"] for r in rows},
        "rows": rows,
        "difference": difference,
    }


def _inputs(model: WorldModel, horizon: int, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    energy, actions = problem(model, horizon, samples)
    return energy.z0, energy.s0, energy.z_goal, actions


def _elites(samples: int) -> int:
    return max(2, min(10, samples // 2))


def _theirs(
    model: WorldModel,
    reference: Reference,
    horizon: int,
    samples: int,
    dtype: torch.dtype | None = None,
) -> Callable[[], Tensor]:
    import torch

    z0, s0, z_goal, _ = _inputs(model, horizon, samples)
    _, begin = noise_of(0, horizon, samples, model.device)

    def plan() -> Tensor:
        with (
            torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
            torch.inference_mode(),
            autocast(model.device, dtype or torch.float32),
        ):
            begin()
            return reference.plan(
                z0.float(),
                s0,
                z_goal.float(),
                horizon=horizon,
                samples=samples,
                elites=_elites(samples),
                bound=BOUND,
            )

    return plan


def _ours(model: WorldModel, horizon: int, samples: int) -> Callable[[], Tensor]:
    import torch

    from vjepa_ac_planner.planning.cem import CEM, CEMConfig
    from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig

    energy, _ = problem(model, horizon, samples)
    optimiser = CEM(CEMConfig(samples=samples, elites=_elites(samples), iterations=1))
    space = ActionSpace(SearchConfig(axes="xyz+gripper", xyz=BOUND), horizon, model.device)
    noise, _ = noise_of(0, horizon, samples, model.device)
    generator = torch.Generator().manual_seed(0)
    return lambda: optimiser.optimise(energy, space, generator=generator, noise=noise).actions


def variants(models: Mapping[str, WorldModel], samples: int, budget: Budget) -> dict[str, float]:
    """Two ways of doing the same thing, timed in turn at a horizon of 4.

    Returns:
        ``uncached_over_cached`` and ``bfloat16_over_float32``: ratios of their times.
    """
    from vjepa_ac_planner.bench.engine import score

    exact, half = models["float32"], models["bfloat16"]
    energy, actions = problem(exact, 4, samples)
    cached, uncached, halved = in_turn(
        score(exact, 4, samples),
        lambda: uncached_rollout(exact, energy.z0, energy.s0, actions),
        score(half, 4, samples),
        budget=budget,
        rounds=5,
        settle=settle(exact.device),
    )
    seconds = quantile(cached, 0.5)
    return {
        "uncached_over_cached": quantile(uncached, 0.5) / seconds,
        "bfloat16_over_float32": quantile(halved, 0.5) / seconds,
    }


def uncached_rollout(model: WorldModel, z0: Tensor, s0: Tensor, actions: Tensor) -> Tensor:
    """The rollout as its definition reads: every step evaluates the whole clip again. [K, H, N, D]."""
    import torch

    from vjepa_ac_planner import geometry
    from vjepa_ac_planner.nn.layers import latent_norm

    with torch.inference_mode():
        states = geometry.integrate(s0, actions)
        z = z0.expand(len(actions), 1, *z0.shape)
        for t in range(actions.shape[1]):
            following = model.predictor(z, states[:, : t + 1].to(z), actions[:, : t + 1].to(z))
            z = torch.cat((z, latent_norm(following[:, -1:])), dim=1)
        return z[:, 1:]
