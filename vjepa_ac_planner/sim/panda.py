"""The simulated Panda: observe a camera image and the flange state, apply one pose command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.geometry import euler_to_matrix, matrix_to_euler
from vjepa_ac_planner.sim.controller import TrackingController
from vjepa_ac_planner.sim.gl import import_mujoco
from vjepa_ac_planner.sim.model import OBJECT_REST_HEIGHT, REST_POSTURE, TCP_OFFSET, build_model
from vjepa_ac_planner.sim.randomise import PLAIN, Appearance, Dresser
from vjepa_ac_planner.sim.render import Camera
from vjepa_ac_planner.types import Command, Frame, Observation, RobotState

Vector = npt.NDArray[np.float64]

OBJECTS = ("cup", "box")
DOWN_YAW = -np.pi / 4
"""Yaw of link8 when the fingers open along the base y axis: the hand is mounted at 45 degrees."""


@dataclass(frozen=True)
class Workspace:
    """Box that link8 stays in [m], base frame; the TCP is 0.1034 m below it when the hand points down.

    The arm reaches all of it but the last centimetre at the two far upper corners.
    """

    low: tuple[float, float, float] = (0.38, -0.30, TCP_OFFSET + 0.02)
    high: tuple[float, float, float] = (0.68, 0.30, TCP_OFFSET + 0.45)

    def clip(self, position: Vector) -> Vector:
        """The nearest point inside."""
        return np.clip(position, self.low, self.high)

    def contains(self, position: Vector, slack: float = 0.0) -> bool:
        """Whether ``position`` lies inside, give or take ``slack`` [m]."""
        return bool(
            (position >= np.asarray(self.low) - slack).all()
            and (position <= np.asarray(self.high) + slack).all()
        )


WORKSPACE = Workspace()


@dataclass(frozen=True)
class SimConfig:
    """How the scene is built and seen.

    Raises:
        ConfigError: a value outside its range.
    """

    width: int = 256
    """Image width [pixels]."""
    height: int = 256
    """Image height [pixels]."""
    seed: int = 0
    """Places of cup and box."""
    faces: int = 18000
    """Triangles of the arm: rendering in software slows with them, 135000 are the originals."""
    shadow_size: int = 512
    """Edge of the shadow map [pixels]; 0 for no shadows."""
    camera_position: tuple[float, float, float] = (0.95, 0.95, 0.70)
    """Of the exterior camera [m], base frame: like the left exterior camera of DROID."""
    camera_target: tuple[float, float, float] = (0.28, 0.0, 0.28)
    """Point the camera looks at [m]."""
    camera_fovy: float = 50.0
    """Vertical field of view [degrees]."""

    def __post_init__(self) -> None:
        check_range("width", self.width, 16, 4096, "pixels")
        check_range("height", self.height, 16, 4096, "pixels")
        check_range("faces", self.faces, 1000, 140000)
        check_range("shadow_size", self.shadow_size, 0, 8192, "pixels")
        check_range("camera_fovy", self.camera_fovy, 5.0, 120.0, "degrees")
        if self.seed < 0:
            raise ConfigError(f"seed: received {self.seed}, allowed 0 and above")


@dataclass(frozen=True)
class ObjectPose:
    """Where an object stands: centre [m] in the base frame and yaw [rad]."""

    position: tuple[float, float, float]
    yaw: float = 0.0


class PandaSim:
    """A Panda at a table with a cup and a box; implements ``Environment``.

    Deterministic: the same configuration and commands give the same images, bit for bit.

    Args:
        config: scene and camera.
        appearance: look of the scene; None is the plain one.

    Raises:
        MissingDependencyError: mujoco, the meshes or a GL library are not installed.
    """

    def __init__(self, config: SimConfig | None = None, appearance: Appearance | None = None) -> None:
        self.config = config or SimConfig()
        self._mj = import_mujoco()
        self._model = build_model(
            self._mj,
            width=self.config.width,
            height=self.config.height,
            faces=self.config.faces,
            shadow_size=self.config.shadow_size,
            camera_position=self.config.camera_position,
            camera_target=self.config.camera_target,
            camera_fovy=self.config.camera_fovy,
        )
        self._data = self._mj.MjData(self._model)
        self._arm = TrackingController(self._mj, self._model, self._data)
        self._site = self._model.site("link8").id
        self._object_qpos = {name: int(self._model.joint(name).qposadr[0]) for name in OBJECTS}
        self._camera: Camera | None = None
        self._dresser = Dresser(self._mj, self._model)
        self._appearance = PLAIN
        if appearance is not None:
            self.dress(appearance)
        self.reset(self.config.seed)

    @property
    def appearance(self) -> Appearance:
        """How the scene looks."""
        return self._appearance

    def dress(self, appearance: Appearance) -> None:
        """Give the scene another look, from now on.

        Sizes change where the objects are: put them at their :meth:`rest_heights` afterwards. A
        :meth:`snapshot` does not hold the look.
        """
        self._dresser.dress(appearance)
        self._appearance = appearance
        self._mj.mj_kinematics(self._model, self._data)
        self._mj.mj_camlight(self._model, self._data)

    def rest_heights(self) -> dict[str, float]:
        """Height of the centres of cup and box when they stand on the table [m]."""
        cup, box = (self._model.geom(name).size for name in OBJECTS)
        return {"cup": float(cup[1]), "box": float(box[2])}

    def reset(self, seed: int) -> None:
        """Arm to its rest posture, cup and box to the places that ``seed`` gives."""
        position, rotation = self._arm.kinematics.forward(REST_POSTURE)
        objects = random_objects(np.random.default_rng([seed, 1]), self.rest_heights())
        self._reset(position, rotation, 0.0, objects)

    def reset_to(self, state: npt.ArrayLike, objects: Mapping[str, ObjectPose] | None = None) -> None:
        """Put the arm at a state, at rest; objects where they are told to stand, else where they are.

        The joints are a function of the pose alone, so start and goal images of one pose are equal.

        Args:
            state: [7] of link8, state convention.
            objects: poses by name (``cup``, ``box``).

        Raises:
            InputError: the state is not usable or out of reach, or an object is unknown.
        """
        vector = RobotState(np.asarray(state, dtype=np.float64)).vector
        poses = {**self.objects(), **(objects or {})}
        if unknown := set(poses) - set(OBJECTS):
            raise InputError(f"objects: received {sorted(unknown)}, allowed {', '.join(OBJECTS)}")
        self._reset(vector[:3], _matrix(vector[3:6]), float(np.clip(vector[6], 0, 1)), poses)

    def reachable(self, state: npt.ArrayLike) -> bool:
        """Whether the arm can be put at a state [7]; quick for all but the far corners."""
        vector = RobotState(np.asarray(state, dtype=np.float64)).vector
        # Well inside, no search is needed: every corner of this box is reachable at every yaw.
        if WORKSPACE.contains(vector[:3]) and vector[2] < 0.48:
            return True
        try:
            self._arm.kinematics.solve(vector[:3], _matrix(vector[3:6]))
        except InputError:
            return False
        return True

    def _reset(
        self, position: Vector, rotation: Vector, closedness: float, objects: Mapping[str, ObjectPose]
    ) -> None:
        self._mj.mj_resetData(self._model, self._data)
        for name, pose in objects.items():
            start = self._object_qpos[name]
            self._data.qpos[start : start + 3] = pose.position
            self._data.qpos[start + 3 : start + 7] = (np.cos(pose.yaw / 2), 0, 0, np.sin(pose.yaw / 2))
        self._arm.place(position, rotation, closedness)
        self._mj.mj_forward(self._model, self._data)

    @property
    def time(self) -> float:
        """Simulated time since the last reset [s]."""
        return float(self._data.time)

    def state(self) -> Vector:
        """[7] measured state of link8 in the base frame, state convention."""
        euler = _euler(self._data.site_xmat[self._site].reshape(3, 3).copy())
        return np.concatenate([self._data.site_xpos[self._site], euler, [self._arm.closedness]])

    def reference(self) -> Vector:
        """[7] state that the arm is told to be at: what it holds when no command comes."""
        position, rotation = self._arm.reference()
        return np.concatenate([position, _euler(rotation), [self._arm.commanded_closedness]])

    def joints(self) -> Vector:
        """[9] measured positions: the seven joints [rad], then left and right finger [m]."""
        return self._data.qpos[:9].copy()

    def objects(self) -> dict[str, ObjectPose]:
        """Where cup and box are now (yaw only: a tilt is not reported)."""
        poses = {}
        for name, start in self._object_qpos.items():
            x, y, z, qw, qx, qy, qz = self._data.qpos[start : start + 7].tolist()
            yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
            poses[name] = ObjectPose((x, y, z), float(yaw))
        return poses

    def tilt(self, name: str) -> float:
        """How far an object leans from standing upright [rad]."""
        start = self._object_qpos[name]
        _, x, y, _ = self._data.qpos[start + 3 : start + 7].tolist()
        return float(np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1)))

    def holding(self, name: str) -> bool:
        """Whether both fingers touch the object."""
        geom = self._model.geom(name).id
        pads = {self._model.geom(f"{side}_pad").id for side in ("left", "right")}
        touching = {frozenset(pair) for pair in self._data.contact.geom.tolist()}
        return all(frozenset((geom, pad)) in touching for pad in pads)

    def observe(self) -> Observation:
        """The camera image and the flange state at this moment."""
        return Observation(
            Frame(self.render(), stamp=self.time, frame_id="exterior"),
            RobotState(self.state(), stamp=self.time),
        )

    def apply(self, command: Command) -> None:
        """Carry out one command; returns when its duration has passed in simulated time.

        A ``hold`` stays at the pose that the arm was last told to be at, and keeps its grip.
        """
        target, grip = command.target, self._arm.commanded_closedness
        if command.kind == "hold":
            position, rotation = self._arm.reference()
        else:
            position, rotation = target[:3], _matrix(target[3:6])
            grip = float(target[6]) if command.moves_gripper else grip
        self._arm.move(position, rotation, grip, command.duration)

    def follow(self, target: npt.ArrayLike, seconds: float) -> None:
        """Let time pass while the arm goes after one setpoint of a stream.

        For streams of 20 to 50 setpoints a second: the arm trails them by a few hundredths of a second,
        and neither stops at one nor jumps to it. For whole steps there is :meth:`apply`.

        Args:
            target: [7] of link8, state convention; the last one is held for as long as it is repeated.
            seconds: how long, in multiples of 10 ms [s].

        Raises:
            InputError: the target is not seven usable numbers.
        """
        vector = RobotState(np.asarray(target, dtype=np.float64)).vector
        self._arm.follow(vector[:3], _matrix(vector[3:6]), float(np.clip(vector[6], 0, 1)), seconds)

    def render(self) -> npt.NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB image of the exterior camera."""
        return self._lens().render(self._data)

    def project(self, points: npt.ArrayLike) -> Vector:
        """Pixels [N, 2] (column, row) of points [N, 3] in the base frame, for drawing over images."""
        return self._lens().project(np.asarray(points, dtype=np.float64))

    def snapshot(self) -> Vector:
        """The whole state of the simulation, for :meth:`restore`."""
        kind = self._mj.mjtState.mjSTATE_INTEGRATION
        values = np.empty(self._mj.mj_stateSize(self._model, kind))
        self._mj.mj_getState(self._model, self._data, values, kind)
        return values

    def restore(self, snapshot: Vector) -> None:
        """Go back to a :meth:`snapshot` of a simulation with the same configuration."""
        self._mj.mj_setState(self._model, self._data, snapshot, self._mj.mjtState.mjSTATE_INTEGRATION)
        self._mj.mj_forward(self._model, self._data)
        self._arm.restore()

    def close(self) -> None:
        """Free the GL context; safe to call twice."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def __enter__(self) -> PandaSim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _lens(self) -> Camera:
        # Made at the first image: physics alone needs no GL.
        if self._camera is None:
            self._camera = Camera(self._mj, self._model, "exterior", self.config.width, self.config.height)
        return self._camera


def random_objects(
    rng: np.random.Generator, heights: Mapping[str, float] = OBJECT_REST_HEIGHT
) -> dict[str, ObjectPose]:
    """Cup and box standing on the table inside the workspace, at least 14 cm apart.

    Args:
        rng: source of chance.
        heights: of their centres [m]; :meth:`PandaSim.rest_heights` of a scene with another look.
    """
    while True:
        places = rng.uniform((0.42, -0.25), (0.64, 0.25), size=(2, 2))
        if np.linalg.norm(places[0] - places[1]) >= 0.14:
            break
    # The planner does not search rotations: a box turned further would not fit between the fingers.
    yaws = rng.uniform(-0.25, 0.25, size=2)
    return {
        name: ObjectPose((float(x), float(y), heights[name]), float(yaw))
        for name, (x, y), yaw in zip(OBJECTS, places, yaws, strict=True)
    }


def down_state(position: npt.ArrayLike, *, yaw: float = 0.0, gripper: float = 0.0) -> Vector:
    """[7] state with the hand pointing straight down.

    Args:
        position: [3] of link8 [m].
        yaw: turn about the vertical [rad]; at 0 the fingers open along the base y axis.
        gripper: closedness.
    """
    # Through the rotation matrix, so that roll gets the sign that the geometry module gives it.
    rotation = euler_to_matrix(torch.tensor([np.pi, 0.0, DOWN_YAW + yaw], dtype=torch.float64))
    euler = matrix_to_euler(rotation).numpy()
    return np.concatenate([np.asarray(position, dtype=np.float64), euler, [gripper]])


def _euler(rotation: Vector) -> Vector:
    return matrix_to_euler(torch.from_numpy(rotation)).numpy()


def _matrix(euler: Vector) -> Vector:
    return _matrix_of(tuple(euler.tolist()))


@lru_cache(maxsize=16)  # a setpoint that is held is asked for a hundred times a second
def _matrix_of(euler: tuple[float, ...]) -> Vector:
    matrix: Vector = euler_to_matrix(torch.tensor(euler, dtype=torch.float64)).numpy()
    matrix.setflags(write=False)
    return matrix
