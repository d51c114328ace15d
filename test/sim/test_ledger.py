"""The ledger of trials: nothing is lost, nothing is mixed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.sim.evaluate import TrialResult
from vjepa_ac_planner.sim.ledger import Ledger

SETTINGS = {"policy": "planner", "planner": {"horizon": 1}, "box": (1.0, 2.0)}


def result(seed: int, task: str = "reach") -> TrialResult:
    return TrialResult(task, seed, True, (0.2, 1 / 3), 1, "settled", (0.1,), "", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "trials.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        for seed in range(3):
            ledger.add(result(seed))
    return path


def test_what_was_written_is_there_again_to_the_last_bit(path: Path) -> None:
    with Ledger(path, SETTINGS) as ledger:
        assert ledger.results == {("reach", seed): result(seed) for seed in range(3)}
        ledger.add(result(7, "grasp_cup"))
    with Ledger(path, SETTINGS) as ledger:
        assert len(ledger.results) == 4


def test_a_line_that_was_cut_short_is_dropped_wherever_the_cut_is(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        with Ledger(path, SETTINGS) as ledger:
            assert set(ledger.results) == {("reach", 0), ("reach", 1)}
            ledger.add(result(2))
        assert path.read_bytes() == whole


def test_a_header_that_was_cut_short_begins_again(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])
    with Ledger(path, SETTINGS) as ledger:
        assert ledger.results == {}
        ledger.add(result(5))
    with Ledger(path, SETTINGS) as ledger:
        assert set(ledger.results) == {("reach", 5)}


def test_other_settings_are_refused_and_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"other settings \(planner.horizon: 1 there, 2 now\);"):
        Ledger(path, {**SETTINGS, "planner": {"horizon": 2}})
    with pytest.raises(ConfigError, match="extra: None there, 1 now"):
        Ledger(path, {**SETTINGS, "extra": 1})


def test_damage_and_foreign_files_are_refused(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"{not json", *lines[2:]]))
    with pytest.raises(InputError, match="line 2: is damaged"):
        Ledger(path, SETTINGS)
    path.write_text('{"some": "file"}\n')
    with pytest.raises(InputError, match="is no ledger of trials"):
        Ledger(path, SETTINGS)
    path.write_text("[1]\n")
    with pytest.raises(InputError, match="expected an object"):
        Ledger(path, SETTINGS)


def test_two_writers_at_once_are_refused(path: Path) -> None:
    with Ledger(path, SETTINGS), pytest.raises(InputError, match="another process is writing it"):
        Ledger(path, SETTINGS)
