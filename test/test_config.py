"""Configuration: strict in, loss-free out, errors that say what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_ac_planner.config import (
    check_range,
    check_ranges,
    descriptions,
    from_mapping,
    load_yaml,
    ranged,
    to_mapping,
)
from vjepa_ac_planner.control.limits import MotionLimits
from vjepa_ac_planner.control.safety import SafetyConfig
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.planning.presets import PlannerConfig, preset_names


@dataclass(frozen=True)
class Inner:
    low: float = 0.0

    def __post_init__(self):
        check_range("low", self.low, -1.0, 1.0, "m")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    ratio: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    inners: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    path: Path = Path("x")
    free: Any = None


def test_plain_data_becomes_objects():
    built = from_mapping(
        Outer,
        {
            "name": "n",
            "ratio": 1,
            "pair": [1, 2],
            "many": [1, 2, 3],
            "limit": None,
            "inner": {"low": 0.5},
            "inners": [{"low": 1}, {}],
            "named": {"first": {"low": -1}},
            "path": "a/b",
        },
    )
    assert built.ratio == 1.0
    assert isinstance(built.ratio, float)
    assert (built.pair, built.many, built.inner) == ((1.0, 2.0), (1, 2, 3), Inner(0.5))
    assert (built.inners, built.named) == ((Inner(1.0), Inner(0.0)), {"first": Inner(-1.0)})
    assert built.path == Path("a/b")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "f: missing name"),
        (
            {"name": "n", "cuont": 1},
            r"f: unknown cuont \(did you mean 'count'\?\); valid: name, count, ratio",
        ),
        ({"name": 3}, "f: name: expected str, received 3"),
        ({"name": "n", "count": 1.5}, "f: count: expected int, received 1.5"),
        ({"name": "n", "count": True}, "f: count: expected int, received True"),
        ({"name": "n", "flag": 1}, "f: flag: expected bool, received 1"),
        ({"name": "n", "ratio": "1"}, "f: ratio: expected float, received '1'"),
        ({"name": "n", "kind": "c"}, "f: kind: received 'c', allowed 'a', 'b'"),
        ({"name": "n", "pair": [1]}, "f: pair: expected 2 values, received 1"),
        ({"name": "n", "pair": 1}, "f: pair: expected a list, received 1"),
        ({"name": "n", "many": [1, "x"]}, r"f: many\[1\]: expected int, received 'x'"),
        ({"name": "n", "inner": {"low": 2}}, r"f: inner: low: received 2\.0 m, allowed -1\.0 \.\. 1\.0 m"),
        ({"name": "n", "inner": {"lwo": 2}}, r"f: inner: unknown lwo"),
        ({"name": "n", "inner": 3}, "f: inner: expected a mapping of options, received 3"),
        ({"name": "n", "named": {"x": {"low": 9}}}, r"f: named\.x: low: received 9"),
        ([1], r"f: expected a mapping of options, received \[1\]"),
    ],
)
def test_what_is_refused_and_how(data, text):
    with pytest.raises(ConfigError, match=text):
        from_mapping(Outer, data, "f")


def test_nan_is_in_no_range():
    with pytest.raises(ConfigError, match="x: received nan"):
        check_range("x", float("nan"), 0, 1)


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Outer,
        name=st.sampled_from(["", "yes", "1", "a: b", "\u00e9\n"]),
        count=st.integers(-9, 9),
        limit=st.none() | st.floats(-1, 1),
        many=st.lists(st.integers(0, 9), max_size=3).map(tuple),
        inner=st.builds(Inner, st.floats(-1, 1)),
        inners=st.lists(st.builds(Inner, st.floats(-1, 1)), max_size=2).map(tuple),
    )
)
def test_out_through_yaml_and_in_again_changes_nothing(config):
    assert from_mapping(Outer, yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config


@pytest.mark.parametrize("name", preset_names())
def test_presets_survive_the_round_trip(name):
    config = PlannerConfig.preset(name)
    assert from_mapping(PlannerConfig, yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config


def test_safety_survives_the_round_trip():
    config = SafetyConfig(MotionLimits((0.3, -0.3, 0.1), (0.7, 0.3, 0.6)), max_surprise=None)
    assert from_mapping(SafetyConfig, yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        load_yaml(tmp_path / "none.yaml")
    path = tmp_path / "f.yaml"
    for content, text in (
        (b"a: [", "is not valid YAML"),
        (b"- 1\n", "received list"),
        (b"\xff", "is not valid"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=text):
            load_yaml(path)
    path.write_text("a: 1\n")
    assert load_yaml(path) == {"a": 1}


@dataclass(frozen=True)
class Ranged:
    speed: float = ranged(1.0, low=0.0, high=2.0, unit="m/s")
    """How fast;
    in two lines."""
    count: int | None = ranged(None, low=1, high=3)
    corner: tuple[float, ...] = ranged((0.0,), low=-1.0, high=1.0)
    name: str = "x"
    """No number."""

    def __post_init__(self) -> None:
        check_ranges(self)


def test_ranges_beside_defaults_are_enforced():
    assert Ranged(2.0, 3, (1.0, -1.0)).count == 3
    with pytest.raises(ConfigError, match=r"speed: received 2.1 m/s, allowed 0.0 .. 2.0 m/s"):
        Ranged(2.1)
    with pytest.raises(ConfigError, match="speed: received nan"):
        Ranged(float("nan"))
    with pytest.raises(ConfigError, match="count: received 0"):
        Ranged(count=0)
    with pytest.raises(ConfigError, match=r"corner: received -2\.0"):
        Ranged(corner=(0.0, -2.0))


def test_the_sentence_under_a_field_is_its_description():
    assert descriptions(Ranged) == {"speed": "How fast; in two lines.", "name": "No number."}
