"""Table 2 of the paper, with this project's cells beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vjepa_ac_planner.sim.tasks import TASKS

PUBLISHED = {
    "V-JEPA 2-AC, real robot (published)": ("100", "65", "25", "cup 75, box 75", "80", "65"),
    "Octo, real robot (published)": ("100", "15", "0", "cup 15, box 70", "15", "10"),
}
"""Success in percent by task, average of two labs, 10 trials a cell each (arXiv 2506.09985, Table 2);
reaching with an object is two cells there."""
HEADINGS = (
    "reach",
    "grasp cup",
    "grasp box",
    "reach with object",
    "pick-and-place cup",
    "pick-and-place box",
)


@dataclass(frozen=True)
class Row:
    """One policy under one protocol."""

    label: str
    cells: Mapping[str, Mapping[str, Any]]
    """By task: ``success_rate``, ``trials``, ``ci95``."""


def cell(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The cell of a task's summary."""
    keys = (
        "success_rate",
        "trials",
        "ci95",
        "causes",
        "median_final_error_m",
        "p50_plan_s",
        "p95_plan_s",
    )
    return {key: summary[key] for key in keys}


def markdown(rows: Sequence[Row]) -> str:
    """The table: percent with the 95% interval, and the published figures below."""
    lines = [f"| success, % | {' | '.join(HEADINGS)} |", "|---" * (len(TASKS) + 1) + "|"]
    for row in rows:
        cells = [_shown(row.cells.get(task)) for task in TASKS]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    for label, values in PUBLISHED.items():
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def causes(rows: Sequence[Row]) -> str:
    """Why trials failed: one line per task of each row that has failures."""
    lines = ["| | task | failures | why |", "|---|---|---|---|"]
    for row in rows:
        for task, heading in zip(TASKS, HEADINGS, strict=True):
            found = row.cells.get(task, {}).get("causes", {})
            if found:
                why = ", ".join(f"{count} {name}" for name, count in found.items())
                lines.append(f"| {row.label} | {heading} | {sum(found.values())} | {why} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _shown(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["ci95"]
    return f"{100 * found['success_rate']:.0f} ({100 * low:.0f} to {100 * high:.0f}, n={found['trials']})"
