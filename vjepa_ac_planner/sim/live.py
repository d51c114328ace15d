"""The simulated arm and its camera in real time, each in a thread of its own.

They behave as the real ones do: the arm goes after the newest setpoint, stays there when no more come,
and refuses a setpoint that no smooth motion could lead to; the camera takes pictures of it at its own
rate. They share no simulation: the camera has one of its own, because a GL context belongs to one
thread, and is handed snapshots of the arm's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.setpoints import SetpointGuard

T = TypeVar("T")
Vector = npt.NDArray[np.float64]

TICK = 0.01
"""Time between two updates of the arm's reference [s]."""
_GIVE_UP = 0.2
"""Real time that the physics may fall behind before it stops trying to catch up [s]."""


@dataclass(frozen=True)
class Tick:
    """What the arm's sensors say after one update."""

    time: float
    """Of measurement [s]: simulated time, or whatever clock the arm was given."""
    state: Vector
    """[7] measured state of link8."""
    joints: Vector
    """[9] joints [rad] and fingers [m]."""


class LiveArm:
    """Steps a simulation in real time while the arm goes after the newest setpoint.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. All methods may be called from
    any thread.

    Args:
        sim: the simulation; from :meth:`start` to :meth:`stop` nobody else may use it.
        on_tick: called in the physics thread after every update; it must not block.
        clock: gives the time of measurement [s]; None counts simulated time, from the system time at
            :meth:`start` on: so it does not run backwards when a process is restarted.
        rate: simulated seconds per second of real time.

    Raises:
        ConfigError: the rate lies outside 0.05 .. 10.
    """

    def __init__(
        self,
        sim: PandaSim,
        on_tick: Callable[[Tick], None] | None = None,
        *,
        clock: Callable[[], float] | None = None,
        rate: float = 1.0,
    ) -> None:
        check_range("rate", rate, 0.05, 10.0)
        self._sim, self._on_tick, self._clock = sim, on_tick, clock
        self._origin, self._rate, self._ticks = time.time(), rate, 0
        self._guard = SetpointGuard()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self._error: BaseException | None = None
        self._behind = 0.0
        self._target: Vector = sim.reference()
        self._target_time = time.monotonic()

    def start(self) -> None:
        """Let time run."""
        self._origin = time.time()
        self._thread.start()

    def stop(self) -> None:
        """Stop time and wait for the thread; safe to call twice.

        Raises:
            BaseException: whatever ended the physics thread before its time.
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @property
    def alive(self) -> bool:
        """Whether time runs."""
        return self._thread.is_alive()

    @property
    def behind(self) -> float:
        """Real time [s] lost for good, because this machine was too slow."""
        return self._behind

    def send(self, pose: npt.ArrayLike) -> str:
        """Go after a setpoint; returns why it is refused, or an empty text.

        Args:
            pose: [6] position [m] and Euler angles [rad] of link8, base frame.
        """
        pose = np.asarray(pose, dtype=np.float64)
        now = time.monotonic()
        with self._lock:
            setpoint = np.append(pose[:6], self._target[6])
            problem = self._guard.objection(self._target, setpoint, now - self._target_time)
            if not problem:
                self._target, self._target_time = setpoint, now
        return problem

    def grip(self, closedness: float) -> str:
        """Close or open the fingers; returns why it is refused, or an empty text."""
        if not 0.0 <= closedness <= 1.0:
            return f"received {closedness}, allowed 0 (open) .. 1 (closed)"
        with self._lock:
            self._target = np.append(self._target[:6], closedness)
        return ""

    @property
    def time(self) -> float:
        """Time of measurement at this moment [s]."""
        return self._origin + self._ticks * TICK if self._clock is None else self._clock()

    def measure(self, look: Callable[[PandaSim], T]) -> T:
        """Whatever ``look`` reads from the simulation between two updates; it must be quick."""
        with self._lock:
            return look(self._sim)

    def begin(self, snapshot: Vector) -> None:
        """Put the simulation at a snapshot and hold there; the time of measurement runs on."""
        with self._lock:
            self._sim.restore(snapshot)
            self._hold()

    def snapshot(self) -> tuple[float, Vector]:
        """Time of measurement [s] and the whole state of the simulation at this moment."""
        with self._lock:
            return self.time, self._sim.snapshot()

    def __enter__(self) -> LiveArm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _hold(self) -> None:
        # Latched: following the measured pose would sink with every tracking error.
        self._target, self._target_time = self._sim.reference(), time.monotonic()

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stopping.is_set():
                with self._lock:
                    self._sim.follow(self._target, TICK)
                    self._ticks += 1
                    tick = Tick(self.time, self._sim.state(), self._sim.joints())
                if self._on_tick is not None:
                    self._on_tick(tick)
                due += TICK / self._rate
                late = time.monotonic() - due
                if late > _GIVE_UP:
                    self._behind += late
                    due += late
                self._stopping.wait(max(0.0, -late))
        except BaseException as error:  # handed to whoever stops it
            self._error = error


class LiveCamera:
    """Takes pictures of a :class:`LiveArm` at its own rate, and does other work that needs its thread.

    Args:
        arm: what it looks at.
        config: scene and camera, the arm's own scene.
        rate: pictures per second of real time.
        on_picture: called in the camera's thread with the time of measurement [s] and the image
            [H, W, 3] uint8 RGB.
        wanted: whether anyone wants the next picture; drawing one takes more time than all the rest.

    Raises:
        ConfigError: the rate lies outside 0.1 .. 120.
    """

    def __init__(
        self,
        arm: LiveArm,
        config: SimConfig,
        rate: float,
        on_picture: Callable[[float, npt.NDArray[np.uint8]], None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        check_range("rate", rate, 0.1, 120.0, "Hz")
        self._arm, self._config, self._period = arm, config, 1.0 / rate
        self._on_picture, self._wanted = on_picture, wanted
        self._jobs: queue.SimpleQueue[tuple[Callable[[PandaSim], Any], Future[Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to take pictures; returns when the first could be drawn.

        Raises:
            MissingDependencyError: no GL context can be made on this machine.
        """
        self._thread.start()
        self.ask(lambda sim: sim.render()).result()

    def stop(self) -> None:
        """Free the GL context and wait for the thread; safe to call twice.

        Raises:
            BaseException: whatever ended the thread before its time.
        """
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @property
    def alive(self) -> bool:
        """Whether pictures are taken."""
        return self._thread.is_alive()

    def ask(self, job: Callable[[PandaSim], T]) -> Future[T]:
        """Do something with the camera's simulation, in its thread, between two pictures.

        The job may leave the simulation in any state; an error of the job is the future's.
        """
        future: Future[T] = Future()
        self._jobs.put((job, future))
        if not self._thread.is_alive():
            self._refuse_jobs()
        return future

    def __enter__(self) -> LiveCamera:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            with PandaSim(self._config) as sim:
                self._work(sim)
        except BaseException as error:  # handed to whoever stops it
            self._error = error
        self._refuse_jobs()

    def _refuse_jobs(self) -> None:
        with suppress(queue.Empty):
            while True:
                item = self._jobs.get_nowait()
                if item is not None:
                    item[1].set_exception(self._error or RuntimeError("the camera has stopped"))

    def _work(self, sim: PandaSim) -> None:
        due, last = time.monotonic(), float("-inf")
        while True:
            try:
                item = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                due = max(due + self._period, time.monotonic())
                if not self._wanted():
                    continue
                stamp, snapshot = self._arm.snapshot()
                # Where physics gets no core, time stands still; no camera takes two pictures at one time.
                if stamp > last:
                    last = stamp
                    sim.restore(snapshot)
                    self._on_picture(stamp, sim.render())
                continue
            if item is None:
                return
            job, future = item
            try:
                future.set_result(job(sim))
            except Exception as error:
                future.set_exception(error)
