"""``vjepa-ac demo``: a simulated Franka reaches what a goal image shows, and a page tells how."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import (
    DEFAULT_MODEL,
    add_model,
    add_preset,
    at_least,
    command,
    output_file,
    output_folder,
)
from vjepa_ac_planner.cli.console import replacing, say, styled, write_json
from vjepa_ac_planner.cli.plan import plan_record

if TYPE_CHECKING:
    from vjepa_ac_planner.control.mpc import Episode, Step
    from vjepa_ac_planner.report.records import Report
    from vjepa_ac_planner.sim.evaluate import TrialResult

DETAILS = """\
The planner sees camera images and the arm's own pose, never where the goal is. DIR receives report.html
(one self-contained page; open it in a browser) and report.json. The exit code is 1 when the goal was not
reached.

examples:
  vjepa-ac demo
  vjepa-ac demo --seed 7 --episodes 5 --out my-report
  vjepa-ac demo --gif run.gif
"""


def add_parser(commands: Any) -> None:
    """Add ``demo``."""
    parser = command(
        commands, "demo", run, "watch a simulated Franka reach what a goal image shows", DETAILS
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="start and goal (default: %(default)s)")
    parser.add_argument(
        "--episodes",
        type=at_least(1),
        default=3,
        metavar="N",
        help="seeds in all; the first is shown in detail (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=output_folder, default="demo-report", metavar="DIR", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--gif", type=output_file, metavar="FILE", help="also write the run as an animated picture"
    )
    add_model(parser)
    add_preset(parser)


def run(args: argparse.Namespace) -> int:
    """Run the episodes, write the page, and say where it is."""
    from vjepa_ac_planner.cli.recording import Recorder
    from vjepa_ac_planner.cli.trial import make_simulation
    from vjepa_ac_planner.planning.planner import Planner
    from vjepa_ac_planner.planning.presets import PlannerConfig
    from vjepa_ac_planner.report.animation import require_pillow, write_gif
    from vjepa_ac_planner.report.html import render
    from vjepa_ac_planner.sim.evaluate import reach_result, run_episode
    from vjepa_ac_planner.sim.tasks import make_task
    from vjepa_ac_planner.world_model import WorldModel

    if args.gif:
        require_pillow()
    model = WorldModel.load(args.model, device=args.device, dtype=args.dtype)
    preset = args.preset or model.description.preset
    planner = Planner(model, PlannerConfig.preset(preset))
    say(f"model {model.description.name} on {model.device}, preset {preset}")
    with make_simulation(model.description) as sim:
        task = make_task("reach", args.seed, sim)
        recorder = Recorder(sim, task)

        def on_step(step: Step) -> None:
            recorder.on_step(step)
            say(_line(step, task.error(sim)))

        away = f"{task.error(sim) * 100:.1f} cm away"
        say(f"seed {args.seed}: the goal is {away}; the planner sees images only")
        episode = run_episode(sim, task, planner, on_step=on_step)
        result = reach_result(task, episode)
        say(_verdict(result))

        others: list[TrialResult] = []
        rest = sim.snapshot()
        for seed in range(args.seed + 1, args.seed + args.episodes):
            other = make_task("reach", seed, sim)
            others.append(reach_result(other, run_episode(sim, other, planner)))
            say(f"seed {seed}: {_verdict(others[-1])}")
        sim.restore(rest)
        report = recorder.report(
            episode, result, planner, preset=preset, command=_command(args), others=others
        )
        if args.gif:
            with replacing(args.gif) as temporary:
                write_gif(temporary, report, recorder.film())
        recorder.close()

    page = args.out / "report.html"
    with replacing(page) as temporary:
        temporary.write_text(render(report), encoding="utf-8")
    write_json(args.out / "report.json", _record(report, episode, result, others))
    say()
    say(f"The run as a page: {styled(str(page), 'bold')}")
    return 0 if result.success else 1


def _line(step: Step, error: float) -> str:
    plan = step.plan
    if plan is None:
        return f"  step {step.index + 1:2d}  hold  {error * 100:5.1f} cm  no plan: {step.error}"
    return (
        f"  step {step.index + 1:2d}  {step.command.kind}  {error * 100:5.1f} cm  "
        f"energy {plan.energy:.4f}, standing still {plan.zero_energy:.4f}  "
        f"planned in {step.timings['plan'] * 1000:.0f} ms"
    )


def _verdict(result: TrialResult) -> str:
    word = styled("reached", "green") if result.success else styled("not reached", "red")
    way = f"{result.start_error_m * 100:.1f} -> {result.final_error_m * 100:.1f} cm"
    return f"{word}: {way} in {result.steps} steps"


def _command(args: argparse.Namespace) -> str:
    """What to type to get this page again."""
    parts = ["vjepa-ac demo", f"--seed {args.seed}", f"--episodes {args.episodes}"]
    if args.model != DEFAULT_MODEL:
        parts.append(f"--model {args.model}")
    if args.preset:
        parts.append(f"--preset {args.preset}")
    if (args.device, args.dtype) != ("auto", "auto"):
        parts.append(f"--device {args.device} --dtype {args.dtype}")
    return " ".join(parts)


def _record(
    report: Report, episode: Episode, result: TrialResult, others: list[TrialResult]
) -> dict[str, Any]:
    """The run as plain data: every plan with its evidence, without the pictures."""
    return {
        "task": report.task,
        "seed": report.seed,
        "model": report.model,
        "preset": report.preset,
        "success": result.success,
        "errors_m": result.errors_m,
        "stop_reason": episode.stop_reason,
        "detail": episode.detail,
        "steps": [
            {
                "state": step.observation.state.vector,
                "plan": None if step.plan is None else plan_record(step.plan),
                "command": {"kind": step.command.kind, "target": step.command.target},
                "findings": [str(finding) for finding in step.findings],
                "timings": step.timings,
            }
            for step in episode.steps
        ],
        "other_episodes": [vars(other) for other in others],
        "command": report.command,
        "versions": report.versions,
    }
