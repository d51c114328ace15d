"""``vjepa-ac train realign``: a small model's encoder for another camera."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from vjepa_ac_planner.cli.arguments import DEFAULT_MODEL, add_json, at_least, command, output_folder
from vjepa_ac_planner.cli.console import say, write_json

DETAILS = """\
Where `vjepa-ac train finetune` reports a low ranking, the encoder does not suit the view. A small encoder
can be aligned with it in minutes, from the same recordings and without labels. The predictor is then
fine-tuned on the model that this writes.

example:
  vjepa-ac train realign --model panda-sim --data my-data --run runs/encoder --out models/my-encoder
  vjepa-ac train finetune --model models/my-encoder --data my-data --out runs/my-arm
"""


def add_parser(train: Any) -> None:
    """Add ``realign``."""
    parser = command(train, "realign", run, "align a small model's encoder with another camera", DETAILS)
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="to begin with (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="imported training data, or play data"
    )
    parser.add_argument(
        "--run",
        type=output_folder,
        required=True,
        metavar="DIR",
        help="checkpoints; an interrupted run goes on",
    )
    parser.add_argument(
        "--out", type=output_folder, required=True, metavar="DIR", help="model folder to write"
    )
    parser.add_argument(
        "--test", type=Path, metavar="DIR", help="data to judge by (default: a part of --data is held back)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="how to align (default: config/training/realign.yaml)"
    )
    parser.add_argument("--iterations", type=at_least(1), metavar="N", help="optimiser steps")
    parser.add_argument("--lr", type=float, metavar="RATE", help="learning rate")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's choice)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    """Align, and print figures before and after."""
    import torch

    from vjepa_ac_planner.config import load_yaml
    from vjepa_ac_planner.planning.presets import config_file
    from vjepa_ac_planner.training.realign import realign, realignment

    if args.threads:
        torch.set_num_threads(args.threads)
    path = args.config or config_file("training/realign.yaml")
    config = realignment(args.model, load_yaml(path), str(path))
    given = {"iterations": args.iterations, "lr": args.lr}
    loop = dataclasses.replace(
        config.loop, **{name: value for name, value in given.items() if value is not None}
    )
    before, after = realign(
        dataclasses.replace(config, loop=loop), args.data, args.run, args.out, args.test
    )
    for name, figures in (("before", before), ("after", after)):
        line = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
        say(f"{name + ':':<8}{line}")
    say(f"{args.out}: written; fine-tune its predictor next")
    if args.json:
        write_json(args.json, {"before": before, "after": after})
    return 0
