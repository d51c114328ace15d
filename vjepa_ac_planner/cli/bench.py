"""``vjepa-ac bench``: how fast plans are made here, beside the device's best and the public reference."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vjepa_ac_planner.cli.arguments import add_json, add_model, at_least, command, output_file
from vjepa_ac_planner.cli.console import replacing, say, table, write_json
from vjepa_ac_planner.errors import InputError, counted

DETAILS = """\
Figures of one run are taken in turn on the same machine, so their ratios can be trusted even where the
figures themselves depend on what else is running. docs/performance.md says what each of them means.

examples:
  vjepa-ac bench --quick
  vjepa-ac bench --json bench.json --plot bench.svg
  vjepa-ac bench --reference ../vjepa2 --only engine ratio
  vjepa-ac bench --full-size --device cuda --json gpu.json     the whole table of a GPU
  vjepa-ac bench --only profile --samples 64
  vjepa-ac bench --reference ../vjepa2 --only ratio --cpu-time   on a machine that is busy
"""


def add_parser(commands: Any) -> None:
    """Add ``bench``."""
    parser = command(commands, "bench", run, "measure planning speed on this machine", DETAILS)
    add_model(parser)
    parser.add_argument(
        "--full-size",
        action="store_true",
        help="the published architecture with random weights, in place of --model",
    )
    parser.add_argument(
        "--untrained", action="store_true", help="random weights in place of the model's own"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="let torch.compile fuse the networks (default: on a GPU)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer figures, in less than 50 s")
    parser.add_argument(
        "--seconds", type=at_least(5), help="about how long to measure (default: 300, with --quick 40)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="PATH",
        help="a checkout of github.com/facebookresearch/vjepa2, to time beside ours",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SECTION",
        help="engine, encoder, ratio, presets, curve, scaling, variants, profile, targets "
        "(default: the first six, and with --full-size the last)",
    )
    parser.add_argument(
        "--samples", type=at_least(2), help="candidates at a time (default: what the time is enough for)"
    )
    parser.add_argument(
        "--horizon", type=at_least(1), nargs="+", help="horizons of the engine (default: 1 2 4 8)"
    )
    parser.add_argument("--preset", nargs="+", metavar="NAME", help="presets to time (default: all)")
    parser.add_argument(
        "--plans", type=at_least(1), default=20, help="plans of each preset, at most (default: %(default)s)"
    )
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="engine, encoder and ratio in CPU seconds of one thread, not in wall time: for a machine that "
        "others use too",
    )
    add_json(parser, "the figures")
    parser.add_argument("--plot", type=output_file, metavar="FILE", help="draw the scaling to FILE as SVG")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    begun = clock()  # importing torch takes seconds too
    import torch

    from vjepa_ac_planner.bench import run as bench

    if args.cpu_time:
        _require_one_cpu_thread(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    sections = bench.USUAL + (("targets",) if args.full_size else ())
    chosen = tuple(args.only or sections)
    if args.plot and "scaling" not in chosen:
        raise InputError("--plot: draws the section scaling, which --only leaves out; add it there")
    if "ratio" in (args.only or ()) and args.reference is None:
        raise InputError(
            "--only ratio: compares with the reference; add --reference PATH, a checkout of "
            "github.com/facebookresearch/vjepa2"
        )
    config = bench.BenchConfig(
        model=bench.FULL_SIZE if args.full_size else args.model,
        device=args.device,
        dtype=args.dtype,
        untrained=args.untrained or args.full_size,
        compile=args.compile,
        quick=args.quick,
        seconds=args.seconds or (bench.QUICK_SECONDS if args.quick else bench.SECONDS),
        sections=chosen,
        reference=args.reference,
        samples=args.samples,
        horizons=tuple(args.horizon or (1, 2, 4, 8)),
        presets=tuple(args.preset) if args.preset else None,
        plans=args.plans,
    )
    record = bench.Bench(config, say=say, clock=clock, begun=begun).run()
    record["clock"] = "cpu" if args.cpu_time else "wall"
    for line in lines(record):
        say(line)
    if args.json:
        write_json(args.json, record)
    if args.plot and "scaling" in record["skipped"]:
        say(f"{args.plot}: not drawn, since no time was left for the scaling")
    elif args.plot:
        with replacing(args.plot) as path:
            bench.plot(record, path)
    return 0


def _require_one_cpu_thread(args: argparse.Namespace) -> None:
    """Several threads' seconds add up, a GPU's are not among them, and plans are about wall time."""
    from vjepa_ac_planner.world_model import choose_device

    if not args.only or set(args.only) - {"engine", "encoder", "ratio"}:
        raise InputError("--cpu-time: measures engine, encoder and ratio; name some of them with --only")
    if args.threads not in (None, 1):
        raise InputError(f"--cpu-time: counts one thread; received --threads {args.threads}")
    if choose_device(args.device).type != "cpu":
        raise InputError("--cpu-time: counts the CPU's seconds only; add --device cpu")
    args.threads = 1


def lines(record: dict[str, Any]) -> list[str]:
    """The record as text: one block for each section that was measured."""
    environment = record["environment"]
    peaks = ", ".join(f"{name} {_flops(t)}" for name, t in record["matmul_tflops"].items())
    found = [
        "",
        f"{record['model']} ({record['weights']} weights), {record['dtype']}, on {environment['device']}",
        f"torch {environment['torch']}; matrix products here: {peaks}",
    ]
    blocks: dict[str, Callable[[Any], list[str]]] = {
        "engine": _engine,
        "encoder": _encoder,
        "presets": _presets,
        "reference": _reference,
        "scaling": _scaling,
        "curve": _curve,
        "variants": _variants,
        "profile": _profile,
        "targets": _targets,
    }
    for name, block in blocks.items():
        if record.get(name):
            found += ["", *block(record[name])]
    for name in ("presets", "curve"):
        if record.get(f"{name}_note"):
            found += ["", f"{name}: {record[f'{name}_note']}"]
    if record["skipped"]:
        found += ["", f"no time was left for: {', '.join(record['skipped'])} (see --seconds)"]
    total = f"{record['seconds']:.0f} s in all"
    if record.get("clock") == "cpu":
        total += "; all times are CPU seconds of one thread"
    return [*found, "", total]


def _engine(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            horizon,
            dtype,
            str(row["samples"]),
            f"{row['candidates_per_s']:.4g}",
            f"{row['candidate_steps_per_s']:.4g}",
            _flops(row["tflops"]),
            f"{row['percent_of_peak']:.0f} %",
            f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        ]
        for horizon, dtypes in section["by_horizon"].items()
        for dtype, row in dtypes.items()
    ]
    header = ["horizon", "dtype", "at a time", "candidates/s", "steps/s", "", "of peak", "peak memory"]
    return ["engine", table(rows, header)]


def _encoder(row: dict[str, Any]) -> list[str]:
    speed = f"{_flops(row['tflops'])}, {row['percent_of_peak']:.0f} % of peak"
    return [f"encoder: {_ms(row['p50_s'])} a frame (p95 {_ms(row['p95_s'])}), {speed}"]


def _presets(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            name,
            str(row["horizon"]),
            str(row["evaluations"]),
            _ms(row["p50_s"]),
            _ms(row["p95_s"]),
            "estimated from the engine" if row["estimated"] else f"{row['plans']} plans",
        ]
        for name, row in section.items()
    ]
    return ["whole plans", table(rows, ["preset", "horizon", "evaluations", "p50", "p95", ""])]


def _reference(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            str(row["horizon"]),
            str(row["samples"]),
            *(_ms(seconds) for seconds in row["seconds"].values()),
            *(f"{ratio:.2f}x" for ratio in row["equal_dtype"].values()),
        ]
        for row in (*section["rows"], *section["by_samples"])
    ]
    full = len(section["rows"])
    names = [*section["rows"][0]["seconds"], *section["rows"][0]["equal_dtype"]]
    blocks = [table(rows[:full], ["horizon", "candidates", *names])]
    if section["by_samples"]:
        row = section["by_samples"][0]
        blocks.append(table(rows[full:], ["horizon", "candidates", *row["seconds"], *row["equal_dtype"]]))
    difference = section["difference"]
    headline = ", ".join(f"H={h}: {r:.2f}x" for h, r in section["ratio"].items())
    return [
        f"beside the reference ({section['headline']}): {headline}",
        f"  largest difference in float32: predictions {difference['prediction']:.1e}, "
        f"actions of one iteration of CEM {difference['action']:.1e}",
        *blocks,
    ]


def _scaling(section: dict[str, Any]) -> list[str]:
    found = []
    keys = {"samples": "samples", "image_tokens": "tokens", "devices": "device", "threads": "threads"}
    for name, rows in section.items():
        cells = [
            [str(r[keys[name]]), f"{r['candidates_per_s']:.4g}", f"{r['percent_of_peak']:.0f} %"]
            for r in rows
        ]
        if cells:
            header = [name.replace("_", " "), "candidates/s", "of peak"]
            found += [table(cells, header), ""]
    return ["scaling, horizon 1", *found[:-1]]


def _curve(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            run["name"],
            f"{run['evaluations']:.0f}",
            f"{run['median_energy']:.4f}",
            f"{100 * run['excess']:.2g} %",
            _ms(run["seconds"]),
        ]
        for run in section["runs"]
    ]
    header = ["optimiser", "evaluations", "median energy", "above the best", "a search"]
    return [f"quality against budget, {counted(section['problems'], 'problem')}", table(rows, header)]


def _variants(section: dict[str, float]) -> list[str]:
    return [
        "horizon 4: "
        f"uncached over cached {section['uncached_over_cached']:.2f}x, "
        f"bfloat16 over float32 {section['bfloat16_over_float32']:.2f}x in time"
    ]


def _profile(section: dict[str, dict[str, float]]) -> list[str]:
    groups = list(next(iter(section.values())))
    rows = [
        [
            group,
            *(f"{_ms(row[group])} ({100 * row[group] / row['total']:.0f} %)" for row in section.values()),
        ]
        for group in groups
    ]
    return ["where the time goes", table(rows, ["", *section])]


def _targets(section: list[dict[str, Any]]) -> list[str]:
    words = {True: "met", False: "missed", None: "-"}
    rows = [
        [
            row["name"],
            "-" if row["value"] is None else f"{row['value']:.3g} {row['unit']}",
            f"{row['target']} {row['unit']}",
            words[row["met"]],
            row["note"],
        ]
        for row in section
    ]
    return ["targets", table(rows, ["", "measured", "target", "", ""])]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _flops(tera: float) -> str:
    return f"{tera:.1f} TFLOP/s" if tera >= 1 else f"{tera * 1e3:.0f} GFLOP/s"
