"""Import MuJoCo with a GL backend that works on this machine, or say what to install."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import platform
import sys
from types import ModuleType

from vjepa_ac_planner.errors import MissingDependencyError, first_line

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


def import_mujoco() -> ModuleType:
    """Import ``mujoco``, choosing its GL backend first, because it is read at import.

    Raises:
        MissingDependencyError: mujoco is not installed, there is no GL library to render with, or mujoco
            was imported before with a backend that does not work here.
    """
    backend = choose_backend()
    if backend is not None and "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = backend
    try:
        mujoco = importlib.import_module("mujoco")
    except ImportError as error:
        raise MissingDependencyError(
            f"the simulator needs mujoco, which cannot be imported ({first_line(error)}): {SIM_EXTRA}"
        ) from error
    except (AttributeError, OSError, RuntimeError, TypeError) as error:  # from PyOpenGL, by backend
        raise MissingDependencyError(f"{GL_HINT} ({first_line(error)})") from error
    loaded = getattr(getattr(mujoco, "GLContext", None), "__module__", "none")
    if backend in ("egl", "osmesa") and loaded == "mujoco.glfw":
        # Going on would not raise: without a display GLFW's context ends the process.
        raise MissingDependencyError(
            "mujoco was imported before its GL backend was chosen, and would need a display: "
            f"set MUJOCO_GL={backend} before the first import of mujoco"
        )
    return mujoco
