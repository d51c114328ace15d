"""The house's one direction of imports, read from the source; and a core that needs no room's extras."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vjepa_ac_planner

PACKAGE = "vjepa_ac_planner"
ROOT = Path(vjepa_ac_planner.__file__).parent

LAYERS = (
    {"errors", "types", "config", "geometry", "outputs", "resources", "statistics"},
    {"nn"},
    {"models", "preprocess", "world_model"},
    {"planning"},
    {"control"},
    {"bags"},
    {"ros", "sim", "replay", "training", "report", "bench"},
    {"cli", "__main__"},
)
"""Each may import from the layers before it, and but for the rooms (the last but one) from its own."""
ROOMS = LAYERS[-2]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
ALLOWED = {
    # The simulated robot is a ROS node like any other: only it joins the two rooms.
    ("ros", "sim"): ("ros/sim_node.py",),
}
"""Files in which one room may import another."""

HEAVY = (
    "rclpy", "mujoco", "rosbags", "mcap", "h5py", "pyarrow", "av", "tqdm", "PIL", "gymnasium_robotics",
    "peft", "accelerate", "tensorboard", "torchao",
)  # fmt: skip
"""What extras bring; the core must do without."""
SLOW = ("torch", "transformers", "cv2", *HEAVY)
"""What must not be loaded before it is used."""
CORE = (
    "errors", "types", "config", "geometry", "resources", "models", "preprocess", "world_model",
    "planning.planner", "planning.landscape", "control.mpc", "control.goals", "cli.main",
)  # fmt: skip


def modules() -> Iterator[tuple[Path, str]]:
    """Every source file and the part of the house it belongs to."""
    for path in sorted(ROOT.rglob("*.py")):
        first = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if first != "__init__":
            yield path, first


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part of every import of our own, wherever in the file it stands."""
    package = (PACKAGE, *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in RANK:
                yield node.lineno, parts[1]


def complaint(path: Path, part: str, imported: str) -> str | None:
    """Why ``part`` may not import ``imported`` in this file; None if it may."""
    if imported == part:
        return None
    if RANK[imported] > RANK[part]:
        return f"{part} stands before {imported}"
    if part in ROOMS and imported in ROOMS:
        where = path.relative_to(ROOT).as_posix()
        if where not in ALLOWED.get((part, imported), ()):
            return f"{part} and {imported} are rooms, and rooms do not import each other"
    return None


def test_every_part_has_a_place_in_the_house():
    unknown = {part for _, part in modules()} - set(RANK)
    assert not unknown, f"give {unknown} a layer in LAYERS"


def test_imports_go_one_way():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {why}"
        for path, part in modules()
        for line, imported in imports(path)
        if (why := complaint(path, part, imported))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_what_it_must(tmp_path, monkeypatch):
    """A test that could not fail would be worth nothing: plant one import of each kind."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "planning").mkdir()
    planted = tmp_path / "planning" / "bad.py"
    planted.write_text(
        f"from {PACKAGE}.control.mpc import Step\nfrom {PACKAGE} import sim\nimport {PACKAGE}.errors\n"
        "def late():\n    from ..cli import main\n    from .cem import CEM\n"
    )
    found = list(imports(planted))
    assert found == [(1, "control"), (2, "sim"), (3, "errors"), (5, "cli"), (6, "planning")]
    assert [bool(complaint(planted, "planning", part)) for _, part in found] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert complaint(tmp_path / "sim" / "panda.py", "sim", "training")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_core_needs_no_extra():
    blocked = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    wanted = "".join(f"import {PACKAGE}.{name}\n" for name in CORE if (ROOT / path_of(name)).exists())
    result = python(blocked + wanted)
    assert result.returncode == 0, result.stderr


def path_of(name: str) -> str:
    return name.replace(".", "/") + ".py"


@pytest.mark.parametrize("name", ["", ".errors", ".types", ".config", ".cli.main"])
def test_nothing_slow_is_loaded_before_it_is_used(name):
    result = python(f"import sys, {PACKAGE}{name}\nprint([m for m in {SLOW!r} if m in sys.modules])")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
