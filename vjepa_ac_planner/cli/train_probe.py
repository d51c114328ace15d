"""``vjepa-ac train probe``: what the latents of a model hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vjepa_ac_planner.cli.arguments import (
    DEFAULT_MODEL,
    add_json,
    add_set,
    at_least,
    command,
    output_folder,
    set_options,
)
from vjepa_ac_planner.cli.console import say, table, write_json

DETAILS = """\
Two attentive probes learn from labels what the frozen encoder tells: one where hand, fingers and (in play
data of the simulator) cup and box are, the other whether a frame shows what a goal frame shows, with the
hand within 2 cm, the fingers within 0.15 and objects within 2.5 cm. The model is not changed. The second
can end a run: vjepa_ac_planner.training.probe.TaskDone.

example:
  vjepa-ac train probe --data runs/contact --test runs/contact-held-out --out runs/probes
"""


def add_parser(train: Any) -> None:
    """Add ``probe``."""
    parser = command(train, "probe", run, "ask a model's latents where things are", DETAILS)
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="whose encoder (default: %(default)s)"
    )
    for option, kind, text in (
        ("--data", Path, "play data, or imported data, to learn from"),
        ("--test", Path, "other such data, to judge by"),
        ("--out", output_folder, "gets the probes and their checkpoints; an interrupted run goes on"),
    ):
        parser.add_argument(option, type=kind, required=True, metavar="DIR", help=text)
    add_set(parser, "options of the probes, such as depth=2 loop.iterations=300")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's choice)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    """Train both probes and print what they tell."""
    import torch

    from vjepa_ac_planner.config import from_mapping
    from vjepa_ac_planner.training.probe import ProbeConfig
    from vjepa_ac_planner.training.probing import probe_model
    from vjepa_ac_planner.world_model import WorldModel

    if args.threads:
        torch.set_num_threads(args.threads)
    config = from_mapping(ProbeConfig, set_options(args.options), "--set")
    model = WorldModel.load(args.model, device="cpu", dtype="float32")
    figures = probe_model(model, config, args.data, args.test, args.out)
    say(table([[name, f"{value:.4g}"] for name, value in figures.items()]))
    if args.json:
        write_json(args.json, {"model": model.description.name, **figures})
    return 0
