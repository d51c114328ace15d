"""The planner node as it is, with a planner that does as a file says: so that faults come at will.

Usage: ``fault_planner.py ORDERS [--ros-args ...]``. ORDERS is a JSON file, read before every plan:

plan
    ``wander``: a real plan whose action is replaced by one towards the next corner of a square, so that
    the arm always moves; ``leap``: the same, half a metre at a time; ``real``: as planned.
seconds
    how long the plan takes longer; ends early when it is cancelled.
deaf
    it does not end early.
raises
    ``memory``, ``error``: what the model raises in the middle of the search, instead of its answer.

With ``FAULT_STATE=stand-in`` in the environment robot states are JSON strings: for machines without
franka_msgs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.ros import franka, planner_node
from vjepa_ac_planner.types import Observation, Plan
from vjepa_ac_planner.world_model import WorldModel

CORNERS = np.array([(0.48, -0.1, 0.35), (0.58, -0.1, 0.30), (0.58, 0.1, 0.35), (0.48, 0.1, 0.30)])
ROLLOUTS_BEFORE = 1
"""How many rollouts of a plan go well before one raises."""


class Orders:
    """What is to be done, and how far the present plan has come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now: dict[str, Any] = {}
        self.rollouts = 0
        self.corner = 0

    def read(self) -> None:
        self.now, self.rollouts = json.loads(self._path.read_text()), 0


def install(orders: Orders) -> None:
    """Put the orders between the node and its planner."""
    real_plan, real_rollout = Planner.plan, WorldModel.rollout

    def plan(self: Planner, observation: Observation, goal: Any, **options: Any) -> Plan:
        orders.read()
        cancel, begin = options.get("cancel"), time.monotonic()
        while time.monotonic() - begin < orders.now.get("seconds", 0.0):
            if cancel is not None and cancel.is_set() and not orders.now.get("deaf"):
                break
            time.sleep(0.01)
        made = real_plan(self, observation, goal, **options)
        kind = orders.now.get("plan", "real")
        if kind == "real":
            return made
        position = observation.state.position
        if np.linalg.norm(CORNERS[orders.corner] - position) < 0.02:
            orders.corner = (orders.corner + 1) % len(CORNERS)
        way = CORNERS[orders.corner] - position
        actions = np.zeros_like(made.actions)
        if kind == "leap":
            actions[0, :3] = way / np.linalg.norm(way) * 0.5
            actions[0, 3:6] = 0.6
        else:
            actions[0, :3] = way * min(1.0, 0.06 / np.linalg.norm(way))
        return replace(made, actions=actions)

    def rollout(self: WorldModel, *args: Any) -> Any:
        orders.rollouts += 1
        if orders.rollouts > ROLLOUTS_BEFORE and "raises" in orders.now:
            if orders.now["raises"] == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            raise RuntimeError("the injected error")
        return real_rollout(self, *args)

    Planner.plan, WorldModel.rollout = plan, rollout  # type: ignore[method-assign, assignment]


def stand_in() -> None:
    """Read robot states from strings."""
    from std_msgs.msg import String

    def read(message: Any, frames: Any) -> franka.FrankaState:
        data = json.loads(message.data)
        return franka.FrankaState(RobotStatus(data["mode"], tuple(data["errors"])), np.eye(4), 0.0)

    franka.state_message, franka.read_state = lambda: String, read


if __name__ == "__main__":
    if os.environ.get("FAULT_STATE") == "stand-in":
        stand_in()
    install(Orders(Path(sys.argv[1])))
    sys.exit(planner_node.main(sys.argv[2:]))
