"""``vjepa-ac sim``: evaluate policies in the simulator, and the scripted upper bound."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import add_json, add_model, add_preset, at_least, command, group
from vjepa_ac_planner.cli.console import complain, say, write_json
from vjepa_ac_planner.errors import InputError

if TYPE_CHECKING:
    from vjepa_ac_planner.sim.evaluate import ReachResult

# Named here too, so that help is shown where the simulator is not installed; a test compares them.
TASKS = ("reach", "grasp_cup", "grasp_box", "reach_with_object", "pick_place_cup", "pick_place_box")
POLICIES = ("planner", "random", "pixels")

EVAL = """\
Each trial is one seed: start, goal and the places of cup and box all follow from it. An episode ends when
the planner sees no gain in moving, or after the task's steps; it counts by where the arm is then. Seeds
from 100000 on are for evaluation only: nothing was trained or tuned on them.

The JSON holds success_rate, ci95 (Wilson), median_final_error_m, mean_error_by_step_m (an arm that has
stopped keeps its error), p50_plan_s, p95_plan_s, model, preset, and every episode.

policies:
  planner  the world model and CEM
  random   random actions within the same bounds
  pixels   the same CEM on the L1 distance of images, the simulator itself being the world model (slow)

examples:
  vjepa-ac sim eval --task reach --trials 100 --seed 100000 --json reach.json
  vjepa-ac sim eval --trials 20 --policy random
  vjepa-ac sim eval --trials 20 --seed 60000 --record bags
  vjepa-ac sim eval --trials 50 --require 0.9     (exit code 1 below 90 %)
"""


def add_parser(commands: Any) -> None:
    """Add ``sim`` and what belongs to it."""
    sim = group(commands, "sim", "run tasks in the simulator")
    evaluate = command(sim, "eval", run_eval, "evaluate a policy over many seeds", EVAL)
    evaluate.add_argument("--task", choices=TASKS[:1], default="reach", help="(default: %(default)s)")
    _add_trials(evaluate)
    evaluate.add_argument(
        "--policy", choices=POLICIES, default="planner", help="who acts (default: %(default)s)"
    )
    add_model(evaluate)
    add_preset(evaluate)
    evaluate.add_argument(
        "--processes",
        type=at_least(1),
        default=1,
        metavar="N",
        help="episodes at a time; they share the cores, so plan times grow (default: %(default)s)",
    )
    evaluate.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        help="write every episode of the planner as a bag into DIR, for `vjepa-ac replay`",
    )
    oracle = command(
        sim, "oracle", run_oracle, "run the scripted solution, which knows where everything is"
    )
    oracle.add_argument("--task", choices=TASKS, default="reach", help="(default: %(default)s)")
    _add_trials(oracle)


def _add_trials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials",
        type=at_least(1),
        default=20,
        metavar="N",
        help="number of episodes (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="seeds S to S+N-1 (default: %(default)s)"
    )
    parser.add_argument(
        "--require", type=float, metavar="RATE", help="exit with 1 if the success rate is lower"
    )
    add_json(parser, "the result")


def run_eval(args: argparse.Namespace) -> int:
    """Evaluate, print a line per trial, and sum up."""
    from vjepa_ac_planner.cli.evaluate import Job, evaluate
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.sim.evaluate import summarise

    description = find_model(args.model).description
    preset = args.preset or description.preset
    seeds = range(args.seed, args.seed + args.trials)
    if args.record and args.policy != "planner":
        raise InputError(f"--record: received with policy {args.policy!r}, allowed with 'planner' only")
    job = Job(args.policy, args.model, args.device, args.dtype, preset, args.record)
    who = f"policy {args.policy}, model {description.name}, preset {preset}"
    say(f"{args.task}, seeds {seeds.start}..{seeds.stop - 1}, {who}")
    begin = time.perf_counter()
    results: list[ReachResult] = []
    for result in evaluate(job, seeds, args.processes):
        results.append(result)
        say(_line(results, args.trials))
    results.sort(key=lambda result: result.seed)
    summary = summarise(results, max_steps=12) | {
        "model": description.name,
        "preset": preset,
        "policy": args.policy,
        "processes": args.processes,
        "seconds": time.perf_counter() - begin,
    }
    low, high = summary["ci95"]
    say()
    say(f"success {summary['success_rate']:.1%} (95% interval {low:.1%} .. {high:.1%})")
    say(f"final error: median {summary['median_final_error_m'] * 100:.1f} cm")
    say("mean error by step [cm]: " + " ".join(f"{e * 100:.1f}" for e in summary["mean_error_by_step_m"]))
    say(f"plan: p50 {summary['p50_plan_s'] * 1000:.0f} ms, p95 {summary['p95_plan_s'] * 1000:.0f} ms")
    if args.json:
        write_json(args.json, summary)
    return _required(args.require, summary["success_rate"])


def _line(results: list[ReachResult], total: int) -> str:
    newest, done, reached = results[-1], len(results), sum(result.success for result in results)
    verdict = "reached    " if newest.success else "not reached"
    way = f"{newest.start_error_m * 100:5.1f} -> {newest.final_error_m * 100:4.1f} cm"
    count = f"[{done:>{len(str(total))}}/{total}]"
    return f"{count} seed {newest.seed} {verdict} {way} in {newest.steps:2d} steps; {reached}/{done} so far"


def run_oracle(args: argparse.Namespace) -> int:
    """Success of the scripted solution."""
    from vjepa_ac_planner.sim.evaluate import wilson_interval
    from vjepa_ac_planner.sim.panda import PandaSim
    from vjepa_ac_planner.sim.tasks import make_task, run

    episodes = []
    with PandaSim() as sim:
        for seed in range(args.seed, args.seed + args.trials):
            task = make_task(args.task, seed, sim)
            steps = run(sim, task.oracle(sim))
            success, error = task.success(sim), task.error(sim)
            episodes.append({"seed": seed, "success": success, "steps": steps, "final_error_m": error})
            say(f"seed {seed} {'done  ' if success else 'failed'} in {steps:2d} steps")
    successes = sum(bool(episode["success"]) for episode in episodes)
    rate, interval = successes / len(episodes), wilson_interval(successes, len(episodes))
    say(f"{args.task}: success {rate:.1%} (95% interval {interval[0]:.1%} .. {interval[1]:.1%})")
    if args.json:
        record = {"task": args.task, "success_rate": rate, "ci95": interval, "episodes": episodes}
        write_json(args.json, record)
    return _required(args.require, rate)


def _required(wanted: float | None, rate: float) -> int:
    if wanted is None or rate >= wanted:
        return 0
    complain(f"vjepa-ac: success rate {rate:.3f} is below the required {wanted:.3f}")
    return 1
