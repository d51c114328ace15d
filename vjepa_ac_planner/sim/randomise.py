"""How the scene looks: light, colours, sizes, clutter, and a camera that was bumped; one look per seed.

A look changes fields of the compiled scene, which takes well under a millisecond, and nothing else: the
plain look is the compiled scene itself, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.model import (
    BOX_HALF,
    CUP_HEIGHT,
    CUP_RADIUS,
    CUP_SCALES,
    DISTRACTORS,
    TABLES,
)

Vector = npt.NDArray[np.float64]
Triple = tuple[float, float, float]

CAMERA_SHIFT = 0.02
"""Largest shift of the camera along each axis at full strength [m]."""
CAMERA_TURN = np.radians(2.0)
"""Largest turn of the camera about each of its axes at full strength [rad]."""
LIT_POINT = (0.34, -0.05, 0.15)
"""Middle of what the key light shines on [m]; its shadow map is centred there."""
_LIGHT_DISTANCE = 1.85

# Where clutter may stand: on the table, where neither the hand nor a pushed object normally comes.
_CLUTTER_PLACES = (
    ((0.10, -0.64), (0.75, -0.50)),
    ((0.83, -0.45), (1.02, 0.25)),
    ((-0.20, 0.30), (0.12, 0.60)),
)
_HIDDEN, _VISIBLE = 3, 2  # geom groups


@dataclass(frozen=True)
class Distractor:
    """A thing that stands about: seen, never touched."""

    position: tuple[float, float]
    """Where it stands on the table [m], base frame."""
    size: Triple
    """Half its extent along each axis [m]; a cylinder takes radius and half height from x and z."""
    yaw: float
    """Turn about the vertical [rad]."""
    colour: Triple
    """Red, green and blue, 0 .. 1."""


@dataclass(frozen=True)
class Appearance:
    """A look of the scene; the defaults are the plain one. Colours are red, green and blue, 0 .. 1.

    Raises:
        ConfigError: an unknown table or cup, more clutter than there is, or an impossible size.
    """

    light_direction: Triple = (-0.32, -0.14, -1.0)
    """Of the key light; points down."""
    light: Triple = (0.58, 0.56, 0.53)
    """Colour and strength of the key light."""
    ambient: Triple = (0.36, 0.36, 0.38)
    """Colour and strength of the light from everywhere."""
    table: str = "wood"
    """Material of the table."""
    table_tint: Triple = (1.0, 1.0, 1.0)
    """What its colours are multiplied by."""
    wall: Triple = (0.80, 0.79, 0.75)
    """Colour of the wall behind the arm."""
    side_wall: Triple = (0.72, 0.75, 0.78)
    """Colour of the wall opposite the camera."""
    floor: Triple = (0.36, 0.37, 0.39)
    """Colour of the floor."""
    cup: Triple = (0.80, 0.16, 0.13)
    """Colour of the cup."""
    box: Triple = (0.14, 0.33, 0.72)
    """Colour of the box."""
    cup_scale: float = 1.0
    """Size of the cup, one of ``CUP_SCALES``."""
    box_half: Triple = BOX_HALF
    """Half the edges of the box [m]."""
    distractors: tuple[Distractor, ...] = ()
    """Clutter, at most three things."""
    camera_shift: Triple = (0.0, 0.0, 0.0)
    """How far the camera is from where it was put [m], base frame."""
    camera_turn: Triple = (0.0, 0.0, 0.0)
    """How far it is turned about its own right, up and backward axes [rad]."""

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ConfigError(f"table: received {self.table!r}, allowed {', '.join(TABLES)}")
        if self.cup_scale not in CUP_SCALES:
            allowed = ", ".join(map(str, CUP_SCALES))
            raise ConfigError(f"cup_scale: received {self.cup_scale}, allowed {allowed}")
        if len(self.distractors) > len(DISTRACTORS):
            raise ConfigError(
                f"distractors: received {len(self.distractors)}, allowed at most {len(DISTRACTORS)}"
            )
        if not self.light_direction[2] < 0:
            raise ConfigError(f"light_direction: received {self.light_direction}, it must point down")
        for half in self.box_half:
            check_range("box_half", half, 0.01, 0.039, "m")  # wider does not fit between the fingers


PLAIN = Appearance()
"""The scene as it is compiled."""


def random_appearance(seed: int, strength: float = 1.0) -> Appearance:
    """The look that a seed gives.

    Args:
        seed: decides everything; the same for every strength.
        strength: how far the look goes from the plain one, 0 (the plain look) to 1.

    Raises:
        ConfigError: the strength is out of range.
    """
    check_range("strength", strength, 0.0, 1.0)
    if strength == 0.0:
        return PLAIN
    rng = np.random.default_rng([seed, 5])

    def mix(plain: Triple, other: npt.ArrayLike) -> Triple:
        mixed = np.clip((1 - strength) * np.asarray(plain) + strength * np.asarray(other), 0.0, 1.0)
        return _triple(mixed)

    def tinted(low: float, high: float, colourful: float) -> Vector:
        return rng.uniform(low, high) * rng.uniform(1.0 - colourful, 1.0, 3)

    tilt = np.array(PLAIN.light_direction[:2])
    tilt = (1 - strength) * tilt + strength * rng.uniform(-0.7, 0.7, 2)
    other_table = rng.choice(TABLES)
    takes_other = rng.uniform() < strength
    table = str(other_table) if takes_other else "wood"
    # Plain and grey surfaces may have any colour; wood stays brown.
    tint = tinted(0.45, 1.0, 0.2 if table == "wood" else 0.6)
    sizes = rng.uniform(0.86, 1.12, 3)
    count = int(rng.integers(0, len(DISTRACTORS) + 1))
    clutter = [_distractor(rng) for _ in DISTRACTORS][: round(strength * count)]
    return Appearance(
        light_direction=(float(tilt[0]), float(tilt[1]), -1.0),
        light=mix(PLAIN.light, tinted(0.35, 0.80, 0.15)),
        ambient=mix(PLAIN.ambient, tinted(0.24, 0.52, 0.12)),
        table=table,
        table_tint=mix(PLAIN.table_tint, tint),
        wall=mix(PLAIN.wall, tinted(0.3, 1.0, 0.35)),
        side_wall=mix(PLAIN.side_wall, tinted(0.3, 1.0, 0.35)),
        floor=mix(PLAIN.floor, tinted(0.15, 0.7, 0.3)),
        cup=mix(PLAIN.cup, rng.uniform(0.05, 0.95, 3)),
        box=mix(PLAIN.box, rng.uniform(0.05, 0.95, 3)),
        cup_scale=_cup_scale(rng, strength),
        box_half=_triple(np.asarray(BOX_HALF) * (1 + strength * (sizes - 1))),
        distractors=tuple(clutter),
        camera_shift=_triple(strength * rng.uniform(-CAMERA_SHIFT, CAMERA_SHIFT, 3)),
        camera_turn=_triple(strength * rng.uniform(-CAMERA_TURN, CAMERA_TURN, 3)),
    )


class Dresser:
    """Gives one compiled scene its looks.

    Args:
        mujoco: the imported module.
        model: the scene; its fields as they are now are the plain look.
    """

    _FIELDS = (
        "light_pos", "light_dir", "light_diffuse", "mat_rgba", "geom_matid", "geom_group", "geom_size",
        "geom_rbound", "geom_aabb", "geom_pos", "geom_quat", "geom_rgba", "bvh_aabb", "cam_pos",
        "cam_quat",
    )  # fmt: skip

    def __init__(self, mujoco: Any, model: Any) -> None:
        self._mj, self._model = mujoco, model
        self._plain = {name: getattr(model, name).copy() for name in self._FIELDS}
        self._ambient = np.array(model.vis.headlight.ambient)

    def dress(self, look: Appearance) -> None:
        """Change the scene to a look; its state is left as it is."""
        for name, value in self._plain.items():
            getattr(self._model, name)[:] = value
        self._model.vis.headlight.ambient[:] = self._ambient
        if look == PLAIN:
            return
        self._light(look)
        self._surfaces(look)
        self._objects(look)
        for name, thing in zip(DISTRACTORS, look.distractors, strict=False):
            self._stand(name, thing)
        self._bump_camera(look)

    def _light(self, look: Appearance) -> None:
        model, light = self._model, self._model.light("key").id
        direction = np.asarray(look.light_direction) / np.linalg.norm(look.light_direction)
        model.light_dir[light] = direction
        model.light_pos[light] = np.asarray(LIT_POINT) - _LIGHT_DISTANCE * direction
        model.light_diffuse[light] = look.light
        model.vis.headlight.ambient[:] = look.ambient

    def _surfaces(self, look: Appearance) -> None:
        model = self._model
        model.geom_matid[model.geom("table").id] = model.material(look.table).id
        colours = {
            look.table: look.table_tint, "wall": look.wall, "wall2": look.side_wall,
            "floor": look.floor, "cup": look.cup, "box": look.box,
        }  # fmt: skip
        for name, colour in colours.items():
            model.mat_rgba[model.material(name).id, :3] = colour

    def _objects(self, look: Appearance) -> None:
        model, scale = self._model, look.cup_scale
        for index, other in enumerate(CUP_SCALES):
            model.geom_group[model.geom(f"cup_look{index}").id] = _VISIBLE if other == scale else _HIDDEN
        radius, half_height = scale * CUP_RADIUS, scale * CUP_HEIGHT / 2
        self._resize("cup", (radius, half_height, 0.0), (radius, radius, half_height))
        self._resize("box", look.box_half, look.box_half)

    def _resize(self, name: str, size: Triple, half_extent: Triple) -> None:
        """Size of an object's collision shape, and of the boxes that the collision search asks first.

        Mass and inertia stay: a larger thing is a lighter one.
        """
        model, geom = self._model, self._model.geom(name).id
        model.geom_size[geom] = size
        model.geom_rbound[geom] = np.linalg.norm(half_extent)
        model.geom_aabb[geom, 3:] = half_extent
        body = model.geom_bodyid[geom]
        first = model.body_bvhadr[body]
        model.bvh_aabb[first : first + model.body_bvhnum[body], 3:] = half_extent

    def _stand(self, name: str, thing: Distractor) -> None:
        model, geom = self._model, self._model.geom(name).id
        cylinder = DISTRACTORS[name] == "cylinder"
        x, _, z = thing.size
        model.geom_size[geom] = (x, z, 0.0) if cylinder else thing.size
        half = (x, x, z) if cylinder else thing.size
        model.geom_rbound[geom] = np.linalg.norm(half)
        model.geom_aabb[geom, 3:] = half
        model.geom_pos[geom] = (*thing.position, z)
        model.geom_quat[geom] = (np.cos(thing.yaw / 2), 0.0, 0.0, np.sin(thing.yaw / 2))
        model.geom_rgba[geom, :3] = thing.colour
        model.geom_group[geom] = _VISIBLE

    def _bump_camera(self, look: Appearance) -> None:
        model, camera = self._model, self._model.camera("exterior").id
        model.cam_pos[camera] += look.camera_shift
        turn = np.asarray(look.camera_turn)
        angle = float(np.linalg.norm(turn))
        if angle > 0:
            bump, turned = np.empty(4), np.empty(4)
            self._mj.mju_axisAngle2Quat(bump, turn / angle, angle)
            self._mj.mju_mulQuat(turned, model.cam_quat[camera].copy(), bump)
            model.cam_quat[camera] = turned


def _distractor(rng: np.random.Generator) -> Distractor:
    low, high = _CLUTTER_PLACES[int(rng.integers(len(_CLUTTER_PLACES)))]
    x, y = rng.uniform(low, high)
    size = rng.uniform((0.02, 0.02, 0.02), (0.05, 0.05, 0.09))
    return Distractor(
        (float(x), float(y)),
        _triple(size),
        float(rng.uniform(-np.pi, np.pi)),
        _triple(rng.uniform(0.05, 0.95, 3)),
    )


def _cup_scale(rng: np.random.Generator, strength: float) -> float:
    wanted = 1 + strength * (rng.uniform(min(CUP_SCALES), max(CUP_SCALES)) - 1)
    return min(CUP_SCALES, key=lambda scale: abs(scale - wanted))


def _triple(values: npt.ArrayLike) -> Triple:
    x, y, z = np.asarray(values, dtype=np.float64).tolist()
    return x, y, z
