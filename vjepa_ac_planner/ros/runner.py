"""The worker thread: one job at a time, the newest one only.

Executor callbacks post jobs and go on; a job that is posted while another runs cancels that one, which
takes at most one optimiser iteration.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor

from vjepa_ac_planner.control.mpc import Plans
from vjepa_ac_planner.errors import PlannerError, PlanningError
from vjepa_ac_planner.planning.optimiser import Cancel
from vjepa_ac_planner.planning.proposals import GripperSearch
from vjepa_ac_planner.types import FloatArray, Goal, Observation, Plan

Job = Callable[[], None]
_RETRY_SECONDS = 1.0


class Runner:
    """Runs jobs in a thread of its own.

    Args:
        cancel: ends the running job; set and cleared here only.
        on_error: told when a job raised; it is tried again a second later, until it is replaced.
        on_start: called once in the thread, before the first job.
    """

    def __init__(
        self,
        cancel: threading.Event,
        on_error: Callable[[BaseException], None],
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._cancel, self._on_error, self._on_start = cancel, on_error, on_start
        self._news = threading.Condition()
        self._job: Job | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="planning", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting to."""
        with self._news:
            return self._busy or self._job is not None

    def post(self, job: Job | None) -> None:
        """Cancel what runs, and run this instead; None runs nothing."""
        with self._news:
            self._job = job
            self._cancel.set()
            self._news.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Whether there is nothing left to do, after waiting for it."""
        with self._news:
            return self._news.wait_for(lambda: not self._busy and self._job is None, seconds)

    def close(self, seconds: float = 60.0) -> bool:
        """Cancel, end the thread and wait for it; says whether it ended."""
        with self._news:
            self._closed, self._job = True, None
            self._cancel.set()
            self._news.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._on_start()
        while (job := self._next()) is not None:
            while True:
                try:
                    job()
                    break
                except Exception as error:  # whatever it is: the thread lives on and the arm holds
                    self._on_error(error)
                if self._cancel.wait(_RETRY_SECONDS):
                    break

    def _next(self) -> Job | None:
        with self._news:
            self._busy = False
            self._news.notify_all()
            self._news.wait_for(lambda: self._job is not None or self._closed)
            job, self._job = self._job, None
            if self._closed:
                return None
            self._busy = True
            self._cancel.clear()
            return job


class GuardedPlanner:
    """A planner whose every failure is a :class:`PlanningError`, so that the loop holds and goes on.

    It also takes the times that show what the node adds to planning.

    Args:
        planner: makes the plans.
        on_failure: told about errors that are none of ours, with the error.
        arrival: when the newest camera message arrived, on the steady clock [s].
        on_plan: told about every plan as soon as it is made.
    """

    def __init__(
        self,
        planner: Plans,
        on_failure: Callable[[Exception], None],
        arrival: Callable[[], float | None],
        on_plan: Callable[[Plan], None] = lambda plan: None,
    ) -> None:
        self._planner, self._on_failure, self._arrival = planner, on_failure, arrival
        self._on_plan = on_plan
        self.waits: deque[float] = deque(maxlen=1000)
        """From the arrival of the frame to the start of the plan, of the last thousand [s]."""
        self.seconds: deque[float] = deque(maxlen=1000)
        """Of the last thousand plans [s]."""
        self.made = self.failures = 0
        """Plans that were made, and that were not."""

    def plan(
        self,
        observation: Observation,
        goal: Goal | Tensor,
        *,
        warm_start: Plan | None = None,
        deadline_s: float | None = None,
        cancel: Cancel | None = None,
        seed: int | None = None,
        gripper: GripperSearch | None = None,
    ) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.plan`."""
        begin = time.monotonic()
        if (arrived := self._arrival()) is not None:
            self.waits.append(begin - arrived)
        options: dict[str, Any] = {
            "deadline_s": deadline_s,
            "cancel": cancel,
            "seed": seed,
            "gripper": gripper,
        }
        try:
            plan = self._planner.plan(observation, goal, warm_start=warm_start, **options)
        except PlannerError:
            self.failures += 1
            raise
        except Exception as error:
            self.failures += 1
            self._on_failure(error)
            raise PlanningError(f"{type(error).__name__}: {error}") from error
        self.seconds.append(time.monotonic() - begin)
        self.made += 1
        self._on_plan(plan)
        return plan

    def carried_out(self, plan: Plan, action: FloatArray) -> Plan:
        """See :meth:`vjepa_ac_planner.planning.planner.Planner.carried_out`."""
        try:
            return self._planner.carried_out(plan, action)
        except Exception as error:
            self._on_failure(error)
            raise PlanningError(f"{type(error).__name__}: {error}") from error
