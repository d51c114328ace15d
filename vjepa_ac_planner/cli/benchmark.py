"""What ``vjepa-ac sim eval`` does: trials, resumed where they were stopped, cells, table and films."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from vjepa_ac_planner.cli.arguments import set_options
from vjepa_ac_planner.cli.console import replacing, say, write_json
from vjepa_ac_planner.cli.evaluate import Item, evaluate
from vjepa_ac_planner.cli.scene import scene_options
from vjepa_ac_planner.cli.sim import TASKS, required
from vjepa_ac_planner.cli.trial import Job
from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.models import find_model
from vjepa_ac_planner.sim import table
from vjepa_ac_planner.sim.evaluate import TrialResult, summarise
from vjepa_ac_planner.sim.ledger import Ledger
from vjepa_ac_planner.sim.protocol import PROTOCOLS, Protocol


def run(args: argparse.Namespace) -> int:
    """Run the trials that are missing, and sum all of them up."""
    job = _job(args)
    tasks = TASKS if args.task == "all" else (args.task,)
    seeds = range(args.seed, args.seed + args.trials)
    # All tasks of one seed, then of the next: a run that is stopped has a table too.
    items = [(task, seed) for seed in seeds for task in tasks]
    name = find_model(args.model).description.name
    who = f"policy {args.policy}, model {name}, preset {job.preset}, protocol {args.protocol}"
    say(f"{args.task}, seeds {seeds.start}..{seeds.stop - 1}, {who}")
    begin = time.perf_counter()
    results = {(result.task, result.seed): result for result in _trials(args, job, items)}
    summaries = {task: _summary([results[task, seed] for seed in seeds]) for task in tasks}
    record = {
        "cells": {task: table.cell(summary) for task, summary in summaries.items()},
        "model": name,
        "preset": job.preset,
        "policy": args.policy,
        "protocol": to_mapping(job.protocol),
        "settings": job.settings(),
        "processes": args.processes,
        "command": _command(),
        "seconds": time.perf_counter() - begin,
    }
    say()
    if args.task == "all":
        record |= {"trials": args.trials, "seeds": [seeds.start, seeds.stop - 1]}
    else:
        record = summaries[args.task] | record
        _say_summary(summaries[args.task])
    if args.json:
        write_json(args.json, record)
    if args.out or args.task == "all":
        _conclude(args, job, record, results)
    return max(required(args.require, summary["success_rate"]) for summary in summaries.values())


def tables(files: Sequence[str], into: Path | None) -> int:
    """Read results, print and write their table."""
    rows = [_row(file) for file in files]
    text = _text(rows)
    say(text)
    if into is not None:
        with replacing(into) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


def _job(args: argparse.Namespace) -> Job:
    if args.record and args.policy != "planner":
        raise InputError(f"--record: received with policy {args.policy!r}, allowed with 'planner' only")
    if args.done_probe and args.policy != "planner":
        raise InputError(f"--done-probe: received with policy {args.policy!r}, allowed with 'planner' only")
    preset = args.preset or find_model(args.model).description.preset
    changes = {
        name: getattr(args, name)
        for name in (
            "sub_goals",
            "switch",
            "gripper",
            "full_grip",
            "settled_below",
            "known_states",
            "randomise",
        )
    }
    protocol: Protocol = replace(
        PROTOCOLS[args.protocol], **{name: value for name, value in changes.items() if value is not None}
    )
    job = Job(
        args.policy,
        args.model,
        args.device,
        args.dtype,
        preset,
        protocol,
        set_options(args.options),
        args.record,
        scene_options(args.scene),
        args.done_probe,
    )
    _ = job.planner  # wrong options are said before the first trial
    return job


def _trials(args: argparse.Namespace, job: Job, items: Sequence[Item]) -> Iterator[TrialResult]:
    """All trials: those of the ledger, then those that are made now."""
    path = None if args.out is None else args.out / "trials.jsonl"
    with nullcontext() if path is None else Ledger(path, job.settings()) as ledger:
        found = {} if ledger is None else ledger.results
        kept = [found[item] for item in items if item in found]
        if kept:
            say(f"{len(kept)} of {len(items)} trials were made before: {path}")
        yield from kept
        missing = [item for item in items if item not in found]
        reached = sum(result.success for result in kept)
        for done, result in enumerate(evaluate(job, missing, args.processes), len(kept) + 1):
            if ledger is not None:
                ledger.add(result)
            reached += result.success
            say(_line(result, done, len(items), reached))
            yield result


def _line(result: TrialResult, done: int, total: int, reached: int) -> str:
    verdict = "reached    " if result.task == "reach" else "done       "
    if not result.success:
        verdict = "not reached" if result.task == "reach" else "failed     "
    way = f"{result.start_error_m * 100:5.1f} -> {result.final_error_m * 100:4.1f} cm"
    why = f" ({result.cause})" if result.cause else ""
    count = f"[{done:>{len(str(total))}}/{total}]"
    task = "" if result.task == "reach" else f"{result.task} "
    return (
        f"{count} {task}seed {result.seed} {verdict} {way} in {result.steps:2d} steps{why}; "
        f"{reached}/{done} so far"
    )


def _say_summary(summary: dict[str, Any]) -> None:
    low, high = summary["ci95"]
    say(f"success {summary['success_rate']:.1%} (95% interval {low:.1%} .. {high:.1%})")
    for cause, count in summary["causes"].items():
        say(f"  {count:3d} {cause}")
    say(f"final error: median {summary['median_final_error_m'] * 100:.1f} cm")
    say("mean error by step [cm]: " + " ".join(f"{e * 100:.1f}" for e in summary["mean_error_by_step_m"]))
    if math.isfinite(summary["p50_plan_s"]):  # the oracle plans nothing
        say(f"plan: p50 {summary['p50_plan_s'] * 1000:.0f} ms, p95 {summary['p95_plan_s'] * 1000:.0f} ms")


def _conclude(
    args: argparse.Namespace, job: Job, record: dict[str, Any], results: dict[Item, TrialResult]
) -> None:
    """Table, files and films."""
    label = f"{record['model']}, {args.policy}, protocol {args.protocol}"
    text = _text([table.Row(label, record["cells"])])
    say(text)
    if args.out is None:
        return
    write_json(args.out / "table2.json", record)
    with replacing(args.out / "table2.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if not args.no_films and args.policy != "oracle":
        _films(job, args.out / "films", results)


def _films(job: Job, folder: Path, results: dict[Item, TrialResult]) -> None:
    """One success and one failure of each task: those with the lowest seeds."""
    from vjepa_ac_planner.cli.film import Filmer

    wanted: dict[Path, Item] = {}
    for item, result in sorted(results.items()):
        end = "success" if result.success else "failure"
        if not any(path.name.startswith(f"{result.task}-{end}-") for path in wanted):
            wanted[folder / f"{result.task}-{end}-{result.seed}.webp"] = item
    missing = {path: item for path, item in wanted.items() if not path.exists()}
    if not missing:
        return
    with Filmer(job) as filmer:
        for path, (task, seed) in missing.items():
            again = filmer.film(task, seed, path)
            differs = again.success != results[task, seed].success
            say(f"{path}{'  (came out differently this time)' if differs else ''}")


def _row(file: str) -> table.Row:
    label, equals, path = file.rpartition("=")
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        cells = record["cells"]
        name = f"{record['model']}, {record['policy']}, preset {record['preset']}"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        # The text of a decoding error holds the file.
        why = "it is not JSON" if isinstance(error, ValueError) else f"without {error}"
        why = "it is no mapping" if isinstance(error, TypeError) else why
        raise InputError(f"{path}: is not a result file of `vjepa-ac sim eval` ({why})") from error
    return table.Row(label if equals else name, cells)


def _text(rows: Sequence[table.Row]) -> str:
    failures = table.causes(rows)
    return table.markdown(rows) + (f"\n{failures}" if failures else "")


def _summary(results: Sequence[TrialResult]) -> dict[str, Any]:
    # Reaches have the same number of steps under every protocol, and their errors are compared by step.
    return summarise(results, 12 if results[0].task.startswith("reach") else None)


def _command() -> str:
    return shlex.join(["vjepa-ac", *sys.argv[1:]])
