"""Messages between rank 0 of ``torch.distributed`` and the others: orders one way, answers the other.

They go from memory to memory over gloo, whatever the device of the model, because a rank that dies or
falls silent is then an error that rank 0 can catch; NCCL's watchdog would end the process that holds the
arm. On the wire, always between rank 0 and one other:

an order
    ``int64 [kind, size, horizon]``, then what belongs to it, whose size both sides know from it;
an answer
    ``float32 [status, numbers ...]``, whose length both sides know from the order; unless the status is
    0, a text of 512 bytes follows, which says what went wrong.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vjepa_ac_planner.errors import (
    DeviceMemoryError,
    MissingDependencyError,
    NotReadyError,
    PlannerError,
    PlanningError,
)

_DONE, _NO_MEMORY, _FAILED = range(3)
_TEXT = 512
_FOREVER = timedelta(days=365)


def rank() -> int:
    """The rank that ``torchrun`` gave this process; 0 when it was started alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes that ``torchrun`` started; 1 when this one was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet(patience_s: float) -> dist.ProcessGroup:
    """The gloo group of all ranks: a new one where the caller uses ``torch.distributed`` already.

    Args:
        patience_s: how long to wait for the others [s].

    Raises:
        NotReadyError: not all of them came.
        MissingDependencyError: this build of PyTorch cannot connect processes.
    """
    if not dist.is_available():
        raise MissingDependencyError(
            "torch.distributed: this build of PyTorch lacks it; install another, or start one process"
        )
    patience = timedelta(seconds=patience_s)
    try:
        if dist.is_initialized():
            return dist.new_group(backend="gloo", timeout=patience)
        dist.init_process_group("gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise NotReadyError(
            f"rank {rank()} of {world_size()}: not all ranks met within {patience_s:g} s "
            f"({_first(error)}); start them together, with `torchrun --nproc-per-node N ...`"
        ) from error
    assert dist.group.WORLD is not None
    return dist.group.WORLD


@dataclass
class _Awaited:
    rank: int
    numbers: Tensor
    """[1 + n] status and numbers, once ``work`` is done."""
    work: dist.Work


class Others:
    """The other ranks, as rank 0 sees them.

    When one of them is gone, or does not answer in time, gloo ends every connection: from then on every
    order is a :class:`PlanningError`.

    Args:
        group: gloo group of all ranks.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._awaited: list[_Awaited] = []
        # Kept until they are known to have arrived: gloo reads from the tensors' own memory.
        self._sent: list[tuple[Tensor, dist.Work]] = []
        self._lost = ""

    @property
    def size(self) -> int:
        """Number of ranks, rank 0 included."""
        return self._group.size()

    def order(
        self,
        other: int,
        kind: int,
        size: int = 0,
        horizon: int = 0,
        payload: Tensor | None = None,
        *,
        answer: int | None = None,
    ) -> None:
        """Send an order to one rank, and return at once.

        Args:
            other: its rank.
            kind: first number of the order; what it means is up to both sides, and so are the next two.
            size: second number.
            horizon: third number.
            payload: what follows, on the CPU and contiguous.
            answer: how many numbers the answer holds; None expects no answer.

        Raises:
            PlanningError: some rank is gone.
        """
        if self._lost:
            raise PlanningError(self._lost)
        try:
            if answer is not None:  # first, so that no answer ever waits for a place
                numbers = torch.empty(1 + answer)
                self._awaited.append(_Awaited(other, numbers, self._group.recv([numbers], other, 0)))
            for part in (torch.tensor((kind, size, horizon)), payload):
                if part is not None:
                    self._sent.append((part, self._group.send([part], other, 0)))
        except RuntimeError as error:
            raise self._gone(other, "is gone", error) from error

    def answers(self, seconds: float) -> list[Tensor]:
        """All answers that are due, in the order of the orders; failures are raised when all have come.

        Args:
            seconds: how long to wait for all of them together [s].

        Raises:
            DeviceMemoryError: a rank has run out of memory.
            PlanningError: a rank failed, is gone, or did not answer in time.
        """
        until = time.monotonic() + seconds
        awaited, self._awaited = self._awaited, []
        failures: list[PlannerError] = []
        for item in awaited:
            try:
                _wait(item.work, until)
                if (status := int(item.numbers[0])) != _DONE:
                    text = torch.empty(_TEXT, dtype=torch.uint8)
                    _wait(self._group.recv([text], item.rank, 0), until)
                    kind = DeviceMemoryError if status == _NO_MEMORY else PlanningError
                    failures.append(kind(f"rank {item.rank}: {_read(text)}"))
            except RuntimeError as error:
                how = f"is gone, or did not answer within {seconds:g} s"
                raise self._gone(item.rank, how, error) from error
        self._sent = []  # who has answered has read them
        if failures:
            raise failures[0]
        return [item.numbers[1:] for item in awaited]

    def dismiss(self, kind: int) -> None:
        """Send a last order to everyone who is still there, and leave."""
        with suppress(PlannerError, RuntimeError):
            for other in range(1, self.size):
                self.order(other, kind)
            until = time.monotonic() + 1.0
            for _, work in self._sent:
                _wait(work, until)
        self._lost = "the other ranks were sent home"
        dist.destroy_process_group(self._group)

    def _gone(self, other: int, how: str, error: RuntimeError) -> PlanningError:
        self._lost = (
            f"rank {other} of {self.size} {how} ({_first(error)}); hold, and start all ranks again: "
            "none of them can be reached any more"
        )
        return PlanningError(self._lost)


class Rank0:
    """Rank 0, as the others see it.

    Args:
        group: gloo group of all ranks.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._order = torch.empty(3, dtype=torch.int64)

    def next(self) -> tuple[int, int, int]:
        """The next order: kind, size, horizon. Waits for as long as rank 0 lives.

        Raises:
            PlanningError: rank 0 is gone.
        """
        kind, size, horizon = self.receive(self._order).tolist()
        return kind, size, horizon

    def receive(self, buffer: Tensor) -> Tensor:
        """What belongs to the order, read into ``buffer``.

        Raises:
            PlanningError: rank 0 is gone.
        """
        self._finish(lambda: self._group.recv([buffer], 0, 0))
        return buffer

    def answer(self, length: int, work: Callable[[], Tensor]) -> None:
        """Send what the work gives, ``length`` numbers; or why it gives nothing.

        Raises:
            PlanningError: rank 0 is gone.
        """
        text = None
        try:
            numbers = work().flatten().to("cpu", torch.float32)
            status = _DONE
        except Exception as error:  # whatever it is: rank 0 decides what follows from it
            status = _NO_MEMORY if isinstance(error, DeviceMemoryError) else _FAILED
            numbers, text = torch.zeros(length), _written(f"{type(error).__name__}: {error}")
        message = torch.cat((torch.tensor([float(status)]), numbers))
        self._finish(lambda: self._group.send([message], 0, 0))
        if text is not None:
            self._finish(lambda: self._group.send([text], 0, 0))

    def _finish(self, begin: Callable[[], dist.Work]) -> None:
        try:
            begin().wait(_FOREVER)
        except RuntimeError as error:
            raise PlanningError(f"rank 0 is gone ({_first(error)}): nobody is left to plan for") from error


def packed(options: dict[str, Any]) -> Tensor:
    """Tensors, numbers and texts by name, as bytes."""
    buffer = io.BytesIO()
    torch.save(options, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpacked(content: Tensor) -> dict[str, Any]:
    """The inverse of :func:`packed`; refuses what could run code."""
    options: dict[str, Any] = torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    return options


def _wait(work: dist.Work, until: float) -> None:
    """Wait for a message until a time of the steady clock; one that is there already is never late."""
    if not work.wait(timedelta(seconds=max(until - time.monotonic(), 0.001))):
        raise RuntimeError("timed out")


def _written(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()[:_TEXT].ljust(_TEXT)), dtype=torch.uint8)


def _read(text: Tensor) -> str:
    return text.numpy().tobytes().decode(errors="replace").strip()


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
