"""``vjepa-ac plan``: one frame, one goal, one state in; one action and the evidence for it out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import (
    add_json,
    add_model,
    add_preset,
    at_least,
    command,
    number,
    state_vector,
)
from vjepa_ac_planner.cli.console import say, styled, table, write_json

if TYPE_CHECKING:
    from vjepa_ac_planner.types import Plan

DETAILS = """\
The action is the change of the end-effector state over one step of the model, in the robot base frame:
dx dy dz [m], rotation as extrinsic-xyz Euler angles [rad] applied on the left, change of gripper
closedness.
It is a proposal: nothing is sent to a robot, and it has not passed a safety layer.

examples:
  vjepa-ac plan --image now.png --goal goal.png --state "0.50,0.00,0.40,3.14,0.00,-0.79,0" --json plan.json
  torchrun --nproc-per-node 4 -m vjepa_ac_planner plan ...      the same on 4 GPUs (docs/multi-gpu.md)
"""


def add_parser(commands: Any) -> None:
    """Add ``plan``."""
    parser = command(
        commands, "plan", run, "plan one action from a camera image, a goal image and a state", DETAILS
    )
    parser.add_argument("--image", required=True, metavar="FILE", help="current camera image (PNG, JPEG)")
    parser.add_argument("--goal", required=True, metavar="FILE", help="goal image, same camera")
    parser.add_argument(
        "--state",
        required=True,
        metavar='"x,y,z,rx,ry,rz,g"',
        help="end effector (panda_link8) in the base frame [m, rad], and gripper closedness 0 (open) .. 1; "
        'where x is negative, with an equals sign: --state="-0.5,..."',
    )
    add_model(parser)
    add_preset(parser)
    parser.add_argument("--seed", type=at_least(0), help="seed of the search (default: the preset's)")
    parser.add_argument(
        "--deadline", type=number(0.001, 3600), metavar="S", help="time the plan may take [s]"
    )
    add_json(parser, "action and evidence")


def run(args: argparse.Namespace) -> int:
    """Plan once and print the action; on a rank other than 0, score candidates for rank 0."""
    from vjepa_ac_planner.planning.ranks import rank
    from vjepa_ac_planner.planning.sharded import Crew, serve
    from vjepa_ac_planner.preprocess import read_image

    if rank() > 0:
        serve()
        return 0

    image, goal_image = read_image(args.image), read_image(args.goal)
    vector = state_vector(args.state)

    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.types import ACTION_NAMES, Goal, Observation, RobotState

    with Crew.join() as crew:
        model = crew.load(args.model, device=args.device, dtype=args.dtype)
        preset = args.preset or model.description.preset
        plan = crew.planner(model, PlannerConfig.preset(preset)).plan(
            Observation(image, RobotState(vector)),
            Goal(goal_image, args.goal),
            deadline_s=args.deadline,
            seed=args.seed,
        )

    say(table([[name, f"{value:+.4f}"] for name, value in zip(ACTION_NAMES, plan.action, strict=True)]))
    say(f"energy {plan.energy:.4f}, standing still {plan.zero_energy:.4f}, now {plan.current_energy:.4f}")
    say(f"{plan.evaluations} sequences in {plan.timings['total'] * 1000:.0f} ms ({plan.stop_reason})")
    if not plan.improves:
        say(styled("This plan is no better than standing still: hold.", "yellow"))
    if args.json:
        write_json(args.json, {"model": model.description.name, "preset": preset, **plan_record(plan)})
    return 0


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan and its evidence as plain data."""
    return {
        "action": plan.action,
        "actions": plan.actions,
        "predicted_states": plan.predicted_states,
        "energy": plan.energy,
        "zero_energy": plan.zero_energy,
        "current_energy": plan.current_energy,
        "predicted_energies": plan.predicted_energies,
        "improves": plan.improves,
        "margin": plan.margin,
        "surprise": plan.surprise,
        "iterations": [
            {
                "best_energy": trace.best_energy,
                "elite_mean_energy": trace.elite_mean_energy,
                "mean": trace.mean,
                "std": trace.std,
                "finite": trace.finite,
            }
            for trace in plan.iterations
        ],
        "evaluations": plan.evaluations,
        "seed": plan.seed,
        "stop_reason": plan.stop_reason,
        "timings": plan.timings,
    }
