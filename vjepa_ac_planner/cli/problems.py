"""``vjepa-ac problems``: make the planning problems on which optimisers are judged, in the simulator."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import at_least, command
from vjepa_ac_planner.cli.console import say

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
DETAILS = """\
One problem per seed: somewhere on the scripted way to a goal image of the seed's task, 1 to 30 cm away
from it (or nearer, if the fingers have yet to open or close). The first half has seeds from 80000 on, for
choosing settings; the second half has seeds from 85000 on, for showing results.

example:
  vjepa-ac problems --out models/panda-sim/problems.npz
"""


def add_parser(commands: Any) -> None:
    """Add ``problems``."""
    parser = command(commands, "problems", run, "make planning problems for benchmarks", DETAILS)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write (.npz)")
    parser.add_argument(
        "--tuning", type=at_least(1), default=50, metavar="N", help="for choosing (default: %(default)s)"
    )
    parser.add_argument(
        "--showing", type=at_least(1), default=120, metavar="N", help="for showing (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=at_least(16), default=192, metavar="PIXELS", help="image side (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Make and store them."""
    from vjepa_ac_planner.bench.problems import SHOWING, TUNING, save_problems
    from vjepa_ac_planner.sim.panda import PandaSim, SimConfig

    seeds = (*TUNING[: args.tuning], *SHOWING[: args.showing])
    with PandaSim(SimConfig(width=args.size, height=args.size)) as sim:
        problems = list(make_problems(seeds, sim))
    save_problems(args.out, problems)
    say(f"{len(problems)} problems, {args.out.stat().st_size / 1e6:.1f} MB: {args.out}")
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
