"""Entry point of ``vjepa-ac``: one parser, one place where errors become exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vjepa_ac_planner import __version__
from vjepa_ac_planner.cli import bag, bench, demo, doctor, models, plan, problems, replay, ros, sim, train
from vjepa_ac_planner.cli.arguments import INTERRUPTED
from vjepa_ac_planner.cli.console import complain, flush
from vjepa_ac_planner.errors import PlannerError, missing_package

EPILOG = """\
exit codes:
  0  success
  1  the goal was not reached, or a check failed
  2  bad usage or input
  3  this machine lacks something: an extra, OpenGL, a device (`vjepa-ac doctor` says what)

examples:
  vjepa-ac demo                         a simulated Franka reaches what a goal image shows
  vjepa-ac doctor                       what works on this machine, and what to do about the rest
  vjepa-ac plan --image now.png --goal goal.png --state "0.5,0,0.4,3.14,0,0,0"
  vjepa-ac sim eval --task reach --trials 20 --json result.json
  vjepa-ac replay my-bag --out my-report
  vjepa-ac ros demo                     planner and simulated robot meet over ROS topics
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; nothing heavier than argparse is imported to build it."""
    parser = argparse.ArgumentParser(
        prog="vjepa-ac",
        description="Goal-image planning for robot arms with the V-JEPA 2-AC world model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vjepa-ac {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module in (demo, plan, replay, bag, ros, sim, train, models, doctor, bench, problems):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    A :class:`PlannerError`, or a missing package, becomes one line on standard error and its own exit code;
    anything else is a defect of ours and keeps its traceback.
    """
    try:
        try:
            args = build_parser().parse_args(argv)
        finally:  # of --help
            flush()
        code: int = args.handler(args)
    except PlannerError as error:
        return _failed(error)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        return _failed(missing)
    except KeyboardInterrupt:
        complain("vjepa-ac: interrupted")
        return INTERRUPTED
    return code


def _failed(error: PlannerError) -> int:
    complain(f"vjepa-ac: error: {' '.join(str(error).split())}")
    return error.exit_code
