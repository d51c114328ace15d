from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from vjepa_ac_planner.cli.console import replacing, styled, table, write_json
from vjepa_ac_planner.errors import InputError


def test_json_holds_arrays_paths_and_no_nan(tmp_path):
    path = tmp_path / "new" / "record.json"
    write_json(path, {"a": np.arange(3.0), "b": (np.float32(1), float("nan")), 3: Path("x"), "i": np.inf})
    assert json.loads(path.read_text()) == {"a": [0, 1, 2], "b": [1, None], "3": "x", "i": None}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_value_json_cannot_hold_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "record.json", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_files_are_as_open_as_the_umask_says(tmp_path):
    write_json(tmp_path / "record.json", {})
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o666 & ~umask


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.record\.json: cannot be written"):
        write_json(tmp_path / "file" / "record.json", {})


def test_what_became_a_folder_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(InputError, match=r"record\.json: cannot be written"), replacing(path):
        path.mkdir()
    assert os.listdir(tmp_path) == ["record.json"]


def test_columns_line_up():
    lines = table([["a", "1"], ["long name", "2"]], ["name", "n"]).splitlines()
    assert [line.rindex(last) for line, last in zip(lines, "n12", strict=True)] == [13, 13, 13]


def test_no_colours_outside_a_terminal():
    assert styled("x", "red") == "x"
