"""``vjepa-ac problems``: the curve from the command line."""

from __future__ import annotations

import argparse
import json

import pytest

from vjepa_ac_planner.cli import problems


def run(*words):
    parser = argparse.ArgumentParser()
    problems.add_parser(parser.add_subparsers())
    args = parser.parse_args(["problems", *map(str, words)])
    return args.handler(args)


def test_a_curve_of_one_problem(tmp_path, capsys):
    record, plot = tmp_path / "curve.json", tmp_path / "curve.svg"
    names = ("--names", "mppi", "gradient", "cpu")
    assert run("curve", "--limit", 1, *names, "--budgets", 16, "--json", record, "--plot", plot) == 0
    curve = json.loads(record.read_text())
    assert [(run["name"], run["budget"]) for run in curve["runs"]] == [
        ("mppi", 16),
        ("gradient", 16),
        ("cpu", None),
    ]
    assert curve["seeds"] == [85000]
    assert plot.read_text().startswith("<svg")
    said = capsys.readouterr().out
    assert "[1/1]" in said and "median energy" in said and "gradient" in said


def test_its_defaults_are_the_papers_space_and_problems_for_showing():
    parser = argparse.ArgumentParser()
    problems.add_parser(parser.add_subparsers())
    args = parser.parse_args(["problems", "curve"])
    assert (args.reference, args.part, args.with_reference) == ("paper", "showing", False)
    with pytest.raises(SystemExit):
        parser.parse_args(["problems"])
