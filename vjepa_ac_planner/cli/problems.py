"""``vjepa-ac problems``: planning problems from the simulator, and how optimisers do on them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import add_json, add_model, at_least, command, group, output_file
from vjepa_ac_planner.cli.console import say, table, write_json
from vjepa_ac_planner.errors import counted

if TYPE_CHECKING:
    from vjepa_ac_planner.bench.problems import Problem
    from vjepa_ac_planner.sim.panda import PandaSim
    from vjepa_ac_planner.sim.tasks import Task

KINDS = (
    "reach",
    "grasp_cup",
    "reach_with_object",
    "grasp_box",
    "reach",
    "pick_place_cup",
    "pick_place_box",
)
"""Tasks in turn; reach comes twice."""
MAKE = """\
One problem per seed: somewhere on the scripted way to a goal image of the seed's task, 1 to 30 cm away
from it (or nearer, if the fingers have yet to open or close). The first ones have seeds from 80000 on, for
choosing settings; the others have seeds from 85000 on, for showing results.

example:
  vjepa-ac problems make --out models/panda-sim/problems.npz
"""
CURVE = """\
Everything searches in the space of one preset, so that energies can be compared. Optimisers are run at
every budget, presets as they are. A gradient counts three evaluations.

examples:
  vjepa-ac problems curve --limit 20
  vjepa-ac problems curve --with-reference --json curve.json --plot curve.svg    (hours on a CPU)
"""


def add_parser(commands: Any) -> None:
    """Add ``problems`` and what belongs to it."""
    problems = group(commands, "problems", "compare optimisers on stored planning problems")
    make = command(problems, "make", run_make, "make planning problems in the simulator", MAKE)
    make.add_argument("--out", type=output_file, required=True, metavar="FILE", help="file to write (.npz)")
    make.add_argument(
        "--tuning", type=at_least(1), default=45, metavar="N", help="for choosing (default: %(default)s)"
    )
    make.add_argument(
        "--showing", type=at_least(1), default=105, metavar="N", help="for showing (default: %(default)s)"
    )
    make.add_argument(
        "--size", type=at_least(16), default=192, metavar="PIXELS", help="image side (default: %(default)s)"
    )
    curve = command(problems, "curve", run_curve, "energy reached against evaluations spent", CURVE)
    add_model(curve)
    curve.add_argument("--problems", type=Path, metavar="FILE", help="(default: the package's own)")
    curve.add_argument(
        "--part", choices=("tuning", "showing"), default="showing", help="(default: %(default)s)"
    )
    curve.add_argument("--limit", type=at_least(1), metavar="N", help="only the first N problems")
    curve.add_argument(
        "--names", nargs="+", metavar="NAME", help="optimisers and presets (default: all optimisers)"
    )
    curve.add_argument("--budgets", nargs="+", type=at_least(1), metavar="N", help="evaluations per plan")
    curve.add_argument("--reference", default="paper", metavar="PRESET", help="(default: %(default)s)")
    curve.add_argument("--with-reference", action="store_true", help="run the reference too, and compare")
    curve.add_argument("--seed", type=at_least(0), default=0, help="of the searches (default: %(default)s)")
    curve.add_argument("--plot", type=output_file, metavar="FILE", help="write the chart to FILE as SVG")
    add_json(curve, "the curve")


def run_make(args: argparse.Namespace) -> int:
    """Make and store them."""
    from vjepa_ac_planner.bench.problems import SHOWING, TUNING, save_problems
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig

    seeds = (*TUNING[: args.tuning], *SHOWING[: args.showing])
    with PandaSim(SimConfig(width=args.size, height=args.size)) as sim:
        problems = list(make_problems(seeds, sim))
    save_problems(args.out, problems)
    say(f"{counted(len(problems), 'problem')}, {args.out.stat().st_size / 1e6:.1f} MB: {args.out}")
    return 0


def run_curve(args: argparse.Namespace) -> int:
    """Run, print, and write."""
    from vjepa_ac_planner.bench import curve
    from vjepa_ac_planner.bench.problems import SHOWING, TUNING, load_problems
    from vjepa_ac_planner.world_model import WorldModel

    problems = load_problems(args.problems, TUNING if args.part == "tuning" else SHOWING)[: args.limit]
    result = curve.quality_curve(
        WorldModel.load(args.model, device=args.device, dtype=args.dtype),
        problems,
        args.names or curve.OPTIMISERS,
        args.budgets or curve.BUDGETS,
        args.seed,
        reference=args.reference,
        with_reference=args.with_reference,
        progress=lambda done, of: say(f"[{done}/{of}]"),
    )
    rows = [
        [
            run["name"],
            f"{run['evaluations']:.0f}",
            f"{run['median_energy']:.5f}",
            f"{100 * run['excess']:.2g} %",
            f"{1e3 * run['seconds']:.0f} ms",
        ]
        for run in result["runs"]
    ]
    header = ["", "evaluations", "median energy", "above the best", "search"]
    say(f"{counted(len(problems), 'problem')}; standing still: {result['zero_energy']:.5f}")
    say(table(rows, header))
    if args.json:
        write_json(args.json, result)
    if args.plot:
        curve.plot_curve(result, args.plot)
    return 0


def make_problems(seeds: tuple[int, ...], sim: PandaSim) -> Iterator[Problem]:
    """One problem per seed, the same every time."""
    from vjepa_ac_planner.sim.tasks import make_task

    for seed in seeds:
        yield _on_the_way(make_task(KINDS[seed % len(KINDS)], seed, sim), sim)


def _on_the_way(task: Task, sim: PandaSim) -> Problem:
    """A moment of the scripted solution, before one of its goals."""
    import numpy as np

    from vjepa_ac_planner.bench.problems import Problem
    from vjepa_ac_planner.sim.safety import Guarded
    from vjepa_ac_planner.types import RobotState

    rng = np.random.default_rng([task.seed, 4])
    task.begin(sim)
    arm, way = Guarded(sim), [(sim.snapshot(), sim.state())]
    for target in task.oracle(sim):
        arm.move(target)
        way.append((sim.snapshot(), sim.state()))
    number = int(rng.integers(len(task.goals)))
    goal = task.goal_states[number]
    # The solution is the one that made the goal images: its states are theirs.
    reached = int(np.argmin([np.abs(state - goal).sum() for _, state in way]))
    fits = [(snapshot, state) for snapshot, state in way[:reached] if _worth_planning(state, goal)]
    # A distance drawn at random, so that near ones are not all of the long way's end.
    wanted = rng.uniform(0.01, 0.30)
    snapshot, state = min(fits or way[:1], key=lambda moment: abs(_distance(moment[1], goal) - wanted))
    sim.restore(snapshot)
    frame = sim.observe().frame
    return Problem(
        frame, RobotState(state), task.goals[number].frame, task.seed, task.name, _distance(state, goal)
    )


def _worth_planning(state: Any, goal: Any) -> bool:
    return 0.01 <= _distance(state, goal) <= 0.30 or abs(float(state[6] - goal[6])) > 0.2


def _distance(state: Any, goal: Any) -> float:
    import numpy as np

    return float(np.linalg.norm(state[:3] - goal[:3]))
