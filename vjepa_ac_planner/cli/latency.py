"""``vjepa-ac sim latency``: an arm that does not wait for its planner, without and with pipelining."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import add_json, add_model, add_preset, at_least, command, number
from vjepa_ac_planner.cli.console import say, table, write_json

if TYPE_CHECKING:
    from vjepa_ac_planner.sim.latency import TimedResult

DETAILS = """\
Planning takes a given time on the simulation's clock, whatever this machine's speed: the same results
everywhere. Each seed is run without pipelining and with it (docs/pipelining.md).

example:
  vjepa-ac sim latency --plan-seconds 0.1 0.25 0.5 --trials 30 --seed 72000 --json latency.json
"""


def add_parser(sim: Any) -> None:
    """Add ``latency`` to the group ``sim``."""
    parser = command(sim, "latency", run, "compare sequential and pipelined planning in time", DETAILS)
    parser.add_argument(
        "--plan-seconds",
        type=number(0, 60),
        nargs="+",
        default=[0.1, 0.25, 0.5],
        metavar="S",
        help="how long a search takes [s] (default: 0.1 0.25 0.5)",
    )
    parser.add_argument(
        "--look-seconds",
        type=number(0, 60),
        default=0.03,
        metavar="S",
        help="from the exposure of a frame to its latent [s] (default: %(default)s)",
    )
    parser.add_argument(
        "--trials", type=at_least(1), default=30, metavar="N", help="seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="seeds S to S+N-1 (default: %(default)s)"
    )
    add_model(parser)
    add_preset(parser)
    add_json(parser, "every episode")


def run(args: argparse.Namespace) -> int:
    """Run every seed at every latency, both ways, and print a table."""
    results = _results(args)
    say()
    say(table(_rows(results), ("plan", "", "success", "at the goal after", "final error", "made ahead")))
    if args.json:
        write_json(Path(args.json), {"episodes": [asdict(result) for result in results]})
    return 0


def _results(args: argparse.Namespace) -> list[TimedResult]:
    from vjepa_ac_planner.control.mpc import LoopConfig
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.sim.latency import run_with_latency, timed_result
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
    from vjepa_ac_planner.sim.tasks import make_task
    from vjepa_ac_planner.world_model import WorldModel

    model = WorldModel.load(args.model, device=args.device, dtype=args.dtype)
    planner = Planner(model, PlannerConfig.preset(args.preset or model.description.preset))
    size, results = 2 * model.description.image_size, []
    with PandaSim(SimConfig(width=size, height=size)) as sim:
        for seed in range(args.seed, args.seed + args.trials):
            task = make_task("reach", seed, sim)
            for plan_s in args.plan_seconds:
                for pipelined in (False, True):
                    episode, pipeline = run_with_latency(
                        sim,
                        task,
                        planner,
                        plan_s=plan_s,
                        look_s=args.look_seconds,
                        pipelined=pipelined,
                        loop=LoopConfig(seed=1000 * seed),
                    )
                    results.append(timed_result(task, episode, pipeline, plan_s))
            say(f"seed {seed} done")
    return results


def _rows(results: Sequence[TimedResult]) -> list[list[str]]:
    rows = []
    for plan_s in dict.fromkeys(result.plan_s for result in results):
        for pipelined in (False, True):
            some = [one for one in results if (one.plan_s, one.pipelined) == (plan_s, pipelined)]
            reached = [one.reached_s for one in some if one.reached_s is not None]
            fates: Counter[str] = sum((Counter(one.fates) for one in some), Counter())
            rows.append(
                [
                    f"{plan_s:g} s",
                    "pipelined" if pipelined else "sequential",
                    f"{sum(one.success for one in some)}/{len(some)}",
                    f"{fmean(reached):.2f} s" if reached else "-",
                    f"{100 * median(one.final_error_m for one in some):.1f} cm",
                    ", ".join(f"{count} {fate}" for fate, count in fates.most_common()) or "-",
                ]
            )
    return rows
