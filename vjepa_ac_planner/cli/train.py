"""``vjepa-ac train``: a small model from nothing, or one fine-tuned on your own recordings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli import train_finetune, train_import, train_probe, train_realign
from vjepa_ac_planner.cli.arguments import (
    add_json,
    add_set,
    at_least,
    command,
    group,
    output_folder,
    set_options,
)
from vjepa_ac_planner.cli.console import complain, say, table, write_json
from vjepa_ac_planner.cli.scene import add_scene, scene_options
from vjepa_ac_planner.errors import CheckpointError, ConfigError, InputError

if TYPE_CHECKING:
    from vjepa_ac_planner.training.recipe import Recipe

TRAIN = """\
Your own data (docs/fine-tune.md):
  vjepa-ac train import recordings/ --out my-data --model vjepa2-ac-vitg
  vjepa-ac train finetune --model vjepa2-ac-vitg --data my-data --out runs/my-arm
  vjepa-ac train export --run runs/my-arm --out models/my-arm

"""
STAGES = """\
From nothing, in the simulator: the whole way, each step resumable by the same command:
  vjepa-ac train collect --out runs/play
  vjepa-ac train collect --out runs/held-out --episodes 200 --seed 90000
  vjepa-ac train encoder
  vjepa-ac train alignment
  vjepa-ac train predictor
  vjepa-ac train evaluate
  vjepa-ac train export --out models/panda-sim
"""


def add_parser(commands: Any) -> None:
    """Add ``train`` and its stages."""
    train = group(
        commands, "train", "fine-tune on your own data, or train a small model from nothing", TRAIN + STAGES
    )
    train_import.add_parser(train)
    train_finetune.add_parsers(train)
    train_realign.add_parser(train)
    train_probe.add_parser(train)
    collect = command(train, "collect", run_collect, "collect play data in the simulator", STAGES)
    collect.add_argument(
        "--config", type=Path, metavar="FILE", help="what to collect (default: the shipped one)"
    )
    collect.add_argument(
        "--out", type=output_folder, required=True, metavar="DIR", help="finished parts in it are kept"
    )
    collect.add_argument(
        "--episodes", type=at_least(1), help="number of episodes (default: the configuration's)"
    )
    collect.add_argument(
        "--seed", type=at_least(0), help="first seed, below 100000 (default: the configuration's)"
    )
    collect.add_argument("--processes", type=at_least(1), help="(default: the configuration's)")
    add_scene(collect)
    for name, summary in (
        ("encoder", "stage 1: pre-train the encoder by mask-denoising"),
        ("alignment", "stage 2: align the latents of the encoder with the motion of the robot"),
        ("predictor", "stage 3: the predictor on the frozen encoder"),
    ):
        _add_run(command(train, name, run_stage, summary, STAGES)).set_defaults(stage=name)
    evaluate = command(
        train, "evaluate", run_evaluate, "figures on held-out episodes beside baselines", STAGES
    )
    add_json(_add_run(evaluate), "the figures")
    export = command(
        train, "export", run_export, "write the model folder, if its figures are good enough", STAGES
    )
    _add_run(export).add_argument(
        "--out", type=output_folder, required=True, metavar="DIR", help="such as models/panda-sim"
    )
    export.add_argument("--force", action="store_true", help="write it whatever its figures say")


def _add_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Where recipe, data and results are."""
    for option, default, text in (
        ("--data", "runs/play", "play data to train on"),
        ("--test", "runs/held-out", "play data for the figures"),
        ("--run", "runs/panda-sim", "checkpoints and metrics; an interrupted stage goes on from there"),
    ):
        parser.add_argument(
            option, type=Path, default=Path(default), metavar="DIR", help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="sizes and stages (default: panda-sim's)"
    )
    add_set(parser, "values of the recipe, the same for every stage, such as episodes=150")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's choice)")
    return parser


def run_collect(args: argparse.Namespace) -> int:
    """Simulate episodes into a folder."""
    from vjepa_ac_planner.config import from_mapping, load_yaml
    from vjepa_ac_planner.planning.presets import config_file
    from vjepa_ac_planner.sim.collect import CollectConfig, collect

    path = args.config or config_file("training/collect.yaml")
    given = {"episodes": args.episodes, "first_seed": args.seed, "processes": args.processes}
    options = load_yaml(path) | {key: value for key, value in given.items() if value is not None}
    if args.scene and options.get("views"):
        raise ConfigError(f"--scene: {path} lists views of its own; leave one of the two out")
    options["sim"] = {**options.get("sim", {}), **scene_options(args.scene)}
    manifest = collect(from_mapping(CollectConfig, options, str(path)), args.out)
    say(f"{manifest}")
    return 0


def run_stage(args: argparse.Namespace) -> int:
    """Train one stage."""
    from vjepa_ac_planner.training import stages

    recipe = _prepare(args)
    if args.stage == "encoder":
        stages.run_encoder(recipe, args.data, args.run)
    elif args.stage == "alignment":
        stages.run_alignment(recipe, args.data, args.test, args.run)
    else:
        stages.run_predictor(recipe, args.data, args.test, args.run)
    say(f"{args.run / args.stage}: done")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Print the figures; exit code 1 if they do not accept the model."""
    _require_run(args.run)
    from vjepa_ac_planner.training.export import acceptance
    from vjepa_ac_planner.training.stages import run_evaluate

    figures = run_evaluate(_prepare(args), args.test, args.run)
    _say_figures(figures)
    refused = acceptance(figures)
    if args.json:
        write_json(args.json, {**figures, "accepted": not refused, "refused": refused})
    for reason in refused:
        complain(f"vjepa-ac: not accepted: {reason}")
    return 1 if refused else 0


def run_export(args: argparse.Namespace) -> int:
    """Evaluate and write the model folder; exit code 1 if the model is not accepted."""
    if (args.run / "run.json").is_file():
        return train_finetune.run_export(args)
    _require_run(args.run)
    from vjepa_ac_planner.training.stages import run_export

    try:
        figures = run_export(_prepare(args), args.test, args.run, args.out, force=args.force)
    except CheckpointError as error:
        complain(f"vjepa-ac: {error}")
        return 1
    _say_figures(figures)
    say(f"{args.out}: written")
    return 0


def _require_run(run: Path) -> None:
    if not (run / "predictor").is_dir():
        raise InputError(
            f"no run in {run}: it has neither run.json (of `vjepa-ac train finetune`) nor predictor/ (of "
            "`vjepa-ac train predictor`); name one with --run"
        )


def _prepare(args: argparse.Namespace) -> Recipe:
    import torch

    from vjepa_ac_planner.planning.presets import config_file
    from vjepa_ac_planner.training.recipe import load_recipe

    if args.threads:
        torch.set_num_threads(args.threads)
    return load_recipe(args.recipe or config_file("training/panda-sim.yaml"), set_options(args.options))


def _say_figures(figures: dict[str, Any]) -> None:
    rows = [
        [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in figures.items()
    ]
    say(table(rows))
