"""Our own MJCF of the Franka Panda, a table, walls, a camera, a cup and a box.

Kinematics, joint, speed and torque limits are the manufacturer's published values (Franka Control
Interface documentation); inertial parameters are those identified by Gaz et al., "Dynamic
identification of the Franka Emika Panda robot with retrieval of feasible parameters" (RA-L 2019).
The base frame is the world frame; the table top is z = 0.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.sim.meshes import LINKS, lathe, load_meshes, write_stl

JOINTS = tuple(f"joint{i}" for i in range(1, 8))
JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
JOINT_SPEED = np.array([2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100])
JOINT_TORQUE = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
REST_POSTURE = np.array([0.0, 0.2, 0.0, -2.2, 0.0, 2.4, 0.785398])
"""Elbow up, gripper straight down over the middle of the table: where the null space pulls to."""
KP = np.array([4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0])
KD = KP / 10.0
GRIPPER_WIDTH = 0.08
"""Opening of the Franka hand [m]; closedness is 1 - width / GRIPPER_WIDTH."""
TCP_OFFSET = 0.1034
"""From the flange (panda_link8) to the point between the finger tips, along its z axis [m]."""
TIMESTEP = 0.002

CUP_RADIUS, CUP_HEIGHT = 0.028, 0.07
BOX_HALF = (0.0265, 0.0265, 0.0275)
OBJECT_REST_HEIGHT = {"cup": CUP_HEIGHT / 2, "box": BOX_HALF[2]}
CUP_SCALES = (0.88, 0.94, 1.0, 1.06, 1.12)
"""Sizes of the cup that a look may choose from; 1 is the plain one."""
TABLES = ("wood", "stone", "cloth", "plain")
"""Materials that the table may have; the first is the plain look's."""
DISTRACTORS = {"clutter0": "box", "clutter1": "cylinder", "clutter2": "ellipsoid"}
"""Things that a look may place about, by name, with their shape; hidden in the plain look."""

# parent offset [m], parent rotation (w x y z), mass [kg], centre of mass [m],
# inertia about it ixx iyy izz ixy ixz iyz [kg m^2]
_R = 0.5**0.5
_LINKS: tuple[tuple[tuple[float, ...], ...], ...] = (
    ((0, 0, 0.333), (1, 0, 0, 0), (4.970684,), (0.003875, 0.002081, -0.04762),
     (0.70337, 0.70661, 0.0091170, -0.00013900, 0.0067720, 0.019169)),
    ((0, 0, 0), (_R, -_R, 0, 0), (0.646926,), (-0.003141, -0.02872, 0.003495),
     (0.0079620, 0.02811, 0.025995, -0.003925, 0.010254, 0.000704)),
    ((0, -0.316, 0), (_R, _R, 0, 0), (3.228604,), (0.027518, 0.039252, -0.066502),
     (0.037242, 0.036155, 0.01083, -0.004761, -0.011396, -0.012805)),
    ((0.0825, 0, 0), (_R, _R, 0, 0), (3.587895,), (-0.05317, 0.104419, 0.027454),
     (0.025853, 0.019552, 0.028323, 0.007796, -0.001332, 0.008641)),
    ((-0.0825, 0.384, 0), (_R, -_R, 0, 0), (1.225946,), (-0.011953, 0.041065, -0.038437),
     (0.035549, 0.029474, 0.008627, -0.002117, -0.004037, 0.000229)),
    ((0, 0, 0), (_R, _R, 0, 0), (1.666555,), (0.060149, -0.014117, -0.010517),
     (0.001964, 0.004354, 0.005433, 0.000109, -0.001158, 0.000341)),
    ((0.088, 0, 0), (_R, _R, 0, 0), (0.735522,), (0.010517, -0.004252, 0.061597),
     (0.012516, 0.010027, 0.004815, -0.000428, -0.001196, -0.000741)),
)  # fmt: skip
_WHITE, _GREY, _DARK = "0.90 0.90 0.90 1", "0.62 0.63 0.65 1", "0.16 0.16 0.18 1"
_LINK_COLOUR = {"link5": _WHITE, "link6": _WHITE, "link7": _GREY, "hand": _WHITE, "finger": _DARK}


def build_model(
    mujoco: Any,
    *,
    width: int,
    height: int,
    faces: int,
    shadow_size: int,
    camera_position: tuple[float, float, float],
    camera_target: tuple[float, float, float],
    camera_fovy: float,
) -> Any:
    """Compile the scene.

    Args:
        mujoco: the imported module.
        width: largest image width that will be rendered [pixels].
        height: largest image height [pixels].
        faces: triangles of the arm's visual meshes together.
        shadow_size: edge of the shadow map [pixels]; 0 for no shadows.
        camera_position: of the exterior camera [m].
        camera_target: the point it looks at [m].
        camera_fovy: vertical field of view [degrees].

    Raises:
        MissingDependencyError: the package that brings the meshes is not installed.
    """
    assets = {f"{link}.stl": data for link, data in load_meshes(faces).items()}
    assets["cup.stl"] = write_stl(lathe(_cup_profile()))
    textures = {"wood": wood_texture(512, 512), "stone": stone_texture(256), "cloth": cloth_texture(256)}
    for name, texture in textures.items():
        # OpenCV writes BGR.
        assets[f"{name}.png"] = cv2.imencode(".png", texture[..., ::-1])[1].tobytes()
    x_axis, y_axis = look_at(camera_position, camera_target)
    xml = f"""
<mujoco model="panda_table">
  <compiler angle="radian" autolimits="true" inertiafromgeom="auto"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10">
    <flag multiccd="enable"/>
  </option>
  <statistic center="0.45 0 0.15" extent="1.0"/>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="{shadow_size}" offsamples="0"/>
    <map znear="0.05" zfar="20" shadowclip="1.1" shadowscale="0.9"/>
    <headlight ambient="0.36 0.36 0.38" diffuse="0.20 0.20 0.20" specular="0.05 0.05 0.05"/>
    <rgba haze="0.8 0.8 0.8 1"/>
  </visual>
  <default>
    <default class="visual"><geom type="mesh" contype="0" conaffinity="0" group="2" mass="0"
      material="shell"/></default>
    <default class="collision"><geom type="box" contype="1" conaffinity="2" group="3" mass="0"
      friction="1.5 0.02 0.0002" condim="4" solref="0.01 1"/></default>
    <default class="object"><geom contype="2" conaffinity="3" friction="1.2 0.02 0.0002" condim="4"
      solref="0.01 1"/></default>
  </default>
  <asset>
    {_asset_meshes()}
    <texture name="wood" type="2d" file="wood.png"/>
    <texture name="stone" type="2d" file="stone.png"/>
    <texture name="cloth" type="2d" file="cloth.png"/>
    <material name="wood" texture="wood" texrepeat="1 1" specular="0.1" shininess="0.2"/>
    <material name="stone" texture="stone" texrepeat="2 2" specular="0.2" shininess="0.4"/>
    <material name="cloth" texture="cloth" texrepeat="4 4" specular="0" shininess="0"/>
    <material name="plain" specular="0.1" shininess="0.2"/>
    <material name="wall" rgba="0.80 0.79 0.75 1" specular="0" shininess="0" emission="0.35"/>
    <material name="wall2" rgba="0.72 0.75 0.78 1" specular="0" shininess="0" emission="0.35"/>
    <material name="floor" rgba="0.36 0.37 0.39 1" specular="0" shininess="0"/>
    <material name="shell" rgba="{_WHITE}" specular="0.35" shininess="0.5"/>
    <material name="cup" rgba="0.80 0.16 0.13 1" specular="0.4" shininess="0.6"/>
    <material name="box" rgba="0.14 0.33 0.72 1" specular="0.2" shininess="0.3"/>
  </asset>
  <worldbody>
    <light name="key" type="directional" castshadow="{"true" if shadow_size else "false"}"
      pos="0.9 0.2 1.9" dir="-0.32 -0.14 -1" diffuse="0.58 0.56 0.53" specular="0.3 0.3 0.3"/>
    <camera name="exterior" pos="{_text(camera_position)}" xyaxes="{_text((*x_axis, *y_axis))}"
      fovy="{camera_fovy}"/>
    <geom name="table" type="box" pos="0.40 0 -0.025" size="0.70 0.75 0.025" material="wood"
      contype="2" conaffinity="3" friction="1 0.01 0.0001"/>
    <geom type="plane" pos="0 0 -0.75" size="4 4 1" material="floor" contype="0" conaffinity="0"/>
    <geom type="plane" pos="-0.95 0 0.5" zaxis="1 0 0" size="3 4 1" material="wall" contype="0"
      conaffinity="0"/>
    <geom type="plane" pos="0 -1.25 0.5" zaxis="0 1 0" size="4 3 1" material="wall2" contype="0"
      conaffinity="0"/>
    <body name="link0">
      <geom class="visual" mesh="link0"/>
      {_arm(0)}
    </body>
    <body name="cup" pos="0.5 0.15 {CUP_HEIGHT / 2}">
      <freejoint name="cup"/>
      <geom class="object" name="cup" type="cylinder" size="{CUP_RADIUS} {CUP_HEIGHT / 2}" mass="0.08"
        group="3"/>
      {_cup_looks()}
    </body>
    <body name="box" pos="0.5 -0.15 {BOX_HALF[2]}">
      <freejoint name="box"/>
      <geom class="object" name="box" type="box" size="{_text(BOX_HALF)}" mass="0.08" material="box"/>
    </body>
    {_clutter()}
  </worldbody>
  <contact><exclude body1="left_finger" body2="right_finger"/></contact>
  <equality><joint joint1="finger1" joint2="finger2" solref="0.005 1"/></equality>
  <actuator>
    {_actuators()}
  </actuator>
</mujoco>"""
    return mujoco.MjModel.from_xml_string(xml, assets)


def look_at(
    position: tuple[float, float, float], target: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Right and up axes of a camera at ``position`` that looks at ``target`` with the horizon level."""
    forward = np.subtract(target, position)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward)


def wood_texture(width: int, height: int) -> npt.NDArray[np.uint8]:
    """[height, width, 3] planks with a soft grain; the same pixels at every call."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planks = 6
    plank = (y * planks / height).astype(int)
    phase, tone = rng.uniform(0, 60, planks)[plank], rng.uniform(-0.05, 0.05, planks)[plank]
    warp = 5.0 * np.sin(x / 71.0 + phase) + 3.0 * np.sin(x / 29.0 + 2.0 * phase)
    grain = 0.5 * np.sin((y + warp + phase) / 2.6) + 0.3 * np.sin((y + 1.7 * warp) / 1.3 + phase)
    seam = np.where((y * planks / height) % 1.0 < 0.02, -0.16, 0.0)
    shade = 1.0 + tone + 0.028 * grain + seam + rng.normal(0.0, 0.008, (height, width))
    colour = np.array([0.70, 0.53, 0.36])
    return (255.0 * np.clip(shade[..., None] * colour, 0.0, 1.0)).round().astype(np.uint8)


def stone_texture(size: int) -> npt.NDArray[np.uint8]:
    """[size, size, 3] light grey with soft speckles; the same pixels at every call."""
    rng = np.random.default_rng(8)
    shade = np.full((size, size), 0.8)
    for blocks, depth in ((8, 0.05), (32, 0.06), (size, 0.05)):
        shade += np.kron(
            rng.normal(0.0, depth, (blocks, blocks)), np.ones((size // blocks, size // blocks))
        )
    return _grey(shade)


def cloth_texture(size: int) -> npt.NDArray[np.uint8]:
    """[size, size, 3] white cloth with darker stripes both ways."""
    stripe = np.where(np.arange(size) % (size // 4) < size // 12, 0.78, 1.0)
    return _grey(0.95 * stripe[:, None] * stripe[None, :])


def _grey(shade: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.repeat((255.0 * np.clip(shade, 0.0, 1.0)).round().astype(np.uint8)[..., None], 3, axis=2)


def _cup_profile() -> npt.NDArray[np.float64]:
    """Radius and height of a tumbler with a wall of 3 mm, centred on its own middle height."""
    r, h, wall = CUP_RADIUS, CUP_HEIGHT / 2, 0.003
    return np.array(
        [(0, -h), (r - 0.004, -h), (r, h - 0.001), (r - wall / 2, h), (r - wall, h - 0.001),
         (r - wall - 0.004, -h + 0.005), (0, -h + 0.005)]
    )  # fmt: skip


def _text(values: tuple[Any, ...]) -> str:
    return " ".join(f"{float(v):.9g}" for v in values)


def _asset_meshes() -> str:
    # Clustered meshes are not watertight: the shell inertia is always defined (and never used).
    arm = "".join(f'<mesh name="{m}" file="{m}.stl" inertia="shell"/>' for m in LINKS)
    cups = "".join(
        f'<mesh name="cup{index}" file="cup.stl" scale="{_text((scale,) * 3)}" inertia="shell"/>'
        for index, scale in enumerate(CUP_SCALES)
    )
    return arm + cups


def _cup_looks() -> str:
    """The cup in all its sizes, one of them visible."""
    return "".join(
        f'<geom name="cup_look{index}" type="mesh" mesh="cup{index}" material="cup" contype="0" '
        f'conaffinity="0" group="{2 if scale == 1.0 else 3}" mass="0"/>'
        for index, scale in enumerate(CUP_SCALES)
    )


def _clutter() -> str:
    """Things that may stand about, hidden; a look sizes and places them."""
    return "".join(
        f'<geom name="{name}" type="{shape}" size="0.03 0.03 0.03" pos="0 0 -0.5" contype="0" '
        f'conaffinity="0" group="3" mass="0"/>'
        for name, shape in DISTRACTORS.items()
    )


def _arm(index: int) -> str:
    """Nested bodies link1..link7, then flange, hand and fingers."""
    if index == len(_LINKS):
        return _hand()
    offset, rotation, (mass,), centre, inertia = _LINKS[index]
    name = f"link{index + 1}"
    speed_damping = 1.0
    return f"""
      <body name="{name}" pos="{_text(offset)}" quat="{_text(rotation)}" gravcomp="1">
        <inertial mass="{mass}" pos="{_text(centre)}" fullinertia="{_text(inertia)}"/>
        <joint name="{JOINTS[index]}" axis="0 0 1" range="{JOINT_LOW[index]} {JOINT_HIGH[index]}"
          damping="{speed_damping}" armature="0.1"/>
        <geom class="visual" mesh="{name}" rgba="{_LINK_COLOUR.get(name, _WHITE)}"/>
        {_arm(index + 1)}
      </body>"""


def _hand() -> str:
    finger = """
          <body name="{side}_finger" pos="0 0 0.0584" quat="{quat}" gravcomp="1">
            <inertial mass="0.015" pos="0 0.012 0.025" diaginertia="2.375e-6 2.375e-6 7.5e-7"/>
            <joint name="{joint}" type="slide" axis="0 1 0" range="0 0.04" armature="0.1" damping="2"/>
            <geom class="visual" mesh="finger" rgba="{colour}"/>
            <geom class="collision" name="{side}_pad" size="0.0095 0.004 0.010" pos="0 0.004 0.0439"/>
            <geom class="collision" size="0.0095 0.007 0.017" pos="0 0.018 0.017"/>
          </body>"""
    return f"""
        <site name="link8" pos="0 0 0.107"/>
        <body name="hand" pos="0 0 0.107" quat="{_text((np.cos(np.pi / 8), 0, 0, -np.sin(np.pi / 8)))}"
          gravcomp="1">
          <inertial mass="0.73" pos="-0.01 0 0.03" diaginertia="0.001 0.0025 0.0017"/>
          <geom class="visual" mesh="hand" rgba="{_LINK_COLOUR["hand"]}"/>
          <geom class="collision" size="0.0315 0.1 0.033" pos="0 0 0.033"/>
          {finger.format(side="left", quat="1 0 0 0", joint="finger1", colour=_LINK_COLOUR["finger"])}
          {finger.format(side="right", quat="0 0 0 1", joint="finger2", colour=_LINK_COLOUR["finger"])}
        </body>"""


def _actuators() -> str:
    arm = "".join(
        f'<position name="{j}" joint="{j}" kp="{kp}" kv="{kd}" forcerange="{-t} {t}"/>'
        for j, kp, kd, t in zip(JOINTS, KP, KD, JOINT_TORQUE, strict=True)
    )
    # One actuator drives both fingers through the equality constraint, as the real hand's belt does.
    return arm + '<position name="gripper" joint="finger1" kp="1600" kv="60" forcerange="-70 70"/>'
