"""What the energy sees where a grasp is decided: closing the fingers, against a small offset of the arm.

A goal image of a grasp shows the hand at an object with the fingers closed round it. To plan it, closing
them must change the latent clearly, and the predictor must know what closing does; but a planner that
still has some way to go must feel the way too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.planning.energy import latent_energy
from vjepa_ac_planner.sim.model import TCP_OFFSET
from vjepa_ac_planner.sim.oracle import GRASP_HEIGHT
from vjepa_ac_planner.sim.panda import OBJECTS, PandaSim, Vector, down_state, random_objects
from vjepa_ac_planner.sim.randomise import random_appearance
from vjepa_ac_planner.sim.safety import Guarded
from vjepa_ac_planner.types import Frame
from vjepa_ac_planner.world_model import WorldModel

OFFSET = 0.01
"""The small offset of the arm [m]."""


@torch.no_grad()
def grasp_contrast(
    model: WorldModel, sim: PandaSim, seeds: Sequence[int], strength: float
) -> dict[str, float]:
    """Mean energies at grasps of cup and box, one of each a seed.

    Args:
        model: under test.
        sim: with the model's camera.
        seeds: of the scenes; those from 100000 on are for the final evaluation only.
        strength: of their looks, 0 .. 1.

    Returns:
        ``fingers``: energy between open and closed on the object, the arm where it is.
        ``air``: between open and closed in the air.
        ``offset``: between two places 1 cm apart, the fingers open.
        ``offset_grasped``: what is gained towards the closed hand by coming 1 cm nearer with open fingers.
        ``closing``, ``staying``: between the closed hand and what is imagined of closing, and of staying.
        ``closes``: share of grasps in which closing is imagined to be nearer to the closed hand.
    """
    rows = [_one_grasp(model, sim, seed, name, strength) for seed in seeds for name in OBJECTS]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _one_grasp(model: WorldModel, sim: PandaSim, seed: int, name: str, strength: float) -> dict[str, float]:
    rng = np.random.default_rng([seed, 7, OBJECTS.index(name)])
    sim.dress(random_appearance(seed, strength))
    objects = random_objects(rng, sim.rest_heights())
    x, y, _ = objects[name].position
    place = np.array([x, y, GRASP_HEIGHT + TCP_OFFSET])
    direction = rng.normal(size=3) * (1.0, 1.0, 0.0)
    aside = place + OFFSET * direction / np.linalg.norm(direction)

    def seen(position: Vector, grip: float, steps: int = 0) -> Tensor:
        """Latent with the hand at a position, after some steps of moving the fingers."""
        sim.reset_to(down_state(position), objects)
        arm = Guarded(sim)
        for _ in range(steps):
            arm.move(down_state(position, gripper=grip))
        return model.encode([Frame(sim.render())])[0]

    z_closed = seen(place, 1.0, steps=2)
    state = torch.tensor(sim.state(), dtype=torch.float32)
    z_aside = seen(aside, 0.0)
    z_open = seen(place, 0.0)
    up = place + (0.0, 0.0, 0.15)
    z_up, z_up_closed = seen(up, 0.0), seen(up, 1.0, steps=3)

    sim.reset_to(down_state(place), objects)
    start = torch.tensor(sim.state(), dtype=torch.float32)
    actions = torch.zeros(2, 1, 7)
    actions[1, 0, 6] = state[6] - start[6]
    imagined, _ = model.rollout(z_open, start, actions)
    staying, closing = latent_energy(imagined[:, 0], z_closed).tolist()
    return {
        "fingers": _energy(z_open, z_closed),
        "air": _energy(z_up, z_up_closed),
        "offset": _energy(z_open, z_aside),
        "offset_grasped": _energy(z_aside, z_closed) - _energy(z_open, z_closed),
        "staying": staying,
        "closing": closing,
        "closes": float(closing < staying),
    }


def _energy(z: Tensor, other: Tensor) -> float:
    return float(latent_energy(z, other))
