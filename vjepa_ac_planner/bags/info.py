"""What is in a recording, and how well its topics fit together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vjepa_ac_planner.bags.messages import STAMPED
from vjepa_ac_planner.bags.reader import Bag, ResampleRules, TopicNames
from vjepa_ac_planner.bags.resample import GAP, Spread
from vjepa_ac_planner.errors import BagError


def describe(
    paths: str | Path | Sequence[str | Path],
    step_seconds: float,
    topics: TopicNames | None = None,
    rules: ResampleRules | None = None,
) -> dict[str, Any]:
    """Read a recording through, decoding only what would be planned from.

    Args:
        paths: see :meth:`Bag.open`.
        step_seconds: the action period [s].
        topics: names that are known.
        rules: how messages become samples.

    Returns:
        Plain data: ``start``, ``end``, ``seconds``; ``topics``, by name: type, count, rate_hz,
        longest_pause_s, delay_s (least, mean and greatest time from stamp to recording); ``chosen`` topics;
        ``samples``, ``segments``, ``gaps``, ``skew_s`` and ``step_s`` (least, mean, greatest);
        ``skipped``; ``notes``; ``first_error``; ``problem``, why there are no samples, or null;
        ``run``, of a recorded one.

    Raises:
        BagError: see :meth:`Bag.open`.
    """
    with Bag.open(paths, topics) as bag:
        tracks = {name: _Track(info.type in STAMPED) for name, info in bag.infos.items()}
        for info, received, data in bag.messages():
            tracks[info.name].add(received, bag.stamp(data) if tracks[info.name].stamped else None)
        count, segments, problem = 0, 0, None
        try:
            for sample in bag.samples(step_seconds, rules):
                count, segments = count + 1, sample.segment + 1
        except BagError as error:
            problem = str(error)
        resampler = bag.resampler
        return {
            "start": bag.start,
            "end": bag.end,
            "seconds": bag.end - bag.start,
            "topics": {
                name: {"type": bag.infos[name].type, **track.record()} for name, track in tracks.items()
            },
            "chosen": {role: getattr(bag.topics, role) for role in ("image", "pose", "gripper", "goal")},
            "step_seconds": step_seconds,
            "samples": count,
            "segments": segments,
            "gaps": bag.skipped[GAP],
            "skew_s": _spread(resampler.skew if resampler else None),
            "step_s": _spread(resampler.step if resampler else None),
            "skipped": dict(bag.skipped),
            "notes": list(bag.notes),
            "first_error": resampler.first_error if resampler else "",
            "problem": problem,
            "run": None if bag.run is None else {"model": bag.run.model, "seed": bag.run.seed},
        }


class _Track:
    """Rate, pauses and delay of one topic."""

    def __init__(self, stamped: bool) -> None:
        self.stamped = stamped
        self.received, self.pauses, self.delay = Spread(), Spread(), Spread()
        self._last: int | None = None

    def add(self, received: int, stamp: int | None) -> None:
        if self._last is not None:
            self.pauses.add((received - self._last) / 1e9)
        self._last = received
        self.received.add(received / 1e9)
        if stamp is not None:
            self.delay.add((received - stamp) / 1e9)

    def record(self) -> dict[str, Any]:
        seconds = self.received.greatest - self.received.least
        count = self.received.count
        return {
            "count": count,
            "rate_hz": (count - 1) / seconds if count > 1 and seconds > 0 else None,
            "longest_pause_s": self.pauses.greatest if self.pauses.count else None,
            "delay_s": _spread(self.delay),
        }


def _spread(spread: Spread | None) -> dict[str, float] | None:
    if spread is None or not spread.count or not math.isfinite(spread.total):
        return None
    return {"least": spread.least, "mean": spread.mean, "greatest": spread.greatest}
