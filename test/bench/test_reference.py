"""The public reference beside ours; but for its errors it needs a checkout, named by VJEPA2_REFERENCE."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vjepa_ac_planner.bench import comparison
from vjepa_ac_planner.bench.reference import PLANNER, PREDICTOR, Reference
from vjepa_ac_planner.bench.timing import Budget
from vjepa_ac_planner.errors import InputError, MissingDependencyError

CHECKOUT = os.environ.get("VJEPA2_REFERENCE")
needs_checkout = pytest.mark.skipif(
    not CHECKOUT, reason="set VJEPA2_REFERENCE to a checkout of github.com/facebookresearch/vjepa2"
)


@pytest.fixture(scope="module")
def reference(mini):
    assert CHECKOUT
    return Reference(Path(CHECKOUT), mini)


@pytest.fixture(scope="module")
def mini(mini_model):
    return mini_model


def checkout_with(folder: Path, source: str) -> Path:
    """Files where the reference has them, holding something else."""
    for name in (PREDICTOR, PLANNER):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    return folder


def test_a_folder_that_is_no_checkout_is_refused(tmp_path, mini_model):
    with pytest.raises(
        InputError, match=r"has no src/models/ac_predictor\.py; expected a checkout of http"
    ):
        Reference(tmp_path, mini_model)


def test_a_missing_package_is_named_and_nothing_is_left_behind(tmp_path, mini_model):
    path, modules, handlers = list(sys.path), set(sys.modules), list(logging.getLogger().handlers)
    checkout = checkout_with(tmp_path, "import logging\nlogging.basicConfig()\nimport not_there.at_all\n")
    with pytest.raises(
        MissingDependencyError, match=r"needs 'not_there', which is not installed: pip install"
    ):
        Reference(checkout, mini_model)
    assert sys.path == path
    assert logging.getLogger().handlers == handlers
    left = {
        name for name in set(sys.modules) - modules if name.split(".")[0] in ("src", "notebooks", "timm")
    }
    assert not left


@needs_checkout
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_both_agree_in_predictions_and_in_what_they_plan(mini, reference, horizon):
    difference = comparison.agreement(mini, reference, horizon, 12)
    assert difference["prediction"] < 2e-5
    assert difference["action"] < 1e-6


@needs_checkout
def test_agreement_would_notice_another_network(mini, reference):
    weight = mini.predictor.blocks[1].mlp.down.weight
    kept = weight.clone()
    reference.predictor.predictor_blocks[1].mlp.fc2.weight = torch.nn.Parameter(1.01 * kept)
    try:
        assert comparison.agreement(mini, reference, 2, 12)["prediction"] > 1e-4
    finally:
        reference.predictor.predictor_blocks[1].mlp.fc2.weight = torch.nn.Parameter(kept)


@pytest.mark.parametrize("count", comparison.COUNTS)
def test_every_number_of_candidates_can_be_planned_with(mini, count):
    assert torch.isfinite(comparison._ours(mini, 1, count)()).all()


@needs_checkout
def test_the_whole_comparison_ends(mini):
    models = SimpleNamespace(name="float32", of=lambda dtype: mini)
    found = comparison.against_reference(models, Path(CHECKOUT), {}, 2, float, Budget(20.0), few=False)
    assert set(found["ratio"]) == {"1", "2", "4"}
    assert [row["samples"] for row in found["by_samples"]] == [2, 4]


@needs_checkout
def test_ratios(mini, reference):
    found = comparison.compare({"float32": mini}, "float32", reference, (1, 2), 4, Budget(2.0))
    assert set(found["ratio"]) == {"1", "2"}
    assert all(ratio > 0 for ratio in found["ratio"].values())
    assert found["rows"][0]["equal_dtype"]["float32"] == pytest.approx(found["ratio"]["1"])
