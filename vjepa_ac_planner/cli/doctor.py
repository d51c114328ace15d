"""``vjepa-ac doctor``: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vjepa_ac_planner.cli.arguments import DEFAULT_MODEL, add_json, command
from vjepa_ac_planner.cli.console import say, styled, table, write_json
from vjepa_ac_planner.errors import PlannerError, first_line, missing_package

DETAILS = """\
exit codes: 0 when the demo can run here, 3 when something that it needs is missing or broken.

examples:
  vjepa-ac doctor
  vjepa-ac doctor --only gl models --json doctor.json
"""

PUBLISHED = "vjepa2-ac-vitg"

Status = Literal["ok", "absent", "broken"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    status: Status
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do, where something is to be done."""
    needed: bool = True
    """Whether the demo needs it."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Numbers and names for scripts."""


def add_parser(commands: Any) -> None:
    """Add ``doctor``."""
    parser = command(
        commands, "doctor", run, "check what works on this machine, and say what to do", DETAILS
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(CHECKS),
        metavar="CHECK",
        help=f"run only these: {', '.join(CHECKS)}",
    )
    add_json(parser, "the findings")


def run(args: argparse.Namespace) -> int:
    """Run the checks one after another, printing each as it is known."""
    checks = []
    for name in args.only or CHECKS:
        checks.append(_checked(name))
        say(_line(checks[-1]))
    broken = [check for check in checks if check.needed and check.status != "ok"]
    say()
    every = all(check.status == "ok" for check in checks)
    passed = "All checks passed" if every else "All needed checks passed"
    if broken:
        say(styled(f"The demo cannot run here yet: {', '.join(check.name for check in broken)}.", "red"))
    else:
        say(styled(f"{passed}." if args.only else f"{passed}: the demo can run here.", "green"))
    if args.json:
        write_json(args.json, {"ok": not broken, "checks": [asdict(check) for check in checks]})
    return 3 if broken else 0


def _checked(name: str) -> Check:
    """One check; one that cannot be made for want of a package is a finding too."""
    try:
        return CHECKS[name]()
    except PlannerError:
        raise
    except (ImportError, OSError) as error:  # OSError: a shared library of an installed package
        needed, remedy = name not in OPTIONAL, "reinstall that package"
        missing = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None:
            what, _, remedy = str(missing).partition(": ")
            return Check(name, "absent", what, remedy, needed)
        return Check(name, "broken", f"cannot be checked: {first_line(error)}", remedy, needed)


def _line(check: Check) -> str:
    if check.status == "ok":
        mark, style = "ok", "green"
    elif check.needed:
        mark, style = check.status, "red"
    else:
        mark, style = check.status, "yellow"
    lines = [[check.name.ljust(7), mark.ljust(6), check.detail]]
    if check.remedy:
        lines.append(["", "", f"-> {check.remedy}"])
    return table(lines).replace(mark, styled(mark, style), 1)


def python() -> Check:
    """The interpreter, and the machine under it."""
    version = platform.python_version()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{version}, {platform.system()} {platform.machine()}, {cores} cores"
    supported = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return Check(
        "python",
        "ok" if supported else "broken",
        detail,
        "" if supported else "use Python 3.10-3.13",
        measured={"version": version, "cores": cores},
    )


def torch() -> Check:
    """PyTorch, its device, bfloat16 and the speed of matrix products."""
    try:
        import torch
        import transformers
    except Exception as error:  # a broken installation fails in ways of its own
        if isinstance(error, ModuleNotFoundError) and missing_package(error):
            raise
        return Check(
            "torch",
            "broken",
            f"cannot be imported: {first_line(error)}",
            "reinstall: pip install --force-reinstall torch transformers",
        )
    from vjepa_ac_planner.bench.device import matmul_flops, pretty_flops

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    versions = {"version": torch.__version__, "transformers": transformers.__version__, "device": name}
    try:
        float32 = matmul_flops(device, torch.float32)
        bfloat16 = matmul_flops(device, torch.bfloat16)
    except RuntimeError as error:
        remedy = "update the NVIDIA driver, or hide the GPU with CUDA_VISIBLE_DEVICES= (empty)"
        return Check("torch", "broken", f"{name}: {first_line(error)}", remedy, measured=versions)
    detail = (
        f"{torch.__version__}, transformers {transformers.__version__}, {name}: "
        f"{pretty_flops(float32)} float32, {pretty_flops(bfloat16)} bfloat16"
    )
    return Check(
        "torch", "ok", detail, measured={**versions, "float32_flops": float32, "bfloat16_flops": bfloat16}
    )


def sim() -> Check:
    """The simulator extra."""
    missing = [name for name in ("mujoco", "gymnasium_robotics") if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "sim", "absent", f"{', '.join(missing)} not installed", "pip install 'vjepa_ac_planner[sim]'"
        )
    from importlib.metadata import version

    found = version("mujoco")
    if not found.startswith("4.0."):
        remedy = "frames differ between versions, and so may the model: pip install 'mujoco>=4.0,<4.1'"
        return Check("sim", "broken", f"mujoco {found}", remedy, measured={"mujoco": found})
    return Check("sim", "ok", f"mujoco {found}", measured={"mujoco": found})


# In a process of its own: a GL library that crashes must not take the doctor with it.
_RENDER = """
import os, time
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
with PandaSim(SimConfig(width=128, height=128)) as sim:
    image = sim.render()
    begin = time.perf_counter()
    for _ in range(10):
        sim.render()
    rate = 10 / (time.perf_counter() - begin)
if image.std() < 5:
    raise SystemExit(f"the rendered frame is blank (mean {image.mean():.0f})")
print(os.environ.get("MUJOCO_GL", "window system"), rate)
"""


def gl() -> Check:
    """Headless rendering: one real frame of the simulator."""
    from vjepa_ac_planner.sim.gl import GL_HINT

    if importlib.util.find_spec("mujoco") is None:
        return Check(
            "gl", "absent", "not tried: mujoco is not installed", "pip install 'vjepa_ac_planner[sim]'"
        )
    try:
        done = subprocess.run([sys.executable, "-c", _RENDER], capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        return Check(
            "gl", "broken", "rendering one frame took more than 180 s", "try MUJOCO_GL=osmesa (libosmesa6)"
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"the renderer ended with code {done.returncode}"
        if module := re.fullmatch(r"ModuleNotFoundError: No module named '(\w+)'", reason):
            raise ModuleNotFoundError(reason, name=module[1])
        remedy = GL_HINT.partition(": ")[2]
        reason = reason.rpartition("MissingDependencyError: ")[2].replace(f": {remedy}", "")
        return Check("gl", "broken", reason, f"Debian, Ubuntu: {remedy}")
    backend, rate = done.stdout.strip().rsplit(maxsplit=1)
    detail = f"{backend}, {float(rate):.0f} frames/s at 128x128 pixels"
    return Check("gl", "ok", detail, measured={"backend": backend, "frames_per_second": float(rate)})


def models() -> Check:
    """The model descriptions found, and whether the one that the demo uses loads."""
    try:
        from vjepa_ac_planner.world_model import WorldModel

        model = WorldModel.load(DEFAULT_MODEL, device="cpu")
    except PlannerError as error:
        return Check("models", "broken", str(error), "fetch the repository again, with its models/ folder")
    return Check(
        "models", "ok", f"{model.description.name} loads", measured={"loaded": model.description.name}
    )


def ros() -> Check:
    """ROS 2's Python client; only the ROS node needs it."""
    if importlib.util.find_spec("rclpy") is None:
        remedy = (
            "only for the ROS 2 node: source a ROS installation, or pip install 'vjepa_ac_planner[ros]'"
        )
        return Check("ros", "absent", "rclpy not found", remedy, needed=False)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import rclpy.event_handler"], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        detail, remedy = "importing rclpy took more than 60 s", "try again when the machine has less to do"
        return Check("ros", "broken", detail, remedy, needed=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        remedy = "source ROS 2 Jazzy or later first, or install an RMW: pip install 'ros-rclpy[fastrtps]'"
        return Check("ros", "broken", f"rclpy cannot be imported: {lines[-1]}", remedy, needed=False)
    distro = os.environ.get("ROS_DISTRO", "pip wheels")
    return Check("ros", "ok", f"rclpy ({distro})", needed=False, measured={"distro": distro})


def franka() -> Check:
    """The messages of Franka's driver: the arm's mode and errors come in them."""
    if importlib.util.find_spec("franka_msgs") is None:
        remedy = (
            "only for a Franka: source a workspace with franka_msgs of frankarobotics/franka_ros2, or set "
            "topics.robot_state: null in the robot's profile"
        )
        return Check("franka", "absent", "franka_msgs not found", remedy, needed=False)
    return Check("franka", "ok", "franka_msgs", needed=False)


def weights() -> Check:
    """The published model, which acts on a real arm; the demo has a small one of its own."""
    from vjepa_ac_planner.models import find_model

    try:
        files = find_model(PUBLISHED)
    except PlannerError as error:
        remedy = "fetch the repository again, with its models/ folder"
        return Check("weights", "broken", str(error), remedy, needed=False)
    if files.weights is None:
        remedy = (
            f"only for a real arm: download {files.description.source.checkpoint} (11.8 GB), then "
            f"`vjepa-ac models convert {PUBLISHED} FILE`"
        )
        return Check("weights", "absent", f"{PUBLISHED} has no weights", remedy, needed=False)
    where = str(files.weights)
    return Check("weights", "ok", f"{PUBLISHED}: {where}", needed=False, measured={"file": where})


CHECKS: dict[str, Callable[[], Check]] = {
    "python": python,
    "torch": torch,
    "sim": sim,
    "gl": gl,
    "models": models,
    "ros": ros,
    "franka": franka,
    "weights": weights,
}
OPTIONAL = ("ros", "franka", "weights")
"""Those that the demo does not need."""
