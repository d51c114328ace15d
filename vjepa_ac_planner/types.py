"""The values that flow through the planner: stamped, in SI units, in named frames, frozen.

Data flows one way: :class:`Frame` and :class:`RobotState` come in as an :class:`Observation`, the
planner answers with a :class:`Plan`, and the safety layer turns its first action into a
:class:`Command`. Arrays are made read-only on construction, so that a value can be handed between
threads without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError

STATE_DIM = 7
"""x, y, z [m], extrinsic-xyz Euler angles [rad], gripper closedness (0 open, 1 closed)."""
ACTION_DIM = 7
"""dx, dy, dz [m], rotation as extrinsic-xyz Euler angles [rad] applied on the left, d closedness."""
STATE_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "dgrip")

FloatArray = npt.NDArray[np.float64]


def _vector(name: str, value: Any, shape: tuple[int | None, ...]) -> FloatArray:
    """Check one float array: shape (None = any size) and finiteness; return it read-only."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers, received {value!r}") from error
    wanted = "x".join("N" if n is None else str(n) for n in shape)
    if array.ndim != len(shape) or any(
        n is not None and n != m for n, m in zip(shape, array.shape, strict=True)
    ):
        raise InputError(f"{name}: expected shape {wanted}, received {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: every value must be finite, received {array.tolist()}")
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Args:
        image: [H, W, 3] uint8, RGB, H and W at least 16 pixels.
        stamp: time of exposure [s], on the clock of the robot data.
        frame_id: name of the optical frame, for messages only.

    Raises:
        InputError: the image is not an uint8 RGB array of a usable size, or the stamp is not finite.
    """

    image: npt.NDArray[np.uint8]
    stamp: float = 0.0
    frame_id: str = "camera"

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"image: expected a NumPy array [H, W, 3] uint8 RGB, received {type(image).__name__}"
            )
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"image: expected shape [H, W, 3] (RGB, channels last), received {image.shape}; "
                "convert grey, RGBA or channels-first images first"
            )
        if image.dtype != np.uint8:
            raise InputError(
                f"image: expected dtype uint8 (0..255), received {image.dtype}; "
                "scale and convert it, NaN and float images are refused"
            )
        if min(image.shape[:2]) < 16:
            raise InputError(f"image: expected at least 16x16 pixels, received {image.shape[:2]}")
        if not np.isfinite(self.stamp):
            raise InputError(f"image: the stamp must be finite, received {self.stamp}")
        view = image.view()
        view.setflags(write=False)
        object.__setattr__(self, "image", view)


@dataclass(frozen=True)
class RobotState:
    """End-effector pose and gripper in the robot base frame, in the model's end-effector frame.

    Args:
        vector: [7] x, y, z [m]; extrinsic-xyz Euler angles [rad]; closedness 0 (open) .. 1 (closed).
        stamp: time of measurement [s].

    Raises:
        InputError: wrong shape, NaN or infinite values, angles beyond 2 pi, or closedness outside 0..1.
    """

    vector: FloatArray
    stamp: float = 0.0

    def __post_init__(self) -> None:
        vector = _vector("state", self.vector, (STATE_DIM,))
        if np.abs(vector[:3]).max() > 10.0:
            raise InputError(
                f"state: position must lie within 10 m of the base, received {vector[:3].tolist()}; "
                "are these millimetres?"
            )
        if np.abs(vector[3:6]).max() > 2 * np.pi:
            raise InputError(
                f"state: Euler angles must lie within +-2 pi rad, received {vector[3:6].tolist()}; "
                "are these degrees?"
            )
        if not -1e-6 <= vector[6] <= 1 + 1e-6:
            raise InputError(
                f"state: gripper closedness must lie in 0 (open) .. 1 (closed), received {vector[6]}"
            )
        if not np.isfinite(self.stamp):
            raise InputError(f"state: the stamp must be finite, received {self.stamp}")
        object.__setattr__(self, "vector", vector)

    @property
    def position(self) -> FloatArray:
        """[3] end-effector position in the base frame [m]."""
        return self.vector[:3]

    @property
    def gripper(self) -> float:
        """Closedness, 0 open .. 1 closed."""
        return float(self.vector[6])


@dataclass(frozen=True)
class Observation:
    """What the world shows at one moment: one camera frame and the robot state beside it."""

    frame: Frame
    state: RobotState
    latent: Any = field(default=None, repr=False, compare=False)
    """[N, D] tensor: what a world model sees in the frame, or expects to see, where that is known already;
    None has the frame encoded."""


@dataclass(frozen=True)
class Goal:
    """One goal image, and the name it goes by in logs and reports."""

    frame: Frame
    name: str = "goal"
    state: RobotState | None = None
    """State of the arm in the image, where it is known; most planners need none."""


@dataclass(frozen=True)
class IterationTrace:
    """What one optimiser iteration saw; energies are mean |z_H - z_goal| over tokens and channels."""

    best_energy: float
    elite_mean_energy: float
    mean: FloatArray
    """[H, 7] mean of the proposal after the refit."""
    std: FloatArray
    """[H, 7] standard deviation of the proposal after the refit."""
    finite: int
    """Number of candidates with a finite energy."""


@dataclass(frozen=True)
class Plan:
    """The answer of one planning call, with the evidence for it.

    ``action`` is the first of ``actions``. ``energy`` and ``zero_energy`` are predicted energies of
    the plan and of standing still over the same horizon, by the same model, so they can be compared.
    """

    actions: FloatArray
    """[H, 7] planned actions."""
    predicted_states: FloatArray
    """[H + 1, 7] current state and the state after each planned action."""
    energy: float
    zero_energy: float
    current_energy: float
    """Energy of the observed latent itself, |z_0 - z_goal|: how far from the goal we are now."""
    iterations: tuple[IterationTrace, ...]
    evaluations: int
    """Number of action sequences that were rolled out."""
    seed: int | None
    stop_reason: Literal["iterations", "deadline", "converged", "cancelled"]
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage (``encode``, ``optimise``, ``total``)."""
    stamp: float = 0.0
    """Stamp of the frame the plan was made from [s]."""
    margin: float = 0.0
    """Share of ``zero_energy`` that the plan must save to count as an improvement."""
    predicted_energies: tuple[float, ...] = ()
    """Energy expected after each planned action."""
    surprise: float | None = None
    """|z_0 - z_predicted|: how far the observed latent is from what the previous plan, whose first
    action was carried out, expected; None when there is no such plan."""
    gripper: Literal["with", "without", "only"] | None = None
    """What the search was told about the gripper, if that differed from the configuration."""
    predicted_latent: Any = field(default=None, repr=False, compare=False)
    """[N, D] tensor: the latent expected after the first action, for the next plan's ``surprise``."""
    observed_latent: Any = field(default=None, repr=False, compare=False)
    """[N, D] tensor: the latent of the frame that the plan was made from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", _vector("actions", self.actions, (None, ACTION_DIM)))
        object.__setattr__(
            self,
            "predicted_states",
            _vector("predicted_states", self.predicted_states, (None, STATE_DIM)),
        )

    @property
    def action(self) -> FloatArray:
        """[7] the first action, the one to execute."""
        return self.actions[0]

    @property
    def improves(self) -> bool:
        """Whether the plan is predicted to end nearer to the goal than standing still, by the margin."""
        return self.energy < self.zero_energy * (1.0 - self.margin)


@dataclass(frozen=True)
class Command:
    """A pose setpoint that has passed the safety layer, in the model's end-effector frame.

    ``kind`` is ``"move"`` for a step of a plan and ``"hold"`` when the robot must stay where it is;
    ``reason`` then says why, naming limit, value and bound.
    """

    kind: Literal["move", "hold"]
    target: FloatArray
    """[7] pose and gripper closedness to reach at the end of the step (state convention)."""
    duration: float
    """Time the step may take [s]."""
    stamp: float = 0.0
    reason: str = ""
    moves_gripper: bool = True
    """Whether the gripper is to go to the target's closedness; else it is left at what it was last told,
    and the target merely says how closed it was measured to be."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _vector("target", self.target, (STATE_DIM,)))
