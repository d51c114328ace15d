from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.cli.bench import lines


def test_quick(command, tmp_path, read_json):
    out, svg = tmp_path / "bench.json", tmp_path / "bench.svg"
    sections = ("engine", "presets", "scaling")
    code, text, _ = command(
        "bench", "--quick", "--only", *sections, "--plans", 1, "--samples", 8, "--seconds", 60,
        "--preset", "cpu", "paper", "--dtype", "float32", "--json", out, "--plot", svg,
    )  # fmt: skip
    assert code == 0
    record = read_json(out)
    assert record["quick"] and record["model"] == "panda-sim"
    assert record["engine"]["candidates_per_s"] > 0
    assert record["presets"]["paper"]["evaluations"] == 8000
    assert record["ratio_to_reference"] == {}
    assert "curve" in record
    assert svg.read_text().startswith("<svg")
    for word in ("engine", "whole plans", "of peak", "scaling, horizon 1", "s in all"):
        assert word in text


def test_some_sections_of_random_weights(command, tmp_path, read_json):
    out = tmp_path / "bench.json"
    options = ("--untrained", "--samples", 4, "--horizon", 1, 3, "--seconds", 30, "--dtype", "float32")
    code, text, _ = command("bench", "--only", "engine", "variants", *options, "--json", out)
    assert code == 0
    record = read_json(out)
    assert record["weights"] == "random"
    assert list(record["engine"]["by_horizon"]) == ["1", "3"]
    assert record["engine"]["samples"] == 4
    assert "uncached over cached" in text
    assert "presets" not in text


def test_cpu_seconds_of_one_thread(command, tmp_path, read_json, monkeypatch):
    out = tmp_path / "bench.json"
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    options = ("--samples", 2, "--horizon", 1, "--seconds", 5, "--quick", "--dtype", "float32")
    code, text, _ = command("bench", "--only", "engine", "--cpu-time", *options, "--json", out)
    assert code == 0 and "CPU seconds of one thread" in text
    assert seen == [1] and read_json(out)["clock"] == "cpu"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "name some of them with --only"),
        (("--only", "presets"), "name some of them with --only"),
        (("--only", "engine", "--threads", 2), "received --threads 2"),
    ],
)
def test_cpu_seconds_are_refused_where_they_say_nothing(command, options, reason):
    code, _, error = command("bench", "--cpu-time", *options)
    assert code == 2 and reason in error


def test_what_cannot_be_measured_is_refused(command, tmp_path):
    code, _, error = command("bench", "--only", "speed", "--device", "cpu")
    assert code == 2 and "sections: received 'speed', allowed engine, encoder" in error
    code, _, error = command("bench", "--only", "ratio", "--reference", tmp_path, "--seconds", 5)
    assert code == 2 and "expected a checkout of https://github.com/facebookresearch/vjepa2" in error
    code, text, error = command("bench", "--only", "ratio")
    assert (code, text) == (2, "") and "--only ratio: compares with the reference; add --reference" in error
    code, text, error = command("bench", "--only", "encoder", "--plot", tmp_path / "x.svg")
    assert (code, text) == (2, "") and "--plot: draws the section scaling" in error
    code, text, error = command("bench", "--preset", "demo", "nonsense")
    assert (code, text) == (2, "") and "'nonsense', allowed demo" in error
    code, _, error = command("bench", "--device", "cuda:99")
    assert code == 3 and "cuda:99 is not there" in error


def test_every_section_can_be_printed():
    """The blocks that a machine without GPU and checkout does not fill."""
    row = {"horizon": 1, "samples": 4, "seconds": {"reference float32": 2.0, "ours float32": 1.0}}
    ratio = {**row, "equal_dtype": {"float32": 2.0}}
    record = {
        "model": "m",
        "weights": "random",
        "dtype": "float32",
        "environment": {"device": "a GPU", "torch": "2.0"},
        "matmul_tflops": {"float32": 80.0},
        "skipped": ["curve"],
        "seconds": 3.0,
        "reference": {
            "headline": "reference float32 over ours float32",
            "ratio": {"1": 2.0},
            "rows": [ratio],
            "by_samples": [ratio],
            "difference": {"prediction": 1e-6, "action": 1e-7},
        },
        "targets": [
            {
                "name": "a plan",
                "value": 2.0,
                "unit": "s",
                "target": "<= 2.5",
                "met": True,
                "note": "median of 3",
            },
            {
                "name": "float8",
                "value": None,
                "unit": "s",
                "target": "<= 2.5",
                "met": None,
                "note": "no GPU",
            },
        ],
        "profile": {"1 candidate": {"linear layers": 0.5, "total": 1.0}},
        "curve": {
            "problems": 3,
            "runs": [
                {"name": "cem", "evaluations": 32.0, "median_energy": 0.5, "excess": 0.1, "seconds": 0.2}
            ],
        },
    }
    text = "\n".join(lines(record))
    for words in (
        "H=1: 2.00x",
        "<= 2.5 s",
        "met",
        "no GPU",
        "500.0 ms (50 %)",
        "no time was left for: curve",
    ):
        assert words in text
