"""Diagnostics: one status per part of the node, each saying what is wrong and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vjepa_ac_planner.ros.inputs import Topic
from vjepa_ac_planner.ros.setpoints import StreamStatistics

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)


def status(name: str, level: bytes, message: str, values: Mapping[str, Any] | None = None) -> Any:
    """One ``DiagnosticStatus`` of this node."""
    pairs = [KeyValue(key=key, value=_text(value)) for key, value in (values or {}).items()]
    return DiagnosticStatus(name=f"planner: {name}", level=level, message=message, values=pairs)


def topic(entry: Topic, bound: float, *, required: bool = True) -> Any:
    """Whether a topic is alive."""
    values = {
        "topic": entry.name,
        "received": entry.received,
        "refused": entry.bad,
        "last refusal": entry.last_bad,
        "age [s]": entry.age,
    }
    why = entry.missing(bound) if required else None
    if why is not None:
        return status(entry.what, ERROR if entry.received else STALE, why, values)
    if entry.refusing:
        return status(entry.what, WARN, f"{entry.bad} messages refused, last: {entry.last_bad}", values)
    if problem := entry.qos_problem:
        return status(entry.what, WARN, problem, values)
    return status(entry.what, OK, "alive" if entry.received else "nothing yet", values)


def stream(statistics: StreamStatistics, period: float, mode: str) -> Any:
    """How steady the setpoints are."""
    values = {
        "sent": statistics.sent,
        "largest gap [s]": statistics.largest_gap,
        "gaps over two periods": statistics.late,
        "period [s]": period,
        "newest command to its first setpoint [s], p50 p95": percentiles(statistics.latencies),
    }
    setpoint = statistics.setpoint
    if mode == "silent" or setpoint is None:
        return status("setpoint stream", OK, "silent", values)
    message = setpoint.kind if not setpoint.reason else f"{setpoint.kind}: {setpoint.reason}"
    level = WARN if setpoint.kind == "follow" or statistics.late else OK
    return status("setpoint stream", level, message, values)


def array(stamp: Any, statuses: Iterable[Any], hardware: str) -> Any:
    """The message for ``/diagnostics``."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    for entry in message.status:
        entry.hardware_id = hardware
    return message


def percentiles(values: Sequence[float]) -> str:
    """The 50th and 95th percentile [s], or a dash."""
    if not values:
        return "-"
    low, high = np.percentile(np.array(values), (50, 95))
    return f"{low:.4f} {high:.4f}"


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
