"""Import MuJoCo with a GL backend that works on this machine, or say what to install."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import platform
import sys
from types import ModuleType

from vjepa_ac_planner.errors import MissingDependencyError

SIM_EXTRA = "pip install 'vjepa_ac_planner[sim]'"
GL_HINT = (
    "no usable OpenGL library for headless rendering: "
    "apt-get install -y libegl1 libgl1-mesa-dri (or libosmesa6 and MUJOCO_GL=osmesa)"
)


def choose_backend() -> str | None:
    """The GL backend to ask MuJoCo for: what the user set, else egl or osmesa where there is no display.

    Returns None where MuJoCo's own choice (a window system) is right.

    Raises:
        MissingDependencyError: no display, and neither libEGL nor libOSMesa can be found.
    """
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    if platform.system() != "Linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return backend
    raise MissingDependencyError(GL_HINT)


def import_mujoco(*, rendering: bool = True) -> ModuleType:
    """Import ``mujoco``; with ``rendering``, choose the GL backend first (it is read at import).

    Raises:
        MissingDependencyError: mujoco is not installed, or there is no GL library to render with.
    """
    if rendering and "mujoco" not in sys.modules:
        backend = choose_backend()
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend
    try:
        return importlib.import_module("mujoco")
    except ImportError as error:
        raise MissingDependencyError(
            f"the simulator needs mujoco, which cannot be imported ({error}): {SIM_EXTRA}"
        ) from error
