"""Which topics of a recording are the camera, the pose, the gripper and the goal.

A name that is given holds. What is not given is found by type, by these rules, each applied as long as
more than one topic is left:

1. topics without messages do not count; nor do, for the camera, names with ``depth``, ``infra``, ``goal``
   or ``mask`` in them, and for the pose, names with ``target``, ``goal``, ``command`` or ``desired``;
   nothing that this package's node publishes counts as input;
2. the names of the live node win: ``camera/image_raw``, ``franka_robot_state_broadcaster/current_pose``,
   ``franka_gripper/joint_states``, ``goal_image`` (any namespace before them, ``/compressed`` after);
3. of one camera's raw and compressed images, the raw ones win: they are what the camera saw;
4. a plain pose wins over Franka's whole robot state, whose pose is the same one;
5. a gripper is a joint state topic whose first message names fingers; one with ``gripper`` or ``hand`` in
   its name wins over the joint states of the whole robot.

More than one topic after that is an error that lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vjepa_ac_planner.bags.messages import FRANKA_STATE, IMAGE, IMAGES, JOINTS, POSES
from vjepa_ac_planner.bags.storage import TopicInfo
from vjepa_ac_planner.errors import BagError

LIVE = {
    "image": "camera/image_raw",
    "pose": "franka_robot_state_broadcaster/current_pose",
    "gripper": "franka_gripper/joint_states",
    "goal": "goal_image",
}
"""Names of the live node, without namespace."""
_KINDS = {"image": IMAGES, "pose": POSES, "gripper": (JOINTS,), "goal": IMAGES}
_NOT_INPUT = {
    "image": ("depth", "infra", "goal", "mask"),
    "pose": ("target", "goal", "command", "desired", "cmd"),
    "gripper": (),
    "goal": (),
}


@dataclass(frozen=True)
class TopicNames:
    """Topics to read; None means found by type (see this module)."""

    image: str | None = None
    """Camera: sensor_msgs Image or CompressedImage."""
    pose: str | None = None
    """End effector: geometry_msgs PoseStamped, or franka_msgs FrankaRobotState (its ``o_t_ee``)."""
    gripper: str | None = None
    """Fingers: sensor_msgs JointState; without any, the gripper counts as open throughout."""
    goal: str | None = None
    """Goal images, as the live node takes them; may be missing."""


def choose_topics(
    asked: TopicNames, topics: dict[str, TopicInfo], has_fingers: Callable[[str], bool]
) -> TopicNames:
    """Find what was not named, and check what was.

    Args:
        asked: names that are known.
        topics: what the recording has.
        has_fingers: whether the first message of a joint state topic names fingers.

    Returns:
        Names; ``image`` or ``pose`` is None where the recording has none: reading samples then fails.

    Raises:
        BagError: a named topic is missing or of another type, or several fit.
    """
    found = asked
    for role in _KINDS:
        name = getattr(asked, role)
        chosen = _find(role, topics, has_fingers) if name is None else _named(role, name, topics)
        found = replace(found, **{role: chosen})
    return found


def _named(role: str, name: str, topics: dict[str, TopicInfo]) -> str:
    matches = [topic for topic in topics if topic.strip("/") == name.strip("/")]
    if not matches:
        have = ", ".join(sorted(topics)) or "none"
        raise BagError(f"{role} topic {name!r} is not in the recording; it has {have}")
    info = topics[matches[0]]
    if info.type not in _KINDS[role]:
        raise BagError(
            f"{role} topic {info.name!r} is {info.type or 'of no type'}, allowed {', '.join(_KINDS[role])}"
        )
    return info.name


def _find(role: str, topics: dict[str, TopicInfo], has_fingers: Callable[[str], bool]) -> str | None:
    fitting = [
        info
        for info in topics.values()
        if info.type in _KINDS[role]
        and info.count > 0
        and not any(word in info.name.lower() for word in _NOT_INPUT[role])
        and "/planner/" not in info.name
    ]
    if role == "goal":  # an image is a goal by its name alone
        fitting = [info for info in fitting if _is_live("goal", info.name)]
    if role == "gripper":
        fitting = [info for info in fitting if has_fingers(info.name)]
    rules: list[Callable[[TopicInfo], bool]] = [lambda info: _is_live(role, info.name)]
    if role in ("image", "goal"):
        raws = {info.name for info in fitting if info.type == IMAGE}
        rules.append(lambda info: info.name.removesuffix("/compressed") not in raws - {info.name})
    if role == "pose":
        rules.append(lambda info: info.type != FRANKA_STATE)
    if role == "gripper":
        rules.append(lambda info: "gripper" in info.name.lower() or "hand" in info.name.lower())
    for rule in rules:
        if len(fitting) > 1:
            fitting = [info for info in fitting if rule(info)] or fitting
    if len(fitting) > 1:
        raise BagError(
            f"{role}: several topics fit: {_listed(fitting)}; name one of them (option --{role}-topic)"
        )
    return fitting[0].name if fitting else None


def _is_live(role: str, name: str) -> bool:
    live = LIVE[role]
    return any(f"/{name.strip('/')}".endswith(f"/{live}{end}") for end in ("", "/compressed"))


def _listed(topics: Sequence[TopicInfo]) -> str:
    return ", ".join(f"{info.name} ({info.type}, {info.count} messages)" for info in topics)
