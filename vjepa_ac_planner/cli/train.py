"""``vjepa-ac train``: from nothing to a model folder, one command a stage, each resumable."""

from __future__ import annotations

from typing import Any

from vjepa_ac_planner.cli.arguments import group


def add_parser(commands: Any) -> None:
    """Add ``train`` and its stages."""
    group(commands, "train", "train a small world model: collect, encoder, predictor, evaluate, export")
