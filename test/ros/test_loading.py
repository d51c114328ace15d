"""Loading a model for the node: it is warm afterwards, and compiled where that is wanted and possible."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.ros.loading import load_planner
from vjepa_ac_planner.ros.parameters import NodeConfig
from vjepa_ac_planner.ros.profile import load_profile


@pytest.fixture(scope="module")
def profile():
    return dataclasses.replace(load_profile("sim"), model="panda-sim")


def test_one_plan_warms_it_up(profile, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled without a GPU"))
    said = []
    planner = load_planner(NodeConfig(device="cpu"), profile, said.append)
    assert not planner.world_model.compiled
    assert said[-1].startswith("model panda-sim on cpu, preset demo: first plan took ")
    assert "the next" not in said[-1]


def test_compiled_it_plans_twice(profile, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    said = []
    planner = load_planner(NodeConfig(device="cpu", compile="on"), profile, said.append)
    assert planner.world_model.compiled and len(compiled) == 3  # the halves of a block, and the encoder
    assert "compiled: first plan took " in said[-1] and " s, the next " in said[-1]


def test_what_cannot_be_compiled_says_so(profile, monkeypatch):
    def broken(*_, **__):
        def call(*_, **__):
            raise RuntimeError("no C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"RuntimeError: no C\+\+ compiler found.*set compile to off"):
        load_planner(NodeConfig(device="cpu", compile="on"), profile, lambda text: None)
