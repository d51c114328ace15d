"""Camera images of a simulation, off screen, and where points of the world fall in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.bags.poses import quaternion_to_matrix
from vjepa_ac_planner.errors import MissingDependencyError, first_line
from vjepa_ac_planner.sim.gl import GL_HINT


class Camera:
    """One fixed camera of the scene with its GL context; close it when done.

    Args:
        mujoco: the imported module.
        model: the compiled scene.
        name: of the camera in the scene.
        width: of the images [pixels].
        height: of the images [pixels].

    Raises:
        MissingDependencyError: no GL context can be made on this machine.
    """

    def __init__(self, mujoco: Any, model: Any, name: str, width: int, height: int) -> None:
        self._model, self._name = model, name
        self._width, self._height = width, height
        self._id = model.camera(name).id
        try:
            self._renderer = mujoco.Renderer(model, height, width, max_geom=200)
        except Exception as error:  # each backend fails in a way of its own
            raise MissingDependencyError(f"{GL_HINT} ({first_line(error)})") from error
        self._option = mujoco.MjvOption()
        self._option.geomgroup[3] = 0  # collision shapes

    def render(self, data: Any) -> npt.NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB image of the state in ``data``."""
        self._renderer.update_scene(data, self._name, self._option)
        image: npt.NDArray[np.uint8] = self._renderer.render()
        return image

    def project(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Pixels of points in the base frame.

        Args:
            points: [N, 3] positions [m].

        Returns:
            [N, 2] column and row in pixels, the centre of the top-left pixel being (0.5, 0.5); NaN for
            points behind the camera.
        """
        position = self._model.cam_pos[self._id]
        rotation = quaternion_to_matrix(np.roll(self._model.cam_quat[self._id], -1))  # w comes last
        local = (np.asarray(points, dtype=np.float64) - position) @ rotation  # x right, y up, -z ahead
        depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
        focal = self._height / 2 / np.tan(np.radians(self._model.cam_fovy[self._id]) / 2)
        column = self._width / 2 + focal * local[:, 0] / depth
        row = self._height / 2 - focal * local[:, 1] / depth
        return np.stack([column, row], axis=1)

    def close(self) -> None:
        """Free the GL context; safe to call twice."""
        self._renderer.close()
