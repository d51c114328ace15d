"""Checkpoints: whole or not there, and what is damaged is noticed."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.errors import CheckpointError
from vjepa_ac_planner.training import checkpoints


def state(iteration: int) -> dict[str, object]:
    return {
        "iteration": iteration,
        "modules": {"net": {"weight": torch.arange(400.0) + iteration}},
        "optimiser": {
            "state": {0: {"step": torch.tensor(float(iteration))}},
            "param_groups": [{"lr": 0.1}],
        },
    }


def test_the_last_two_are_kept(tmp_path) -> None:
    assert checkpoints.read_last(tmp_path) == (None, "")
    for iteration in (1, 2, 3):
        checkpoints.save(tmp_path, state(iteration))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previous.pt", "state.pt"]
    last, note = checkpoints.read_last(tmp_path)
    assert (last["iteration"], note) == (3, "")
    assert torch.equal(last["modules"]["net"]["weight"], torch.arange(400.0) + 3)
    assert checkpoints.read(tmp_path / "previous.pt")["iteration"] == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_last_one_falls_back_to_the_one_before(tmp_path, damage) -> None:
    for iteration in (1, 2):
        checkpoints.save(tmp_path, state(iteration))
    path = tmp_path / "state.pt"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":  # a number in the middle of a tensor: the archive itself does not notice
        place = content.index(torch.arange(100.0, 104.0).numpy().tobytes())
        content[place] ^= 0x10
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    last, note = checkpoints.read_last(tmp_path)
    assert last["iteration"] == 1
    assert "state.pt: " in note and note.endswith("going on from previous.pt")


def test_only_damaged_ones_are_an_error(tmp_path) -> None:
    for iteration in (1, 2):
        checkpoints.save(tmp_path, state(iteration))
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"state\.pt: cannot be read .* delete it to start again"):
        checkpoints.read_last(tmp_path)


def test_files_from_before_digests_are_read(tmp_path) -> None:
    torch.save(state(5), tmp_path / "state.pt")
    assert checkpoints.read(tmp_path / "state.pt")["iteration"] == 5


def test_a_disk_that_refuses_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    checkpoints.save(tmp_path, state(1))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space left"):
        checkpoints.save(tmp_path, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert checkpoints.read(tmp_path / "state.pt")["iteration"] == 1


def test_a_file_system_without_links_keeps_two_as_well(tmp_path, monkeypatch) -> None:
    def refuse(*names: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoints.os, "link", refuse)
    for iteration in (1, 2):
        checkpoints.save(tmp_path, state(iteration))
    assert checkpoints.read(tmp_path / "state.pt")["iteration"] == 2
    assert checkpoints.read(tmp_path / "previous.pt")["iteration"] == 1
