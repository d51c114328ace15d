"""Nodes in processes of their own, and the ROS domain in which they meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import NamedTuple

from vjepa_ac_planner.cli.console import complain
from vjepa_ac_planner.errors import MissingDependencyError, NotReadyError

ROS_EXTRA = (
    "pip install 'vjepa_ac_planner[ros]' (ROS 2 Kilted as wheels), or source a ROS 2 installation "
    "(Jazzy or later) before: source /opt/ros/$ROS_DISTRO/setup.bash"
)
START_SECONDS = 120.0
"""Time for both nodes to load; the published model takes most of it."""


def require_ros() -> None:
    """Check that rclpy can be imported, and is not that of Humble.

    Raises:
        MissingDependencyError: it cannot, or is; says how to get it.
    """
    try:
        import rclpy  # noqa: F401
    except ImportError as error:  # also when its shared libraries cannot be found
        raise MissingDependencyError(f"ROS 2 cannot be used here ({error}): {ROS_EXTRA}") from error
    if find_spec("rclpy.event_handler") is None:
        release = os.environ.get("ROS_DISTRO", "this release")
        raise MissingDependencyError(
            f"ROS 2: received {release} without rclpy.event_handler, as Humble is: {ROS_EXTRA}"
        )


def join_domain(number: int | None) -> int:
    """Have this process and those that it starts meet in one ROS domain, on this machine only.

    Args:
        number: of the domain; None takes one by the number of this process.
    """
    domain = 1 + os.getpid() % 100 if number is None else number
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return domain


class NodeProcess:
    """One of our nodes in a process of its own; its last lines are kept for when it dies."""

    def __init__(self, name: str, parameters: Sequence[str], verbose: bool) -> None:
        self.name = name
        self._verbose = verbose
        self._lines: deque[str] = deque(maxlen=30)
        # A session of its own: an interrupt at the terminal is ours to pass on, in order.
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-m", f"vjepa_ac_planner.ros.{name}_node", "--ros-args"),
                *(word for parameter in parameters for word in ("-p", parameter)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._popen.pid

    def check(self) -> None:
        """Raise if the node has ended.

        Raises:
            NotReadyError: with the last lines that it wrote.
        """
        code = self._popen.poll()
        if code is not None:
            self._reader.join(1.0)
            raise NotReadyError(f"the {self.name} node ended with code {code}: {' | '.join(self._lines)}")

    def stop(self) -> None:
        """Interrupt the node and wait for its end; it is killed when it does not come."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGINT)
            try:
                self._popen.wait(20.0)
            except subprocess.TimeoutExpired:
                complain(f"vjepa-ac: the {self.name} node does not end; killing it")
                self._popen.kill()
                self._popen.wait()
        self._reader.join(1.0)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.append(line.rstrip())
            if self._verbose:
                complain(f"{self.name}: {line.rstrip()}")


class Nodes(NamedTuple):
    """Both nodes, running."""

    sim: NodeProcess
    planner: NodeProcess

    def check(self) -> None:
        """Raise if one of them has ended; see :meth:`NodeProcess.check`."""
        for process in self:
            process.check()


@contextmanager
def running(simulator: Sequence[str], planner: Sequence[str], verbose: bool) -> Iterator[Nodes]:
    """Simulated robot and planner with parameters such as ``seed:=3``, until the end of the block.

    SIGINT and SIGTERM end the block by KeyboardInterrupt, also where a shell had them ignored: nodes in
    sessions of their own would go on without us.
    """
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, _interrupt)
            stack.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
        processes = []
        for name, parameters in (("sim", simulator), ("planner", planner)):
            processes.append(NodeProcess(name, parameters, verbose))
            stack.callback(processes[-1].stop)
        yield Nodes(*processes)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
