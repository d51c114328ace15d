"""What the page of a run and that of a replay have in common: slices of the energy, and what took part."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

import cv2
import numpy as np
import torch

from vjepa_ac_planner import __version__
from vjepa_ac_planner.planning.energy import LatentEnergy
from vjepa_ac_planner.planning.landscape import energy_landscape
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.report.records import Landscape
from vjepa_ac_planner.types import ACTION_NAMES, FloatArray, Plan

PLANES = (("dx", "dy"), ("dy", "dz"))


def slices(
    planner: Planner, energy: LatentEnergy, plan: Plan, truth: FloatArray, where: str
) -> Iterator[Landscape]:
    """The energy of one step in the planes of :data:`PLANES`, as far as is searched.

    Args:
        planner: that made the plan.
        energy: of the step.
        plan: chosen in it; the other axes and the later actions stay as in it.
        truth: [>=3] what would have been right, or was done; shortened to what is searched.
        where: begins the titles, such as ``Step 3``.
    """
    span = planner.config.search.xyz
    truth = truth * min(1.0, span / max(float(np.abs(truth[:3]).max()), 1e-9))
    for axes in PLANES:
        i, j = (ACTION_NAMES.index(axis) for axis in axes)
        found = energy_landscape(
            energy,
            axes,
            span=span,
            base=torch.tensor(plan.actions, dtype=torch.float32),
            device=planner.world_model.device,
        )
        yield Landscape(
            title=f"{where}: {axes[0]} and {axes[1]}",
            axes=axes,
            span=span,
            energies=found.energies,
            chosen=(float(plan.action[i]), float(plan.action[j])),
            truth=(float(truth[i]), float(truth[j])),
        )


def versions(planner: Planner, **libraries: str) -> dict[str, str]:
    """What took part, and the machine.

    Args:
        planner: whose device is told.
        libraries: further ones, by the names that they are to have here: ``MuJoCo="mujoco"``.
    """
    device = planner.world_model.device
    machine = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return {
        "vjepa_ac_planner": __version__,
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        **{name: importlib.metadata.version(library) for name, library in libraries.items()},
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
        "device": machine,
    }
