"""What is written down beside the messages, so that a run can be planned again to the last bit."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from vjepa_ac_planner import __version__
from vjepa_ac_planner.config import from_mapping, to_mapping
from vjepa_ac_planner.errors import BagError, ConfigError

RUN_TOPIC = "planner/run"
"""std_msgs/String with the JSON of a :class:`RunInfo`; the first message of a recording."""
PLAN_TOPIC = "planner/plan_record"
"""std_msgs/String with the JSON of a :class:`PlanRecord`, one per step."""

SOURCE_TOPIC = "/source"
"""std_msgs/String with JSON that says where converted data are from."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunInfo:
    """Everything that decides a run's plans, but for what was seen."""

    model: str
    """Name of the model."""
    model_sha256: str
    """Hash of its weights file."""
    planner: dict[str, Any]
    """The planner's configuration, as :func:`~vjepa_ac_planner.config.to_mapping` gives it."""
    seed: int
    """Step i was planned with ``seed + i``."""
    step_seconds: float
    """Time of one action [s]."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of what computed."""
    device: str = "cpu"
    """Where the model ran."""
    dtype: str = "float32"
    """In what precision."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth knowing: task, safety, robot."""

    @classmethod
    def of(cls, planner: Any, weights: str | Path | None = None, seed: int = 0, **extra: Any) -> RunInfo:
        """Describe a run of a planner.

        Args:
            planner: a :class:`~vjepa_ac_planner.planning.planner.Planner`.
            weights: the model's weights file, to be hashed; None leaves the hash empty.
            seed: the loop's seed.
            extra: see the field.

        Raises:
            BagError: the weights cannot be read.
        """
        import torch

        model = planner.world_model
        description = model.description
        return cls(
            model=str(description.name),
            model_sha256="" if weights is None else sha256(weights),
            planner=to_mapping(planner.config),
            seed=seed,
            step_seconds=float(description.step_seconds),
            versions={
                "vjepa_ac_planner": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": importlib.metadata.version("numpy"),
                "transformers": importlib.metadata.version("transformers"),
            },
            device=str(model.device),
            dtype=str(getattr(model, "dtype", torch.float32)).removeprefix("torch."),
            extra=extra,
        )


@dataclass(frozen=True)
class PlanRecord:
    """One step of a recorded run; floats are exact (JSON keeps all digits of a double)."""

    index: int
    """Number of the step."""
    stamp: float
    """Stamp of the frame [s]."""
    frame_id: str
    """Of the frame."""
    state: tuple[float, ...]
    """[7] the state that was planned from."""
    state_stamp: float
    """Of the state [s]."""
    goal: str
    """Name of the goal."""
    goal_index: int
    """Its place among the recorded goal images; -1 if it was not recorded."""
    command: str
    """``move`` or ``hold``."""
    target: tuple[float, ...]
    """[7] of the command."""
    duration: float
    """Of the command [s]."""
    reason: str = ""
    """Why the robot was told to hold."""
    error: str = ""
    """Why there is no plan."""
    switched: str = ""
    """Why the goal was left after this step."""
    findings: tuple[str, ...] = ()
    """What the safety layer objected to."""
    planned: bool = False
    """Whether there is a plan; the fields below are meaningless without."""
    seed: int | None = None
    """Seed of the search."""
    gripper: Literal["with", "without", "only"] | None = None
    """What the search was told about the gripper, if that differed from the configuration."""
    warm_started: bool = False
    """Whether the plan of the step before was handed to the planner."""
    actions: tuple[tuple[float, ...], ...] = ()
    """[H, 7]"""
    predicted_states: tuple[tuple[float, ...], ...] = ()
    """[H + 1, 7]"""
    energy: float = 0.0
    """Predicted, of the plan."""
    zero_energy: float = 0.0
    """Predicted, of standing still."""
    current_energy: float = 0.0
    """Of what was seen."""
    predicted_energies: tuple[float, ...] = ()
    """After each action."""
    surprise: float | None = None
    """See :class:`~vjepa_ac_planner.types.Plan`."""
    iterations: int = 0
    """Of the search."""
    evaluations: int = 0
    """Action sequences that were rolled out."""
    stop_reason: str = ""
    """A plan that stopped at its deadline cannot be made again to the last bit."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage."""


def read_record(cls: type[T], data: Any, where: str) -> T:
    """Build a record from JSON; fields that a newer version added are left out.

    Raises:
        BagError: not such a record.
    """
    if not isinstance(data, Mapping):
        raise BagError(f"{where}: expected a record, received {type(data).__name__}")
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    try:
        return from_mapping(cls, {key: data[key] for key in data if key in names}, where)
    except (ConfigError, TypeError) as error:
        raise BagError(f"{where}: is not a usable record ({error})") from error


def sha256(path: str | Path) -> str:
    """Hash of a file.

    Raises:
        BagError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BagError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
