"""What a machine without GL, MuJoCo or meshes is told."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest

from vjepa_ac_planner.errors import MissingDependencyError
from vjepa_ac_planner.sim import gl, meshes, render

INSTALL = r"apt-get install -y libegl1 libgl1-mesa-dri"


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gl.platform, "system", lambda: "Linux")


def libraries(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name if name in present else None)


def test_egl_is_taken_before_osmesa(no_display: None, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, "EGL", "OSMesa")
    assert gl.choose_backend() == "egl"
    libraries(monkeypatch, "OSMesa")
    assert gl.choose_backend() == "osmesa"


def test_the_users_choice_and_a_display_are_respected(
    no_display: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries(monkeypatch)
    monkeypatch.setenv("DISPLAY", ":0")
    assert gl.choose_backend() is None
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert gl.choose_backend() == "osmesa"


def test_no_gl_library_is_one_line_that_says_what_to_install(
    no_display: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries(monkeypatch)
    with pytest.raises(MissingDependencyError, match=INSTALL) as caught:
        gl.choose_backend()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_context_that_cannot_be_made_says_the_same(sim: Any) -> None:
    class Broken:
        def Renderer(self, *args: object, **options: object) -> None:
            raise AttributeError("'NoneType' object has no attribute\n'eglQueryString'")

    with pytest.raises(MissingDependencyError, match=INSTALL) as caught:
        render.Camera(Broken(), sim._model, "exterior", 64, 64)
    assert "\n" not in str(caught.value)


def test_missing_mujoco_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", fail)
    monkeypatch.delitem(sys.modules, "mujoco")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(MissingDependencyError, match=r"pip install 'vjepa_ac_planner\[sim\]'"):
        gl.import_mujoco()


def test_mujoco_imported_too_early_is_an_error_and_not_a_crash() -> None:
    code = "import mujoco; from vjepa_ac_planner.sim.panda import PandaSim; PandaSim()"
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "set MUJOCO_GL=egl before the first import of mujoco" in done.stderr.splitlines()[-1]


def test_missing_meshes_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"gymnasium-robotics.*pip install 'vjepa_ac_planner\[sim\]'"
    ):
        meshes.load_meshes(2000)
