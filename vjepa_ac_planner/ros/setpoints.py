"""The thread that sends setpoints at a steady rate, however slow planning is.

It is a thread of its own and no executor timer, because a timer waits for every callback before it.
What to send is decided by :class:`~vjepa_ac_planner.control.stream.SetpointStream`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from vjepa_ac_planner.control.environment import RobotStatus
from vjepa_ac_planner.control.stream import Setpoint, SetpointStream
from vjepa_ac_planner.ros import priority
from vjepa_ac_planner.types import Command, RobotState

Mode = Literal["silent", "run", "ending"]

ENDING_SECONDS = 0.5
"""After a stop, holds are sent for this long before the stream falls silent."""


@dataclass(frozen=True)
class StreamStatistics:
    """How steady the stream is."""

    sent: int
    """Setpoints sent since the stream was started last."""
    largest_gap: float
    """Longest time between two of them [s]."""
    late: int
    """Gaps longer than twice the period."""
    setpoint: Setpoint | None
    """The last one."""
    latencies: tuple[float, ...] = ()
    """From the arrival of each of the last commands to its first setpoint [s]."""


class SetpointThread:
    """Runs a stream; silent until :meth:`start`.

    Args:
        stream: decides what is sent.
        period: time between setpoints [s].
        clock: time on the clock of the stamps [s].
        state: newest robot state.
        status: newest robot status.
        publish: sends one setpoint.
        on_error: told, once per kind, about errors that made a tick fail.
    """

    def __init__(
        self,
        stream: SetpointStream,
        period: float,
        *,
        clock: Callable[[], float],
        state: Callable[[], RobotState | None],
        status: Callable[[], RobotStatus | None],
        publish: Callable[[Setpoint], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._stream, self.period = stream, period
        self._clock, self._state, self._status = clock, state, status
        self._publish, self._on_error = publish, on_error
        self._lock = threading.Lock()
        self._command: Command | None = None
        self._commanded = 0.0
        self._latencies: deque[float] = deque(maxlen=1000)
        self._mode: Mode = "silent"
        self._silent_at = 0.0
        self._closed = threading.Event()
        self._statistics = StreamStatistics(0, 0.0, 0, None)
        self._thread = threading.Thread(target=self._run, name="setpoints", daemon=True)
        self._thread.start()

    @property
    def mode(self) -> Mode:
        """Whether setpoints are sent."""
        return self._mode

    @property
    def statistics(self) -> StreamStatistics:
        """Of the present or the last run."""
        with self._lock:
            return replace(self._statistics, latencies=tuple(self._latencies))

    def start(self) -> None:
        """Begin to send, at the measured pose, with a hold."""
        with self._lock:
            if self._mode != "run":
                self._stream.begin()
                self._command = None
                self._statistics = StreamStatistics(0, 0.0, 0, None)
                self._mode = "run"

    def command(self, command: Command) -> None:
        """Take the newest command."""
        with self._lock:
            if self._mode == "run":
                self._command, self._commanded = command, time.monotonic()

    def stop(self) -> None:
        """Hold from the next setpoint on, and fall silent soon after."""
        with self._lock:
            self._command = None
            if self._mode == "run":
                self._mode, self._silent_at = "ending", time.monotonic() + ENDING_SECONDS

    def close(self) -> None:
        """Send the last holds, end the thread and wait for it."""
        self.stop()
        while self._mode == "ending" and self._thread.is_alive():
            time.sleep(self.period)
        self._closed.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        priority.realtime_thread()
        due, last, last_ros = time.monotonic(), time.monotonic(), self._clock()
        while not self._closed.wait(max(0.0, due - time.monotonic())):
            begin, ros = time.monotonic(), self._clock()
            # On a simulated clock that runs slower than time the arm must not be faster than its world; and
            # after a stall it goes on from where it was, because a setpoint further on would be a leap.
            dt = max(0.0, min(begin - last, ros - last_ros, 2.0 * self.period))
            try:
                self._tick(begin, begin - last, ros, dt)
            except Exception as error:  # a stream that has died would leave the arm without holds
                self._on_error(f"{type(error).__name__}: {error}")
            last, last_ros = begin, ros
            # After a stall the ticks that were missed are not made up for.
            due = max(due + self.period, time.monotonic())

    def _tick(self, begin: float, gap: float, ros: float, dt: float) -> None:
        with self._lock:
            if self._mode == "ending" and begin >= self._silent_at:
                self._mode = "silent"
            if self._mode == "silent":
                return
            command = self._command
            setpoint = self._stream.next(command, self._state(), ros, dt, self._status())
            if setpoint is None:
                return
            self._publish(setpoint)
            if self._commanded:
                self._latencies.append(time.monotonic() - self._commanded)
                self._commanded = 0.0
            old = self._statistics
            gap = gap if old.sent else 0.0
            self._statistics = StreamStatistics(
                old.sent + 1,
                max(old.largest_gap, gap),
                old.late + (gap > 2.0 * self.period),
                setpoint,
            )
