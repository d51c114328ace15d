"""Planner configuration: one object, and the presets of ``config/planner.yaml``, which holds the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vjepa_ac_planner.config import check_range, from_mapping, load_yaml, merged
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.cem import CEMConfig
from vjepa_ac_planner.planning.energy import EnergyOver
from vjepa_ac_planner.planning.gradient import GradientConfig
from vjepa_ac_planner.planning.hybrid import HybridConfig
from vjepa_ac_planner.planning.icem import ICEMConfig
from vjepa_ac_planner.planning.mppi import MPPIConfig
from vjepa_ac_planner.planning.proposals import SearchConfig
from vjepa_ac_planner.resources import resource_folders

OptimiserName = Literal["cem", "icem", "mppi", "gradient", "hybrid"]


@dataclass(frozen=True)
class PlannerConfig:
    """How a plan is made."""

    horizon: int = 1
    """Number of actions planned ahead; each is one step of the model."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """Axes and bounds of the search."""
    optimiser: OptimiserName = "cem"
    """Which optimiser finds the actions; only its own settings count."""
    cem: CEMConfig = field(default_factory=CEMConfig)
    """Settings of the cross-entropy method."""
    icem: ICEMConfig = field(default_factory=ICEMConfig)
    """Settings of the improved cross-entropy method."""
    mppi: MPPIConfig = field(default_factory=MPPIConfig)
    """Settings of model predictive path integral."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Settings of the descent through the world model."""
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    """Settings of sampling first, descent after."""
    energy_over: EnergyOver = "final"
    """Energy of the last imagined latent (the paper), or the mean over the horizon."""
    state_weight: float = 0.0
    """Energy per metre that the arm is from its state at the goal, where a goal's state is known."""
    chunk: int | None = None
    """Most candidates rolled out at a time; null finds what fits the device."""
    warm_start: bool = False
    """Begin the search at the previous plan, shifted by one step."""
    hold_margin: float = 0.0
    """Share of standing still's predicted energy that a plan must save to count as an improvement."""
    seed: int = 0
    """Seed of a plan for which none is asked."""

    def __post_init__(self) -> None:
        check_range("horizon", self.horizon, 1, 64)
        check_range("hold_margin", self.hold_margin, 0.0, 0.9)
        check_range("state_weight", self.state_weight, 0.0, 100.0, "1/m")
        check_range("seed", self.seed, 0, 2**63 - 1)
        if self.chunk is not None:
            check_range("chunk", self.chunk, 1, 1_000_000)

    @classmethod
    def preset(cls, name: str, overrides: Mapping[str, Any] | None = None) -> PlannerConfig:
        """A named preset, with options replaced.

        Args:
            name: one of :func:`preset_names`.
            overrides: options as in the file, nested (``{"cem": {"samples": 96}}``).

        Raises:
            ConfigError: no such preset, an unknown option, or a value outside its range.
        """
        presets = _presets()
        if name not in presets:
            raise ConfigError(f"preset: received {name!r}, allowed {', '.join(presets)}")
        return from_mapping(cls, merged(presets[name], overrides or {}), f"preset {name}")


def preset_names() -> tuple[str, ...]:
    """Names of the presets in ``config/planner.yaml``."""
    return tuple(_presets())


@cache
def _presets() -> dict[str, Mapping[str, Any]]:
    path = config_file("planner.yaml")
    presets = load_yaml(path).get("presets")
    if not isinstance(presets, dict) or not all(isinstance(value, dict) for value in presets.values()):
        raise ConfigError(f"{path}: expected 'presets' with one mapping of options per name")
    return presets


def config_file(name: str) -> Path:
    """The shipped file ``config/<name>``: beside the package in a source tree, else in ``share``.

    Raises:
        ConfigError: it is in none of the places, which are listed.
    """
    places = [folder / name for folder in resource_folders("config")]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"{name}: not found; looked at {', '.join(map(str, places))}; reinstall the package")
