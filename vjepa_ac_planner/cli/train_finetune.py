"""``vjepa-ac train finetune`` and ``train bench``: a predictor on your own data, and what that costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.cli.arguments import DEFAULT_MODEL, add_json, at_least, command, output_folder
from vjepa_ac_planner.cli.console import complain, say, table, write_json
from vjepa_ac_planner.errors import CheckpointError

if TYPE_CHECKING:
    from vjepa_ac_planner.training.finetune import FinetuneConfig

SMALL = 512
"""Widest predictor that a CPU trains, by ``finetune-small.yaml`` unless another file is given."""

FINETUNE = """\
The encoder stays frozen; its latents are cached beside the data. An interrupted run goes on with the same
command. The weights that predict held-out clips best are kept; `vjepa-ac train export` makes a model of
them. docs/fine-tune.md is the guide.

examples:
  vjepa-ac train finetune --model vjepa2-ac-vitg --data my-data --out runs/my-arm --estimate
  vjepa-ac train finetune --model vjepa2-ac-vitg --data my-data --out runs/my-arm
  vjepa-ac train export --run runs/my-arm --out models/my-arm
  accelerate launch --multi_gpu --num_processes 4 -m vjepa_ac_planner train finetune ...   (the same)
"""

BENCH = """\
Optimiser steps of a new predictor on random latents: what training costs on this machine, without data or
weights. Without options, the published predictor with the shipped configuration.

examples:
  vjepa-ac train bench --device cuda --batch 256 --micro-batch 32 --json train.json
  vjepa-ac train bench --model panda-sim
  vjepa-ac train bench --batch 1 --micro-batch 1 --precision float32 --steps 1     one full-size step
"""


def add_parsers(train: Any) -> None:
    """Add ``finetune`` and ``bench``."""
    finetune = command(train, "finetune", run_finetune, "fine-tune a predictor on your own data", FINETUNE)
    finetune.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="to begin with (default: %(default)s)"
    )
    finetune.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="made by `vjepa-ac train import`"
    )
    finetune.add_argument(
        "--test", type=Path, metavar="DIR", help="data to judge by (default: a part of --data is held back)"
    )
    finetune.add_argument(
        "--out", type=output_folder, required=True, metavar="DIR", help="folder of the run"
    )
    finetune.add_argument(
        "--cache",
        type=output_folder,
        metavar="DIR",
        help="for latents (default: DIR of --data, in latents/)",
    )
    _add_options(finetune)
    finetune.add_argument(
        "--encoder-dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="precision of the frozen encoder (default: %(default)s, what suits the device)",
    )
    finetune.add_argument(
        "--encode-batch",
        type=at_least(1),
        default=32,
        metavar="N",
        help="frames encoded at a time (default: %(default)s)",
    )
    finetune.add_argument("--tensorboard", action="store_true", help="write metrics for TensorBoard too")
    finetune.add_argument("--estimate", action="store_true", help="say what it will take, and stop")
    finetune.add_argument("--force", action="store_true", help="begin even if it does not seem to fit")
    add_json(finetune, "estimate and figures")

    bench = command(train, "bench", run_bench, "measure speed and memory of training here", BENCH)
    bench.add_argument(
        "--model",
        default="vjepa2-ac-vitg",
        metavar="NAME",
        help="whose architecture; its weights are not needed (default: %(default)s)",
    )
    _add_options(bench)
    bench.add_argument(
        "--steps", type=at_least(1), default=5, metavar="N", help="steps to time (default: %(default)s)"
    )
    bench.add_argument(
        "--warm-up",
        type=at_least(0),
        default=None,
        metavar="N",
        help="steps before (default: 2, on a CPU 0)",
    )
    add_json(bench, "the figures")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="how to train (default: config/training/finetune.yaml; finetune-small.yaml for small ones)",
    )
    parser.add_argument("--train", choices=("all", "last", "lora", "scratch"), help="what is trained")
    parser.add_argument("--iterations", type=at_least(1), metavar="N", help="optimiser steps")
    parser.add_argument("--lr", type=float, metavar="RATE", help="learning rate")
    parser.add_argument("--batch", type=at_least(1), metavar="N", help="clips per step, over all devices")
    parser.add_argument(
        "--micro-batch", type=at_least(1), metavar="N", help="clips at a time on one device"
    )
    parser.add_argument("--clip-length", type=at_least(2), metavar="N", help="frames of a clip")
    parser.add_argument(
        "--checkpoint-activations",
        action=argparse.BooleanOptionalAction,
        help="less memory for a third more time",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the arithmetic")
    parser.add_argument("--seed", type=at_least(0), metavar="S", help="of batches and new weights")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)"
    )
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's choice)")


def run_finetune(args: argparse.Namespace) -> int:
    """Train; exit code 1 if the result predicts held-out clips no better than the model it began with."""
    import torch

    from vjepa_ac_planner.training.finetune import score
    from vjepa_ac_planner.training.session import Request, Session

    if args.threads:
        torch.set_num_threads(args.threads)
    request = Request(
        model=args.model,
        data=args.data,
        out=args.out,
        config=_config(args),
        test=args.test,
        cache=args.cache,
        device=args.device,
        encoder_dtype=args.encoder_dtype,
        encode_batch=args.encode_batch,
        tensorboard=args.tensorboard,
        force=args.force,
    )
    session = Session(request, say)
    record = session.run(dry_run=args.estimate)
    if not session.main:
        return 0
    if args.json:
        write_json(args.json, record)
    if args.estimate:
        return 0
    say(f"{args.out}: done; make a model of it with: vjepa-ac train export --run {args.out} --out DIR")
    if score(record["after"]) >= score(record["before"]) and request.config.train != "scratch":
        complain("vjepa-ac: held-out clips are predicted no better than before; see docs/fine-tune.md")
        return 1
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Make a model folder of a fine-tuning run; exit code 1 if its figures do not accept it."""
    from vjepa_ac_planner.training.export_finetuned import export_run
    from vjepa_ac_planner.training.session import figures_line

    try:
        figures = export_run(args.run, args.out, force=args.force)
    except CheckpointError as error:
        complain(f"vjepa-ac: {error}")
        return 1
    say("before: " + figures_line(figures["before"]))
    say("after:  " + figures_line(figures["after"]))
    say(f"{args.out}: written; plan with it: --model {args.out}")
    return 0


def run_bench(args: argparse.Namespace) -> int:
    """Time steps, and compare with what was estimated and with the device's best."""
    import torch

    from vjepa_ac_planner.bench.device import matmul_flops, pretty_flops
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.training.throughput import measure
    from vjepa_ac_planner.world_model import choose_device

    if args.threads:
        torch.set_num_threads(args.threads)
    config, device = _config(args), choose_device(args.device)
    predictor = find_model(args.model).description.predictor
    warm_up = args.warm_up if args.warm_up is not None else (2 if device.type == "cuda" else 0)
    peak = matmul_flops(device, torch.bfloat16 if config.precision == "bfloat16" else torch.float32)
    result = measure(config, predictor, device, steps=args.steps, warm_up=warm_up)
    result |= {"device": str(device), "model": args.model, "matmul_flops_per_s": peak}
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    result["options"] = {
        name: getattr(config, name)
        for name in ("train", "batch", "micro_batch", "clip_length", "precision", "checkpoint_activations")
    }
    options = result["options"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{args.model} on {name}: " + ", ".join(f"{key} {value}" for key, value in options.items()))
    rows = [
        [
            "weights",
            f"{result['parameters'] / 1e6:.1f} M, {result['trained_parameters'] / 1e6:.1f} M trained",
        ],
        [
            "step",
            f"{result['step_s']:.3g} s, {result['step_cpu_s']:.3g} s of CPU time (median of {args.steps})",
        ],
        ["clips", f"{result['clips_per_s']:.3g} per second"],
        ["frames", f"{result['frames_per_s']:.3g} per second"],
        [
            "arithmetic",
            f"{pretty_flops(result['model_flops_per_s'])}, {result['model_flops_per_s'] / peak:.0%} of "
            f"{pretty_flops(peak)}",
        ],
        [
            "peak memory",
            f"{result['peak_memory_bytes'] / 1e9:.2f} GB (estimated "
            f"{result['estimated_memory_bytes'] / 1e9:.2f} GB)",
        ],
    ]
    say(table(rows))
    if args.json:
        write_json(args.json, result)
    return 0


def _config(args: argparse.Namespace) -> FinetuneConfig:
    from vjepa_ac_planner.config import from_mapping, load_yaml, merged
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.planning.presets import config_file
    from vjepa_ac_planner.training.finetune import FinetuneConfig

    small = find_model(args.model).description.predictor.dim <= SMALL
    path = args.config or config_file(f"training/finetune{'-small' if small else ''}.yaml")
    loop = {"iterations": args.iterations, "lr": args.lr, "seed": args.seed}
    options = {
        "train": args.train,
        "batch": args.batch,
        "micro_batch": args.micro_batch,
        "clip_length": args.clip_length,
        "checkpoint_activations": args.checkpoint_activations,
        "precision": args.precision,
        "loop": _given(loop),
    }
    values = merged(load_yaml(path), _given(options))
    return from_mapping(FinetuneConfig, values, f"{path} with this command's options")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
