"""Message stamps as the seconds that the core works with, and back."""

from __future__ import annotations

import math
from typing import Any

from vjepa_ac_planner.errors import InputError


def to_seconds(stamp: Any) -> float:
    """The time of a ``builtin_interfaces/Time`` [s], to a quarter of a microsecond in this century."""
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9


def to_stamp(seconds: float) -> Any:
    """The ``builtin_interfaces/Time`` nearest to a time [s].

    Raises:
        InputError: not finite, negative, or beyond the message's 32 bits.
    """
    from builtin_interfaces.msg import Time

    if not (math.isfinite(seconds) and 0.0 <= seconds < 2**31 - 1):
        raise InputError(f"stamp: expected 0 .. 2**31 s, received {seconds}")
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
