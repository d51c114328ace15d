"""The safety layer: between every plan and the arm, in every world.

It holds no clock, no I/O and no thread: times are passed in, commands come out. A plan becomes a
``move`` only when everything is in order; otherwise the command is a ``hold``, whose ``reason`` names
the limit, the value and the bound. Three severities: ``limited`` (the step was cut and goes out),
``hold`` (this plan is not carried out; the next may be), ``pause`` (nothing moves until
:meth:`SafetyLayer.resume`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.control.environment import COMMANDABLE, RobotStatus
from vjepa_ac_planner.control.limits import (
    Finding,
    MotionLimits,
    limit_setpoint,
    limit_step,
    pose_distance,
)
from vjepa_ac_planner.control.rotation import pose_difference, rotation_vector
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.types import Command, FloatArray, Observation, Plan, RobotState

_CLOCK_SLACK = 0.05
"""Stamps may lie this far in the future [s]: two machines' clocks are never quite the same."""


@dataclass(frozen=True)
class SafetyConfig:
    """What the safety layer lets through."""

    limits: MotionLimits
    """How far and how fast the arm may go."""
    base: Literal["measured", "commanded"] = "measured"
    """Whether a step starts at the measured pose, or at the last target as long as the arm is near it.
    From the measured pose a tracking error is never carried on; from the last target it does not add
    up to a drift under gravity."""
    max_tracking_error: float = ranged(0.03, low=0.0, high=0.2, unit="m")
    """With ``base: commanded``: distance [m] from the last target beyond which the measured pose counts."""
    max_image_age: float = ranged(0.5, low=0.001, high=60.0, unit="s")
    """Oldest usable frame [s]."""
    max_state_age: float = ranged(0.2, low=0.001, high=60.0, unit="s")
    """Oldest usable robot state [s]."""
    max_plan_age: float = ranged(1.0, low=0.001, high=60.0, unit="s")
    """Oldest usable plan, from the exposure of its frame [s]; also ends the setpoint stream."""
    max_skew: float = ranged(0.1, low=0.001, high=60.0, unit="s")
    """Largest difference between the stamps of frame and state [s]."""
    max_frozen_motion: float | None = ranged(0.03, low=0.001, high=1.0, unit="m")
    """Hold while the frames stay equal to the last pixel although the arm has moved this far since the
    first of them [m]: the camera is frozen, whatever its stamps say; null never checks."""
    stand_still_when_no_better: bool = True
    """Hold when a plan does not improve on standing still (``Plan.improves``)."""
    max_surprise: float | None = ranged(0.8, low=0.0, high=10.0)
    """Largest |z_observed - z_predicted| before a pause. Latents are normalised, unrelated ones differ
    by 1.1; null (as a ROS parameter -1) never pauses."""
    max_energy_rise: float | None = ranged(0.5, low=0.0, high=10.0)
    """Pause when the energy has risen above its lowest by this share of its first value since the goal
    was set, ``energy_rise_plans`` times in a row; null never pauses."""
    energy_rise_plans: int = ranged(3, low=1, high=100)
    """How many plans in a row must see the energy risen."""
    allowed_modes: tuple[str, ...] = ("idle", "move")
    """Robot modes in which the arm may be commanded, where the robot reports one."""
    dry_run: bool = False
    """Plan and check everything, but only hold."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for mode in self.allowed_modes:
            if mode not in COMMANDABLE:
                raise ConfigError(
                    f"allowed_modes: received {mode!r}, allowed {', '.join(COMMANDABLE)}; in every other "
                    "mode the arm does not follow, or a person guides it"
                )


@dataclass(frozen=True)
class Verdict:
    """A command and everything that was objected to on the way."""

    command: Command
    findings: tuple[Finding, ...] = ()

    @property
    def executed(self) -> bool:
        """Whether the plan's first action goes out exactly as planned."""
        return self.command.kind == "move" and not self.findings


class SafetyLayer:
    """Turns plans into commands that obey the limits.

    It remembers, for one run, the last target, what the gripper was told, the pose it holds at and the
    energies since the goal was set; beyond a run, the last frame and whether it is paused. Time running
    backwards (a bag that loops) forgets all but the pause.
    """

    def __init__(self, config: SafetyConfig) -> None:
        self.config = config
        self._pause: Finding | None = None
        self.reset()

    @property
    def paused(self) -> Finding | None:
        """Why nothing moves until :meth:`resume`; None when not paused."""
        return self._pause

    def reset(self) -> None:
        """Forget everything, as at start-up; a pause stays."""
        self._seen: tuple[int, FloatArray] | None = None
        self._now = -math.inf
        self.begin_run()

    def begin_run(self) -> None:
        """Start from where arm and gripper are now.

        Since the last run somebody may have moved them, and what was commanded before that must not draw
        them back.
        """
        self._target: FloatArray | None = None
        self._grip: float | None = None
        self._held: FloatArray | None = None
        self.new_goal()

    def new_goal(self) -> None:
        """Energies are compared from here on: they say nothing across goals."""
        self._first_energy: float | None = None
        self._lowest_energy = math.inf
        self._risen = 0

    def resume(self) -> None:
        """End a pause, by decision of a person; energies are compared afresh."""
        self._pause = None
        self.new_goal()

    def command(
        self, plan: Plan | None, observation: Observation, now: float, status: RobotStatus | None = None
    ) -> Command:
        """The command for a plan; see :meth:`judge`."""
        return self.judge(plan, observation, now, status).command

    def refuse(
        self, observation: Observation, now: float, status: RobotStatus | None = None
    ) -> Verdict | None:
        """A hold if what is seen rules every motion out, so that no plan need be made; else None.

        To be asked once for every observation that a plan would be made from: it also compares the frame
        with the ones before.

        Args:
            observation: frame and state of one moment.
            now: current time on the clock of the stamps [s].
            status: what the robot says about itself, if it does.
        """
        self._tick(now)
        stops = [
            *self._stale(observation, now),
            *self._skewed(observation),
            *self._frozen(observation),
            *self._not_ready(status),
        ]
        return self._hold(observation.state, now, stops) if self._stopped(stops) else None

    def judge(
        self,
        plan: Plan | None,
        observation: Observation,
        now: float,
        status: RobotStatus | None = None,
        failure: str = "",
        *,
        paired: bool = True,
        grip: float | None = None,
    ) -> Verdict:
        """Check everything, and make a command.

        Args:
            plan: the plan to carry out; None when there is none, and ``failure`` then says why.
            observation: newest frame and state; targets are computed from this state, not the plan's.
            now: current time on the clock of the stamps [s].
            status: what the robot says about itself, if it does.
            failure: why there is no plan.
            paired: whether frame and state are of one moment, so that their skew counts.
            grip: closedness 0..1 to go to with the arm at rest, in place of what was planned: allowed
                because the plan finds nothing to gain, and refused for every other reason that it would be.
        """
        self._tick(now)

        stops = [*self._stale(observation, now), *self._not_ready(status)]
        if paired:
            stops += self._skewed(observation)
        if plan is None:
            stops.append(Finding("plan", failure or "none", "a plan", "hold"))
        else:
            stops += self._doubtful(plan, now, moves=grip is None)
        if self._stopped(stops) or plan is None:
            return self._hold(observation.state, now, stops)
        if grip is not None:
            fingers = np.append(np.zeros(6), grip - observation.state.gripper)
            return self._move(fingers, observation.state, now, keep_grip=False)
        # A grasped object keeps the fingers from closing fully: commanding a closedness that was measured
        # would let go of it. A plan that has no wish leaves the gripper at what it was told, if anything.
        return self._move(plan.action, observation.state, now, keep_grip=plan.action[6] == 0.0)

    def toward(
        self, target: FloatArray, state: RobotState, now: float, status: RobotStatus | None = None
    ) -> Verdict:
        """A command for a pose that a script or a person asks for, where no plan is involved.

        The same limits, freshness of the state and readiness of the robot; what concerns images and
        energies does not apply. A pose further away than one step is approached by one step.

        Args:
            target: [7] pose and closedness to go to.
            state: newest robot state.
            now: current time on the clock of the stamps [s].
            status: what the robot says about itself, if it does.
        """
        self._tick(now)
        stops = [
            *_age("max_state_age", now - state.stamp, self.config.max_state_age),
            *self._not_ready(status),
        ]
        if np.shape(target) != (7,) or not np.isfinite(target).all():
            stops.append(Finding("target", "not 7 finite numbers", "7 finite numbers", "hold"))
        if self._stopped(stops):
            return self._hold(state, now, stops)
        return self._move(pose_difference(self._base(state), target), state, now, keep_grip=False)

    def _tick(self, now: float) -> None:
        """Time that runs backwards (a bag that loops) makes everything remembered meaningless."""
        if now < self._now:
            self.reset()
        self._now = now if math.isfinite(now) else self._now

    def _stopped(self, stops: list[Finding]) -> bool:
        """Whether anything forbids to move; a finding that pauses does so from now on."""
        for finding in stops:
            if finding.effect == "pause" and self._pause is None:
                self._pause = finding
        if self._pause is not None and self._pause not in stops:
            stops.insert(0, self._pause)
        return bool(stops)

    def _move(self, action: FloatArray, state: RobotState, now: float, *, keep_grip: bool) -> Verdict:
        """The command for one step, brought within all limits."""
        target, findings = limit_step(self._base(state), action, self.config.limits)
        if any(finding.effect != "limited" for finding in findings):
            return self._hold(state, now, findings)
        if keep_grip and self._grip is not None:
            target[6] = self._grip
        if self.config.dry_run:
            would = f"would move to {np.round(target, 4).tolist()}"
            return self._hold(state, now, (*findings, Finding("dry_run", would, "no motion", "hold")))
        self._target, self._held = target, None
        if not keep_grip:
            self._grip = float(target[6])
        return Verdict(self._make("move", target, now, findings), findings)

    def setpoint(self, command: Command, previous: FloatArray, now: float, dt: float) -> FloatArray:
        """The next pose of the setpoint stream, [7]: towards the command's target, within the speeds.

        A command older than ``max_plan_age``, from the future, or any time that is not finite, holds at
        ``previous``.

        Args:
            command: the newest command of this layer.
            previous: [7] last setpoint sent; at first the measured pose.
            now: current time [s].
            dt: time since the last setpoint [s].
        """
        alive = -_CLOCK_SLACK <= now - command.stamp <= self.config.max_plan_age
        goal = command.target if alive else None
        return limit_setpoint(previous, goal, dt, self.config.limits)

    def twist(self, command: Command, measured: FloatArray, now: float) -> FloatArray:
        """[6] velocity [m/s, rad/s] towards the command's target; zero for a hold and outside its duration.

        A twist keeps moving the arm until the next one comes, so an old command is never sent again.
        """
        limits = self.config.limits
        elapsed = now - command.stamp
        if command.kind == "hold" or not 0.0 <= elapsed < command.duration:
            return np.zeros(6)
        # The last tenth is not used as a divisor: the velocity would jump as the time runs out.
        left = max(command.duration - elapsed, 0.1 * command.duration)
        target = limit_setpoint(measured, command.target, limits.step_seconds, limits)
        way = pose_difference(measured, target)
        linear, angular = way[:3] / left, rotation_vector(way[3:6]) / left
        linear *= min(1.0, limits.max_speed / max(float(np.linalg.norm(linear)), 1e-9))
        angular *= min(1.0, limits.max_rotation_speed / max(float(np.linalg.norm(angular)), 1e-9))
        return np.concatenate((linear, angular))

    def _stale(self, observation: Observation, now: float) -> Iterator[Finding]:
        config = self.config
        frame, state = observation.frame.stamp, observation.state.stamp
        yield from _age("max_image_age", now - frame, config.max_image_age)
        yield from _age("max_state_age", now - state, config.max_state_age)

    def _skewed(self, observation: Observation) -> Iterator[Finding]:
        skew, bound = observation.frame.stamp - observation.state.stamp, self.config.max_skew
        if not abs(skew) <= bound:
            yield Finding("max_skew", f"{skew:+.3f} s", f"{bound:.3f} s", "hold")

    def _frozen(self, observation: Observation) -> Iterator[Finding]:
        """A live camera's noise, and any motion in view, changes at least one pixel."""
        bound, position = self.config.max_frozen_motion, observation.state.position
        digest = zlib.crc32(np.ascontiguousarray(observation.frame.image).data)
        if self._seen is None or self._seen[0] != digest:
            self._seen = digest, position
            return
        moved = float(np.linalg.norm(position - self._seen[1]))
        if bound is not None and moved > bound:
            text = f"equal frames while the arm moved {moved:.3f} m"
            yield Finding("max_frozen_motion", text, f"{bound:.3f} m", "hold")

    def unready(self, state: RobotState | None, now: float, status: RobotStatus | None) -> str:
        """Why the arm itself must not be moved at this moment, plans apart; empty if it may be.

        Args:
            state: newest robot state, None if there never was one.
            now: current time on the clock of the stamps [s].
            status: what the robot says about itself, if it does.
        """
        if state is None:
            return "no robot state has been received"
        findings = [*_age("max_state_age", now - state.stamp, self.config.max_state_age)]
        return "; ".join(map(str, [*findings, *self._not_ready(status)]))

    def _not_ready(self, status: RobotStatus | None) -> Iterator[Finding]:
        if status is None:
            return
        modes = self.config.allowed_modes
        if status.mode not in modes:
            yield Finding("robot mode", status.mode, " or ".join(modes), "pause")
        if status.errors:
            yield Finding("robot errors", ", ".join(status.errors), "none", "pause")
        if status.command_publishers > 1:
            yield Finding("command publishers", str(status.command_publishers), "1, this one", "pause")

    def _doubtful(self, plan: Plan, now: float, *, moves: bool) -> Iterator[Finding]:
        config = self.config
        yield from _age("max_plan_age", now - plan.stamp, config.max_plan_age)
        energies = (plan.energy, plan.zero_energy, plan.current_energy)
        if not all(map(math.isfinite, energies)):
            yield Finding("energies", str(energies), "finite", "hold")
            return
        surprise, bound = plan.surprise, config.max_surprise
        if surprise is not None and bound is not None and not surprise <= bound:
            yield Finding("max_surprise", f"{surprise:.3f}", f"{bound:.3f}", "pause")
        yield from self._risen_energy(plan.current_energy)
        if moves and config.stand_still_when_no_better and not plan.improves:
            bound = plan.zero_energy * (1.0 - plan.margin)
            yield Finding("plan energy", f"{plan.energy:.4f}", f"below {bound:.4f}, standing still", "hold")

    def _risen_energy(self, energy: float) -> Iterator[Finding]:
        share = self.config.max_energy_rise
        self._first_energy = energy if self._first_energy is None else self._first_energy
        self._lowest_energy = min(self._lowest_energy, energy)
        if share is None:
            return
        bound = self._lowest_energy + share * self._first_energy
        self._risen = self._risen + 1 if energy > bound else 0
        if self._risen >= self.config.energy_rise_plans:
            yield Finding("max_energy_rise", f"{energy:.4f}", f"{bound:.4f}", "pause")

    def _base(self, state: RobotState) -> FloatArray:
        measured = state.vector
        if self.config.base == "measured" or self._target is None:
            return measured
        distance, angle = pose_distance(measured, self._target)
        near = distance <= self.config.max_tracking_error and angle <= self.config.limits.max_rotation
        return np.append(self._target[:6], measured[6]) if near else measured

    def _hold(
        self, state: RobotState, now: float, findings: tuple[Finding, ...] | list[Finding]
    ) -> Verdict:
        """Stay where the arm was when the hold began, and keep what the gripper was last told.

        The pose is latched, because following the measured one would sink with gravity; it is given up
        when someone has moved the arm away from it by more than one step.
        """
        measured = state.vector
        fresh = not list(_age("", now - state.stamp, self.config.max_state_age))
        if self._held is None:
            self._held = measured if fresh or self._target is None else self._target
        elif fresh:
            distance, angle = pose_distance(self._held, measured)
            limits = self.config.limits
            if distance > limits.max_translation or angle > limits.max_rotation:
                self._held = measured
        gripper = measured[6] if self._grip is None else self._grip
        target = np.append(self._held[:6], np.clip(gripper, 0.0, 1.0))
        if self.config.dry_run:  # nothing holds the arm: where it is when a dry run ends is what counts
            self._held = None
        return Verdict(self._make("hold", target, now, findings), tuple(findings))

    def _make(
        self,
        kind: Literal["move", "hold"],
        target: FloatArray,
        now: float,
        findings: tuple[Finding, ...] | list[Finding],
    ) -> Command:
        reason = "; ".join(map(str, findings))
        stamp = now if math.isfinite(now) else 0.0
        told = self._grip is not None
        return Command(kind, target, self.config.limits.step_seconds, stamp, reason, moves_gripper=told)


def _age(name: str, age: float, bound: float) -> Iterator[Finding]:
    """A finding when an age [s] is not within bounds; NaN is not."""
    if not age <= bound:
        yield Finding(name, f"{age:.3f} s", f"{bound:.3f} s", "hold")
    elif age < -_CLOCK_SLACK:
        yield Finding(name, f"{age:.3f} s, a stamp from the future", f"0 .. {bound:.3f} s", "hold")
