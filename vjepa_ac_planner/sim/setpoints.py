"""A stream of setpoints as the arm's side sees it: what is refused, and how evenly it arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.control.limits import pose_distance

Vector = npt.NDArray[np.float64]


class SetpointGuard:
    """Tells a stream of setpoints from a leap, as a real controller does before it moves.

    A setpoint may lie as far from the one before (the first: from where the arm holds) as the arm could
    travel in the time between the two, plus a little; and after any pause no further than a fixed bound.

    Args:
        speed: of the arm [m/s].
        turn_speed: of the arm [rad/s].
        slack: distance that is always allowed [m].
        turn_slack: angle that is always allowed [rad].
        longest: distance that is never exceeded [m].
        widest: angle that is never exceeded [rad].
    """

    def __init__(
        self,
        *,
        speed: float = 1.0,
        turn_speed: float = 2.5,
        slack: float = 0.02,
        turn_slack: float = 0.1,
        longest: float = 0.15,
        widest: float = 0.5,
    ) -> None:
        self._speed, self._turn_speed = speed, turn_speed
        self._slack, self._turn_slack = slack, turn_slack
        self._longest, self._widest = longest, widest

    def objection(self, last: Vector, setpoint: Vector, seconds: float) -> str:
        """Why ``setpoint`` [7] must not follow ``last`` [7] after ``seconds``; empty if it may."""
        if not np.isfinite(setpoint).all():
            return "not finite"
        distance, angle = pose_distance(last, setpoint)
        bound = min(self._slack + self._speed * seconds, self._longest)
        if distance > bound:
            return f"leap of {distance:.3f} m in {seconds:.3f} s, allowed {bound:.3f} m"
        bound = min(self._turn_slack + self._turn_speed * seconds, self._widest)
        if angle > bound:
            return f"turn of {angle:.3f} rad in {seconds:.3f} s, allowed {bound:.3f} rad"
        return ""


@dataclass
class StreamStatistics:
    """Counts the setpoints of one stream and measures the gaps between them."""

    period: float
    """Time between two setpoints as agreed [s]; a gap of more than two periods counts as late."""
    received: int = 0
    """Setpoints that arrived, refused ones included."""
    refused: dict[str, int] = field(default_factory=dict)
    """Refused setpoints by kind of reason."""
    late: int = 0
    """Gaps longer than two periods."""
    largest_gap: float = 0.0
    """Longest time between two arrivals [s]."""
    largest_stamp_gap: float = 0.0
    """Longest time between two stamps [s]: what the sender did, whatever the way here did."""
    largest_age: float = 0.0
    """Longest time from a setpoint's stamp to its arrival [s]."""
    _ages: float = 0.0
    _gaps: float = 0.0
    _gap_count: int = 0
    _last: tuple[float, float] | None = None

    def arrived(self, now: float, stamp: float, age: float) -> None:
        """One setpoint came.

        Args:
            now: time of arrival on a steady clock [s].
            stamp: when it was stamped, on the sender's clock [s].
            age: time since then [s].
        """
        if self._last is not None:
            gap = now - self._last[0]
            self.largest_stamp_gap = max(self.largest_stamp_gap, stamp - self._last[1])
            self._gaps += gap
            self._gap_count += 1
            self.largest_gap = max(self.largest_gap, gap)
            self.late += gap > 2 * self.period
        self._last = now, stamp
        self.received += 1
        self._ages += age
        self.largest_age = max(self.largest_age, age)

    def refuse(self, kind: str) -> None:
        """The newest setpoint was not carried out."""
        self.refused[kind] = self.refused.get(kind, 0) + 1

    def interrupt(self) -> None:
        """The stream is meant to pause here: the gap that follows is not counted."""
        self._last = None

    def record(self) -> dict[str, Any]:
        """Plain data, ready for JSON; times in seconds."""
        return {
            "received": self.received,
            "refused": dict(self.refused),
            "period_s": self.period,
            "mean_gap_s": self._gaps / max(self._gap_count, 1),
            "largest_gap_s": self.largest_gap,
            "largest_stamp_gap_s": self.largest_stamp_gap,
            "late": self.late,
            "mean_age_s": self._ages / max(self.received, 1),
            "largest_age_s": self.largest_age,
        }
