"""Takes the newest message of some subscriptions at a steady rate, beside the executor.

An executor of rclpy puts its wait set together anew, in Python, for every callback. That takes about a
millisecond in which no other thread of the process runs, and a Franka sends its pose 1000 times a second.
Only the newest pose is ever wanted, so nothing is lost by looking for it now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup

POLL_SECONDS = 0.005
"""Between two looks for messages [s]."""


class LeftToReader(CallbackGroup):
    """The group of subscriptions that no executor calls back, because the reader takes their messages."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing has begun."""


@dataclass
class _Source:
    subscription: Any
    use: Callable[[Any], None]
    period: float
    name: str
    due: float = float("-inf")


class Reader:
    """A thread that takes messages; it runs from :meth:`start` to :meth:`close`.

    Args:
        on_error: told about errors of taking or using a message; reading goes on.
    """

    def __init__(self, on_error: Callable[[str], None]) -> None:
        self._on_error = on_error
        self._sources: list[_Source] = []
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, subscription: Any, use: Callable[[Any], None], period: float = POLL_SECONDS) -> None:
        """Have the messages of a subscription taken; before :meth:`start`.

        Args:
            subscription: in a callback group :class:`LeftToReader`, else an executor takes some of them.
            use: called in the reader's thread with every message that is taken.
            period: least time between two looks [s].
        """
        self._sources.append(_Source(subscription, use, period, subscription.topic_name))

    def start(self) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._run, name="inputs", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Take what is there now, in the calling thread, and return when it has been used."""
        for source in self._sources:
            self._take(source)

    def close(self) -> None:
        """Take no message any more; the subscriptions may then be destroyed."""
        with self._turn:
            self._closed.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            now = time.monotonic()
            for source in self._sources:
                if now >= source.due:
                    source.due = now + source.period
                    self._take(source)

    def _take(self, source: _Source) -> None:
        subscription = source.subscription
        with self._turn:  # so that no older message is used after a newer one
            if self._closed.is_set():
                return
            try:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is not None:
                    source.use(taken[0])
            except Exception as error:  # a reader that has died would look like a robot that is silent
                self._on_error(f"{source.name}: {type(error).__name__}: {error}")
