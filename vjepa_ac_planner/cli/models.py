"""``vjepa-ac models``: which models there are, what they are, and bringing published weights in place."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import add_json, command, group
from vjepa_ac_planner.cli.console import complain, say, table, write_json
from vjepa_ac_planner.errors import CheckpointError, PlannerError

if TYPE_CHECKING:
    from vjepa_ac_planner.models import ModelFiles

CONVERT = """\
Only tensors that the model uses are kept, one at a time, so little memory is needed: the published file of
11.8 GB becomes 2.6 GB in bfloat16. Files that hold anything but tensors are refused: reading them could run
code. The result appears only when complete, in your own model folder unless --out says otherwise.

--encoder is for a predictor that comes without its encoder. facebook/vjepa2-vitg-fpc64-256 on Hugging Face
is the encoder as it was trained; V-JEPA 2-AC was trained on latents of its running average, target_encoder,
which the published file holds. The two are not the same: prefer the published one.

examples:
  vjepa-ac models convert vjepa2-ac-vitg ~/Downloads/vjepa2-ac-vitg.pt
  vjepa-ac models convert vjepa2-ac-vitg predictor.pt --encoder ~/vjepa2-vitg-fpc64-256 --dtype float32
"""


def add_parser(commands: Any) -> None:
    """Add ``models`` and what belongs to it."""
    models = group(commands, "models", "list, describe, convert and verify models")
    listing = command(models, "list", run_list, "list the models that can be named")
    add_json(listing, "the list")
    info = command(models, "info", run_info, "say what a model is, and where its files are")
    info.add_argument("name", metavar="NAME", help="a model's name, folder, description or weights file")
    add_json(info, "the description")
    convert = command(
        models, "convert", run_convert, "strip a published checkpoint to safetensors", CONVERT
    )
    convert.add_argument("name", metavar="NAME", help="the model that the file belongs to")
    convert.add_argument(
        "source", metavar="FILE", type=Path, help="published checkpoint (.pt) or safetensors"
    )
    convert.add_argument(
        "--encoder",
        metavar="PATH",
        type=Path,
        help="take the encoder from Hugging Face weights; see below why not",
    )
    convert.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="(default: %(default)s)"
    )
    convert.add_argument("--out", metavar="FILE", type=Path, help="safetensors file to write")
    verify = command(
        models, "verify", run_verify, "load a model and check that it computes (exit code 1 if not)"
    )
    verify.add_argument("name", metavar="NAME", help="a model's name, folder, description or weights file")
    verify.add_argument("--device", default="cpu", help="(default: %(default)s)")
    add_json(verify, "the result")


def run_list(args: argparse.Namespace) -> int:
    """One line per model."""
    from vjepa_ac_planner.models import list_models

    found = list_models()
    rows = [
        [
            files.description.name,
            f"{files.description.image_size} px",
            "ready" if files.weights else "no weights",
            files.description.summary,
        ]
        for files in found
    ]
    say(table(rows, ["name", "image", "weights", "what it is"], indent="") if rows else "no models found")
    if args.json:
        write_json(args.json, {"models": [_record(files) for files in found]})
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Everything about one model."""
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.nn import checkpoint

    files = find_model(args.name)
    description = files.description
    parts = checkpoint.build(description.encoder, description.predictor)
    encoder, predictor = (sum(p.numel() for p in part.parameters()) for part in parts)
    grid = "x".join(map(str, description.predictor.grid))
    rows = [
        ["name", description.name],
        ["summary", description.summary],
        ["image", f"{description.image_size} x {description.image_size} pixels"],
        ["latent", f"{description.tokens} tokens ({grid}) of {description.latent_dim}"],
        ["encoder", f"{encoder / 1e6:.1f} M parameters"],
        ["predictor", f"{predictor / 1e6:.1f} M parameters"],
        ["step", f"{description.step_seconds:g} s, state of {description.ee_frame}"],
        ["preset", description.preset],
        ["limits", description.limits or "-"],
        ["license", description.license],
        ["source", description.source.checkpoint or description.source.code or "-"],
        ["description", str(files.path)],
        [
            "weights",
            str(files.weights) if files.weights else "not there; see `vjepa-ac models convert --help`",
        ],
    ]
    say(table(rows, indent=""))
    if args.json:
        write_json(
            args.json, {**_record(files), "parameters": {"encoder": encoder, "predictor": predictor}}
        )
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write the stripped weights where the model is looked for."""
    import torch

    from vjepa_ac_planner.models import find_model, user_folder
    from vjepa_ac_planner.nn import checkpoint

    description = find_model(args.name).description
    target = args.out or user_folder() / description.weights
    say(f"Converting {args.source} to {args.dtype} ...")
    begin = time.perf_counter()
    note = checkpoint.convert(
        args.source,
        target,
        description.encoder,
        description.predictor,
        getattr(torch, args.dtype),
        args.encoder,
    )
    say(f"{target}: {target.stat().st_size / 1e9:.2f} GB in {time.perf_counter() - begin:.0f} s")
    if note:
        complain(f"vjepa-ac: warning: {note}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Names, shapes, finite values, and one encoding with one imagined step."""
    import numpy as np
    import torch

    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.types import Frame
    from vjepa_ac_planner.world_model import WorldModel

    files = find_model(args.name)
    begin = time.perf_counter()
    try:
        model = WorldModel.load(args.name, device=args.device)
        size = model.description.image_size
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        latent = model.encode([Frame(image)])[0]
        imagined, _ = model.rollout(latent, torch.zeros(7), torch.zeros(1, 1, 7))
        if not (latent.isfinite().all() and imagined.isfinite().all()):
            raise CheckpointError(f"{files.weights}: the model computes NaN or infinite latents")
    except CheckpointError as error:
        return _verdict(args, files, error)
    seconds = time.perf_counter() - begin
    name = files.description.name
    say(f"{name}: every tensor is there and fits; it encodes and imagines ({seconds:.1f} s)")
    return _verdict(args, files, None)


def _verdict(args: argparse.Namespace, files: ModelFiles, error: PlannerError | None) -> int:
    if error is not None:
        complain(f"vjepa-ac: check failed: {error}")
    if args.json:
        problem = None if error is None else str(error)
        write_json(args.json, {**_record(files), "ok": error is None, "problem": problem})
    return 0 if error is None else 1


def _record(files: ModelFiles) -> dict[str, Any]:
    from vjepa_ac_planner.config import to_mapping

    record: dict[str, Any] = to_mapping(files.description)
    return {**record, "path": files.path, "weights_file": files.weights}
