"""How the node is, in a word and why: what ``~/status`` says."""

from __future__ import annotations

import threading
from collections.abc import Callable


class StatusLine:
    """Says every change once, from whichever thread it comes.

    Args:
        publish: sends a text.
        cancelled: whether the run under way has been cancelled.
    """

    def __init__(self, publish: Callable[[str], None], cancelled: Callable[[], bool]) -> None:
        self._publish, self._cancelled = publish, cancelled
        self._lock = threading.Lock()
        self.state, self.reason = "inactive", ""

    def say(self, state: str, reason: str) -> None:
        """The node is in this state, such as ``moving``."""
        with self._lock:
            self._say(state, reason)

    def say_of_run(self, state: str, reason: str) -> None:
        """The same from the worker thread, unless its run has been cancelled: then others have the word."""
        with self._lock:
            if not self._cancelled():
                self._say(state, reason)

    def _say(self, state: str, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._publish(f"{state}: {reason}" if reason else state)
