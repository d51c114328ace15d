"""Many trials of one policy, in one process or several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

import torch

from vjepa_ac_planner.cli.trial import Job, Runner
from vjepa_ac_planner.sim.evaluate import TrialResult

Item = tuple[str, int]
"""A task's name and a seed."""


def evaluate(job: Job, items: Sequence[Item], processes: int) -> Iterator[TrialResult]:
    """Run one trial per item; with several processes they come in the order in which they end."""
    if processes == 1 or len(items) <= 1:
        with Runner(job) as runner:
            yield from (runner.run(task, seed) for task, seed in items)
        return
    processes = min(processes, len(items))
    threads = max(1, _cores() // processes)
    # Spawned: a forked child would share torch's threads and the GL context.
    with multiprocessing.get_context("spawn").Pool(processes, _start, (job, threads)) as pool:
        yield from pool.imap_unordered(_work, items)


# One runner per worker process, made when the process starts.
_runners: list[Runner] = []


def _start(job: Job, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The parent, which is interrupted too, ends this process; and once only, so that a trial under way can
    # be cleared away.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    # The processes are the parallelism: one rendering thread each.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    torch.set_num_threads(threads)
    _runners.append(Runner(job))


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its pool, and the others of the pool keep its pipes open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(item: Item) -> TrialResult:
    return _runners[0].run(*item)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
