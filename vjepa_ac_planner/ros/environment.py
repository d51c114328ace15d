"""The robot behind ROS as an ``Environment``: newest messages in, commands out, no ROS types inside.

Callbacks put the newest frame and states into a mailbox and return at once; the worker thread that runs
the receding horizon takes from it, and only what it takes is ever decoded. All waits end within
milliseconds of a cancel.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.errors import InputError, PlanCancelled
from vjepa_ac_planner.types import Command, Frame, Observation, RobotState

T = TypeVar("T")

_POLL = 0.005
"""How often waits look at a clock that may be simulated [s]."""
_STATES_KEPT = 4096
"""Four seconds at the Franka's 1 kHz: more than any usable image is old."""
_BACK = 0.5
"""Stamps that run back by more than this begin a new time [s]: a bag that loops, a clock that was set."""


class Pending(Generic[T]):
    """A message that is decoded when it is needed, once; most never are.

    Args:
        stamp: its time [s].
        decode: makes the value, or raises InputError.
    """

    def __init__(self, stamp: float, decode: Callable[[], T]) -> None:
        self.stamp, self.arrived = stamp, time.monotonic()
        self._decode: Callable[[], T] | None = decode
        self._value: T | None = None
        self._lock = threading.Lock()

    @property
    def looked_at(self) -> bool:
        """Whether it has been decoded, or was found to be unusable."""
        return self._decode is None

    def get(self) -> T | None:
        """The value; None when it has turned out to be unusable before.

        Raises:
            InputError: it is unusable; said once.
        """
        with self._lock:
            if self._decode is not None:
                decode, self._decode = self._decode, None
                self._value = decode()
            return self._value


class RosEnvironment:
    """Implements ``Environment``, ``MovesOn``, ``ReportsStatus`` and ``Overlaps`` over a mailbox.

    Args:
        clock: time on the clock of the stamps [s].
        send: takes each command, and returns at once.
        status: newest robot status.
        on_look: told about each frame (``image``) and state (``state``) that is looked at: why it is
            unusable, None if it is usable.
        patience: how long :meth:`observe` waits for a frame of after the last step [s].
    """

    def __init__(
        self,
        clock: Callable[[], float],
        send: Callable[[Command], None],
        status: Callable[[], RobotStatus | None],
        on_look: Callable[[str, str | None], None],
        patience: float = 0.5,
    ) -> None:
        self._clock, self._send, self._status, self._on_look = clock, send, status, on_look
        self.patience = patience
        self.cancel = threading.Event()
        """Ends every wait; whoever sets it also clears it."""
        self._news = threading.Condition(threading.RLock())
        self._under_way = (0.0, 0.0, 0.0)
        """Begin and end of the last command on the stamps' clock, and when the steady one gives up [s]."""
        self.reset()

    def reset(self) -> None:
        """Forget all that was received: time has jumped."""
        with self._news:
            self._frame: Pending[Frame] | None = None
            self._good: Frame | None = None
            self._states: deque[Pending[RobotState]] = deque(maxlen=_STATES_KEPT)
            self._after = float("-inf")
            self._news.notify_all()

    def put_frame(self, pending: Pending[Frame]) -> None:
        """A new camera message."""
        with self._news:
            if self._frame is not None and pending.stamp < self._frame.stamp - _BACK:
                self.reset()
            self._frame = pending
            self._news.notify_all()

    def put_state(self, pending: Pending[RobotState]) -> None:
        """A new robot state."""
        with self._news:
            newest = self._states[-1].stamp if self._states else float("-inf")
            if pending.stamp < newest - _BACK:
                self._states.clear()
                self._after = float("-inf")
            elif pending.stamp <= newest:
                return  # late, or sent twice
            self._states.append(pending)

    @property
    def frame(self) -> Pending[Frame] | None:
        """The newest camera message."""
        return self._frame

    @property
    def state(self) -> RobotState | None:
        """The newest usable robot state; unusable ones are dropped on the way to it."""
        with self._news:
            while self._states:
                value = self._value(self._states[-1], "state")
                if value is not None:
                    return value
                self._states.pop()
            return None

    def observe(self) -> Observation:
        """A frame of after the last step and the state at its exposure.

        Waits for one up to ``patience``; then the newest there is goes out, for the safety layer to judge.

        Raises:
            PlanCancelled: cancelled while there was nothing at all to see.
        """
        deadline = time.monotonic() + self.patience
        while True:
            with self._news:
                pending = self._frame
                in_time = pending is not None and pending.stamp >= self._after
                if not in_time and time.monotonic() < deadline and not self.cancel.is_set():
                    self._news.wait(_POLL)
                    continue
            frame = self._decoded(pending)
            state = None if frame is None else self._state_at(frame.stamp)
            if frame is not None and state is not None:
                return Observation(frame, state)
            if self.cancel.wait(_POLL):
                raise PlanCancelled("cancelled while waiting for a first frame and state")

    def look(self) -> None:
        """Look at the newest frame and state, so that what is unusable is known before it is needed."""
        pending, _ = self._frame, self.state
        if pending is not None:
            self._value(pending, "image")

    def newest(self) -> Observation:
        """See ``MovesOn``.

        Raises:
            InputError: there is no frame or no state, since time has just jumped.
        """
        frame, state = self._decoded(self._frame), self.state
        if frame is None or state is None:
            raise InputError("observation: no frame or no state has been received since time jumped")
        return Observation(frame, state)

    def apply(self, command: Command) -> None:
        """Hand the command over, and return when its duration has passed, or at a cancel."""
        self.begin(command)
        self.finish()

    def begin(self, command: Command) -> None:
        """Hand the command over, and return at once."""
        self._send(command)
        begin = self._clock()
        self._under_way = begin, begin + command.duration, time.monotonic() + 10.0 * command.duration + 1.0

    def finish(self) -> None:
        """Return when the duration of the last command has passed, or at a cancel."""
        begin, end, patience = self._under_way
        # A simulated clock may stand still or jump back; then the steady one ends the wait.
        while begin <= self._clock() < end and time.monotonic() < patience:
            if self.cancel.wait(_POLL):
                break
        with self._news:
            # Whoever comes late, because a plan took longer, may use a frame that came meanwhile.
            self._after = min(self._clock(), end)

    def status(self) -> RobotStatus:
        """See ``ReportsStatus``."""
        return self._status() or RobotStatus()

    def _decoded(self, pending: Pending[Frame] | None) -> Frame | None:
        """The frame, or the last good one when it is unusable: its age then tells."""
        frame = None if pending is None else self._value(pending, "image")
        if frame is not None:
            self._good = frame
        elif pending is not None:
            with self._news:
                if self._frame is pending:
                    self._frame = None
        return self._good

    def _state_at(self, stamp: float) -> RobotState | None:
        """The usable state nearest in time."""
        with self._news:
            states = list(self._states)
        while states:
            index = bisect.bisect_left(states, stamp, key=lambda pending: pending.stamp)
            nearest = min(
                range(max(index - 1, 0), min(index + 1, len(states))),
                key=lambda i: abs(states[i].stamp - stamp),
            )
            value = self._value(states[nearest], "state")
            if value is not None:
                return value
            del states[nearest]
        return None

    def _value(self, pending: Pending[T], what: str) -> T | None:
        first = not pending.looked_at
        try:
            value = pending.get()
        except InputError as error:
            self._on_look(what, str(error))
            return None
        if first and value is not None:
            self._on_look(what, None)
        return value
