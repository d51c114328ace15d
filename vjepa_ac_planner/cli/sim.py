"""``vjepa-ac sim``: evaluate policies in the simulator, the scripted upper bound, and the table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vjepa_ac_planner.cli import latency
from vjepa_ac_planner.cli.arguments import (
    add_json,
    add_model,
    add_preset,
    add_set,
    at_least,
    command,
    group,
    number,
    output_file,
    output_folder,
)
from vjepa_ac_planner.cli.console import complain, say, write_json
from vjepa_ac_planner.cli.scene import add_scene

# Named here too, so that help is shown where the simulator is not installed; a test compares them.
TASKS = ("reach", "grasp_cup", "grasp_box", "reach_with_object", "pick_place_cup", "pick_place_box")
POLICIES = ("planner", "random", "pixels", "oracle")
PROTOCOLS = ("paper", "long")

EVAL = """\
Each trial is one seed: start, goal images, the places of cup and box and, with --randomise, the look of the
scene all follow from it. A trial ends when the goals are done, when the planner sees no gain in moving, or
after the task's steps; it counts by how the world is then. Seeds from 100000 on are for evaluation only:
nothing was trained or tuned on them. docs/benchmark.md has the rules and what they gave.

The JSON holds success_rate, ci95 (Wilson), median_final_error_m, mean_error_by_step_m (a trial that ended
keeps its error), causes of failure, p50_plan_s, p95_plan_s, model, preset, every trial, and cells, which
is all there is with --task all: {reach: {success_rate, trials, ci95, ...}, grasp_cup: ...}.

policies:
  planner  the world model and the preset's optimiser
  random   random actions within the same bounds
  pixels   the same optimiser on the L1 distance of images, with the simulator as world model (slow)
  oracle   the script that made the goal images

examples:
  vjepa-ac sim eval --task reach --trials 100 --seed 100000 --json reach.json
  vjepa-ac sim eval --task all --trials 100 --seed 100000 --out table2 --processes 2
  vjepa-ac sim eval --task grasp_cup --protocol paper --trials 10
  vjepa-ac sim eval --task grasp_cup --trials 20 --gripper plan         (one piece of goal logic less)
  vjepa-ac sim eval --trials 20 --seed 60000 --record bags
  vjepa-ac sim eval --trials 20 --seed 60000 --scene lab-camera         (seen by another camera)
  vjepa-ac sim eval --trials 50 --require 0.9     (exit code 1 below 90 %)
"""
TABLE = """\
examples:
  vjepa-ac sim table ours=table2.json random=random.json --into table.md
"""


def add_parser(commands: Any) -> None:
    """Add ``sim`` and what belongs to it."""
    sim = group(commands, "sim", "run tasks in the simulator")
    evaluate = command(sim, "eval", run_eval, "evaluate a policy over many seeds", EVAL)
    evaluate.add_argument("--task", choices=(*TASKS, "all"), default="reach", help="(default: %(default)s)")
    _add_trials(evaluate)
    evaluate.add_argument(
        "--policy", choices=POLICIES, default="planner", help="who acts (default: %(default)s)"
    )
    add_model(evaluate)
    add_preset(evaluate)
    add_set(evaluate, "options of the preset, such as hold_margin=0.01 cem.samples=96")
    _add_protocol(evaluate)
    add_scene(evaluate)
    evaluate.add_argument(
        "--processes",
        type=at_least(1),
        default=1,
        metavar="N",
        help="trials at a time; they share the cores, so plan times grow (default: %(default)s)",
    )
    evaluate.add_argument(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="write every trial into DIR as it ends, then table2.json, table2.md and films; run again, it "
        "goes on where it was stopped",
    )
    evaluate.add_argument("--no-films", action="store_true", help="with --out: film nothing")
    evaluate.add_argument(
        "--record",
        type=output_folder,
        metavar="DIR",
        help="write every trial of the planner as a bag into DIR, for `vjepa-ac replay`",
    )
    evaluate.add_argument(
        "--done-probe",
        type=Path,
        metavar="FILE",
        help="end a trial as well when this classifier sees the last goal reached (done/probe.safetensors "
        "of `vjepa-ac train probe`)",
    )
    oracle = command(
        sim, "oracle", run_oracle, "run the scripted solution, which knows where everything is"
    )
    oracle.add_argument("--task", choices=TASKS, default="reach", help="(default: %(default)s)")
    _add_trials(oracle)
    latency.add_parser(sim)
    table = command(sim, "table", run_table, "put results beside the published ones", TABLE)
    table.add_argument(
        "results", nargs="+", metavar="[LABEL=]FILE", help="JSON files that `sim eval` wrote"
    )
    table.add_argument(
        "--into", type=output_file, metavar="FILE", help="write the tables to FILE as Markdown"
    )


def _add_trials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials",
        type=at_least(1),
        default=20,
        metavar="N",
        help="number of trials of each task (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="seeds S to S+N-1 (default: %(default)s)"
    )
    parser.add_argument(
        "--require",
        type=number(0, 1),
        metavar="RATE",
        help="exit with 1 if a success rate is lower, 0 to 1",
    )
    add_json(parser, "the result")


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    """Goal logic as a whole, and piece by piece."""
    rules = parser.add_argument_group("goal logic", "by default all as --protocol has it")
    rules.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="long",
        help="paper: its sub-goal images, left after its steps, gripper and arm searched together; long: "
        "finer ones, left when nothing more is gained, the gripper told to close and open once the arm has "
        "settled (default: %(default)s)",
    )
    rules.add_argument("--sub-goals", choices=("paper", "fine"), help="which goal images")
    rules.add_argument("--switch", choices=("steps", "energy"), help="when a sub-goal is left")
    rules.add_argument(
        "--gripper",
        choices=("plan", "settle_first", "schedule"),
        help="searched with the arm; alone after it; or told to close and open after it",
    )
    rules.add_argument(
        "--full-grip",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether a planned change of the gripper goes all the way",
    )
    rules.add_argument(
        "--settled-below",
        type=float,
        metavar="M",
        help="the arm has settled, and a sub-goal is done, once the best plan moves it less than this [m]",
    )
    rules.add_argument(
        "--known-states",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="tell the planner the arm's state in the goal images; used with --set state_weight=...",
    )
    rules.add_argument(
        "--randomise", type=float, metavar="S", help="how far looks go from the plain one, 0 to 1"
    )


def run_eval(args: argparse.Namespace) -> int:
    """Evaluate, print a line per trial, and sum up."""
    from vjepa_ac_planner.cli.benchmark import run

    return run(args)


def run_oracle(args: argparse.Namespace) -> int:
    """Success of the scripted solution."""
    from vjepa_ac_planner.sim.evaluate import run_oracle as solve
    from vjepa_ac_planner.sim.panda import PandaSim
    from vjepa_ac_planner.sim.tasks import make_task
    from vjepa_ac_planner.statistics import wilson_interval

    episodes = []
    with PandaSim() as sim:
        for seed in range(args.seed, args.seed + args.trials):
            result = solve(sim, make_task(args.task, seed, sim))
            success, steps = result.success, result.steps
            episodes.append(
                {"seed": seed, "success": success, "steps": steps, "final_error_m": result.final_error_m}
            )
            say(f"seed {seed} {'done  ' if success else 'failed'} in {steps:2d} steps")
    successes = sum(bool(episode["success"]) for episode in episodes)
    rate, interval = successes / len(episodes), wilson_interval(successes, len(episodes))
    say(f"{args.task}: success {rate:.1%} (95% interval {interval[0]:.1%} .. {interval[1]:.1%})")
    if args.json:
        record = {"task": args.task, "success_rate": rate, "ci95": interval, "episodes": episodes}
        write_json(args.json, record)
    return required(args.require, rate)


def run_table(args: argparse.Namespace) -> int:
    """Several results as one table."""
    from vjepa_ac_planner.cli.benchmark import tables

    return tables(args.results, args.into)


def required(wanted: float | None, rate: float) -> int:
    """Exit code of a check of a success rate."""
    if wanted is None or rate >= wanted:
        return 0
    complain(f"vjepa-ac: success rate {rate:.3f} is below the required {wanted:.3f}")
    return 1
