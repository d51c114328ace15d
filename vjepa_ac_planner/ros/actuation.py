"""What moves the robot: the stream of setpoints, the gripper, and whether this node may use them.

Nothing moves while it is disabled, and nothing while somebody else commands the arm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.safety import SafetyLayer
from vjepa_ac_planner.control.stream import Setpoint, SetpointStream
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.ros.environment import RosEnvironment
from vjepa_ac_planner.ros.gripper import GripperConfig, make_gripper
from vjepa_ac_planner.ros.outputs import Outputs
from vjepa_ac_planner.ros.setpoints import SetpointThread
from vjepa_ac_planner.types import Command


class Actuation:
    """See the module.

    Args:
        node: gives the log, and the gripper something to talk with.
        gripper: of the robot.
        safety: its limits bound the stream; its dry run keeps the stream silent.
        environment: gives the newest robot state, and says whether a run has been cancelled.
        outputs: takes the setpoints, and counts who else commands the arm.
        told: the newest status that the robot has sent.
        clock: time on the clock of the stamps [s].

    Raises:
        PlannerError: the gripper cannot be used as configured.
    """

    def __init__(
        self,
        node: Any,
        gripper: GripperConfig,
        safety: SafetyLayer,
        environment: RosEnvironment,
        outputs: Outputs,
        told: Callable[[], RobotStatus | None],
        clock: Callable[[], float],
    ) -> None:
        self._log = node.get_logger()
        self._safety, self._environment, self._outputs = safety, environment, outputs
        self._told, self._clock = told, clock
        self._turn = threading.RLock()
        """What one thread allows, another must not use after it was forbidden."""
        self.enabled = False
        """Whether commands are taken."""
        self.publishers = 1
        """Of commands to the arm, this node included, when they were last counted."""
        self.setpoints: SetpointThread | None = None
        """While the node is active."""
        self.gripper = make_gripper(node, gripper)

    def activate(self, period: float) -> None:
        """Have a stream, silent so far, with this time between setpoints [s]."""
        self.setpoints = SetpointThread(
            SetpointStream(self._safety, twists=self._outputs.twists),
            period,
            clock=self._clock,
            state=lambda: self._environment.state,
            status=self.known_status,
            publish=self._publish,
            on_error=lambda text: self._log.error(f"setpoint stream: {text}", throttle_duration_sec=1.0),
        )
        self.follow_dry_run()

    def deactivate(self) -> None:
        """Send the last holds and end the stream's thread."""
        if self.setpoints is not None:
            self.setpoints.close()
        self.setpoints = None
        self._outputs.close_command()

    def close(self) -> None:
        """Take the gripper's clients or publishers down."""
        self.gripper.close()

    def enable(self) -> None:
        """Take commands from now on; the stream begins, with a hold, unless this is a dry run."""
        with self._turn:
            self.enabled = True
            self.gripper.forget()
            self.follow_dry_run()

    def disable(self) -> None:
        """Hold, fall silent soon after, and take no command any more."""
        with self._turn:
            self.enabled = False
            if self.setpoints is not None:
                self.setpoints.stop()
            self.gripper.hold()

    def follow_dry_run(self) -> None:
        """Advertise the command, and begin or end the stream, as the safety layer's dry run says."""
        with self._turn:
            if self.setpoints is None:
                return
            dry = self._safety.config.dry_run
            if not dry:
                # Before anybody can enable: setpoints sent while the two sides still find each other are
                # lost, and the first one that arrives must be the hold where the arm is.
                self._outputs.open_command()
            if self.enabled and dry:
                self.setpoints.stop()
                self.gripper.hold()
            elif self.enabled:
                self.setpoints.start()

    def command(self, command: Command) -> None:
        """Hand a command to arm and gripper, unless the run has ended."""
        with self._turn:
            moves = command.kind == "move"
            # A plan that was cut short is not carried out, not even for the moment until the hold.
            forbidden = self._environment.cancel.is_set() or self._safety.config.dry_run
            if self.setpoints is None or not self.enabled or (moves and forbidden):
                return
            self.setpoints.command(command)
            state = self._environment.state
            if not moves or state is None:
                self.gripper.hold()
            elif command.moves_gripper:
                self._grip(float(command.target[6]), state.gripper)

    def _grip(self, closedness: float, measured: float) -> None:
        try:
            self.gripper.send(closedness, measured)
        except InputError as error:
            self._log.error(f"gripper: {error}", throttle_duration_sec=1.0)

    def count_publishers(self) -> int:
        """How many command the arm, this node included, as of now."""
        self.publishers = self._outputs.command_publishers()
        return self.publishers

    def status(self) -> RobotStatus:
        """What the robot says, and how many command it, as of now."""
        self.count_publishers()
        return self.known_status()

    def known_status(self) -> RobotStatus:
        """The same without counting anew: cheap enough for every setpoint."""
        dry = self._safety.config.dry_run
        return replace(self._told() or RobotStatus(), command_publishers=1 if dry else self.publishers)

    def _publish(self, setpoint: Setpoint) -> None:
        # Somebody else commands the arm: two streams would pull it to and fro.
        if self.publishers <= 1:
            self._outputs.setpoint(setpoint)
