"""Panda visual meshes: read from the installed ``gymnasium-robotics``, decimated once, cached.

The package (Apache-2.0) is used as it is installed; nothing of it is copied into this one. The
135k triangles of the originals dominate the render time of a software rasteriser, and at 256 pixels
18k look the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import CheckpointError, MissingDependencyError
from vjepa_ac_planner.nn.storage import replacing
from vjepa_ac_planner.sim.gl import SIM_EXTRA

LINKS = (*(f"link{i}" for i in range(8)), "hand", "finger")
MESH_FOLDER = Path("envs/assets/kitchen_franka/franka_assets/meshes/visual")
_STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERSION = "4"
"""Part of the cache key: raise it when the decimation changes."""

Triangles = npt.NDArray[np.float32]


def read_stl(data: bytes) -> Triangles:
    """Triangles [F, 3, 3] of a binary STL file."""
    count = int.from_bytes(data[80:84], "little")
    return np.frombuffer(data, _STL_RECORD, count, offset=84)["corners"].copy()


def write_stl(triangles: Triangles) -> bytes:
    """A binary STL file of triangles [F, 3, 3]; normals are left to the reader."""
    records = np.zeros(len(triangles), _STL_RECORD)
    records["corners"] = triangles
    return bytes(80) + len(triangles).to_bytes(4, "little") + records.tobytes()


def decimate(triangles: Triangles, faces: int) -> Triangles:
    """The finest vertex clustering of ``triangles`` with at most ``faces`` triangles.

    Vertices in one cell of a grid merge to their mean; triangles that keep three different corners stay,
    each once. The cell is found by bisection.
    """
    if len(triangles) <= faces:
        return triangles
    vertices, corners = np.unique(triangles.reshape(-1, 3), axis=0, return_inverse=True)
    indices = corners.reshape(-1, 3)
    low, high = 1e-4, float(np.ptp(vertices, axis=0).max())
    best = _cluster(vertices, indices, high)
    for _ in range(10):
        middle = (low * high) ** 0.5
        candidate = _cluster(vertices, indices, middle)
        if len(candidate) > faces:
            low = middle
        else:
            high, best = middle, candidate
    return best


def _cluster(vertices: npt.NDArray[np.float32], indices: npt.NDArray[np.int64], cell: float) -> Triangles:
    """Merge the vertices [V, 3] of triangles [F, 3] on a grid of edge ``cell`` [m]."""
    _, group = np.unique(_row_keys(np.floor(vertices / cell).astype(np.int64)), return_inverse=True)
    size = np.bincount(group)
    merged = np.stack([np.bincount(group, vertices[:, i]) / size for i in range(3)], axis=1)
    faces = group[indices]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # Where a thin wall has collapsed, its two skins are one triangle in both orientations: keep the one
    # that faces away from the middle of the part, or the wall shows as a hole.
    corners = merged[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = ((corners.mean(axis=1) - merged.mean(axis=0)) * normals).sum(axis=1)
    faces = faces[np.argsort(-outward, kind="stable")]
    _, first = np.unique(_row_keys(np.sort(faces, axis=1)), return_index=True)
    return merged[faces[first]].astype(np.float32)


def _row_keys(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One number per row of three small integers, in the rows' own order: sorting rows is slow."""
    x, y, z = (rows - rows.min(axis=0)).T
    return (x << 42) | (y << 21) | z


def source_folder() -> Path:
    """Folder of the original STL files.

    Raises:
        MissingDependencyError: ``gymnasium-robotics`` is absent, or has no Panda meshes.
    """
    # find_spec, not import: importing the package would pull in gymnasium and every environment.
    spec = importlib.util.find_spec("gymnasium_robotics")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"the Panda meshes come with gymnasium-robotics, which is not installed: {SIM_EXTRA}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / MESH_FOLDER
    if not all((folder / f"{link}.stl").is_file() for link in LINKS):
        raise MissingDependencyError(
            f"gymnasium-robotics is installed but has no Panda meshes in {folder}: "
            f"another version is needed, {SIM_EXTRA}"
        )
    return folder


def cache_folder() -> Path:
    """Where derived files of this package are kept: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vjepa_ac_planner"


def load_meshes(faces: int) -> dict[str, bytes]:
    """The visual meshes as STL files, with about ``faces`` triangles together.

    Args:
        faces: total number of triangles, shared between links in proportion to their own number.

    Returns:
        Link name -> binary STL.

    Raises:
        MissingDependencyError: ``gymnasium-robotics`` is not installed.
    """
    folder = source_folder()
    sources = {link: (folder / f"{link}.stl").read_bytes() for link in LINKS}
    total = sum(len(read_stl(data)) for data in sources.values())
    return {
        link: _cached(link, data, max(60, round(faces * len(read_stl(data)) / total)))
        for link, data in sources.items()
    }


def _cached(link: str, source: bytes, faces: int) -> bytes:
    key = hashlib.sha256(f"{_VERSION} {faces} ".encode() + source).hexdigest()[:20]
    path = cache_folder() / "meshes" / f"{link}-{key}.stl"
    try:
        return path.read_bytes()
    except OSError:
        pass
    data = write_stl(decimate(read_stl(source), faces))
    try:
        with replacing(path) as file:
            file.write(data)
    except CheckpointError:
        pass  # A read-only home costs half a second at each start, nothing more.
    return data


def lathe(profile: npt.NDArray[np.float64], segments: int = 40) -> Triangles:
    """Surface of revolution about z.

    Args:
        profile: [P, 2] radius and height [m] along a path, from outside bottom to inside bottom.
        segments: number of facets around.

    Returns:
        [F, 3, 3] triangles, outward normals for a profile that runs counter-clockwise in (r, z).
    """
    angle = np.linspace(0.0, 2 * np.pi, segments, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [S, 2]
    xy = profile[:, None, :1] * ring[None]  # [P, S, 2]
    z = np.broadcast_to(profile[:, None, 1:], (*xy.shape[:2], 1))
    points = np.concatenate([xy, z], axis=-1)  # [P, S, 3]
    low, high = points[:-1], points[1:]
    low_next, high_next = np.roll(low, -1, axis=1), np.roll(high, -1, axis=1)
    first = np.stack([low, low_next, high_next], axis=2).reshape(-1, 3, 3)
    second = np.stack([low, high_next, high], axis=2).reshape(-1, 3, 3)
    triangles = np.concatenate([first, second])
    area = np.linalg.norm(
        np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1
    )
    return triangles[area > 1e-12].astype(np.float32)
