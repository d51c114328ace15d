"""STL reading and writing, decimation, and the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vjepa_ac_planner.sim import meshes


def sphere(segments: int = 60) -> np.ndarray:
    angle = np.linspace(-np.pi / 2, np.pi / 2, segments)
    return meshes.lathe(0.1 * np.stack([np.cos(angle), np.sin(angle)], axis=1), segments)


def volume(triangles: np.ndarray) -> float:
    a, b, c = triangles.astype(float).transpose(1, 0, 2)
    return float((np.cross(a, b) * c).sum() / 6)


def test_stl_round_trip() -> None:
    triangles = sphere(8)
    assert (meshes.read_stl(meshes.write_stl(triangles)) == triangles).all()


def test_lathe_faces_outwards() -> None:
    assert volume(sphere()) == pytest.approx(4 / 3 * np.pi * 0.1**3, rel=0.01)


def test_decimation_keeps_shape_and_orientation() -> None:
    full = sphere()
    small = meshes.decimate(full, 1000)
    assert 300 < len(small) <= 1000 < len(full)
    assert volume(small) == pytest.approx(volume(full), rel=0.06)


def test_few_triangles_are_left_alone() -> None:
    triangles = sphere(8)
    assert meshes.decimate(triangles, 10_000) is triangles


def test_meshes_are_cached_and_a_damaged_home_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = meshes.load_meshes(2000)
    cached = sorted((tmp_path / "vjepa_ac_planner" / "meshes").iterdir())
    assert [path.name.split("-")[0] for path in cached] == sorted(meshes.LINKS)
    cached[0].write_bytes(b"changed")
    assert b"changed" in meshes.load_meshes(2000).values()  # read from the cache, not made again
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert meshes.load_meshes(2000) == first
    assert 1000 < sum(len(meshes.read_stl(data)) for data in first.values()) <= 2100
