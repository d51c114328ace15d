"""What an encoder's latents hold, asked by attentive probes: train them on one folder, judge on another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.training.data import PlayData
from vjepa_ac_planner.training.predictor import encode_frames
from vjepa_ac_planner.training.probe import (
    AttentiveProbe,
    DoneOrNot,
    ProbeConfig,
    ReadOut,
    draw_pairs,
    pair,
    same_outcome,
    train_probe,
)
from vjepa_ac_planner.world_model import WorldModel

OBJECTS = ("cup", "box")
PAIRS = 4000
"""Pairs of frame and goal on which the classifier is judged."""


@dataclass(frozen=True)
class Labelled:
    """Latents of recordings, and what a probe shall tell from them."""

    latents: Tensor
    """[E, T, N, D]."""
    states: Tensor
    """[E, T, 7]."""
    objects: Tensor
    """[E, T, 2, 3] where cup and box are [m]; NaN where nobody knows."""

    @classmethod
    def read(cls, folder: Path, model: WorldModel) -> Labelled:
        """Encode the frames of a folder of play data, or of imported data.

        Raises:
            InputError: no data, or objects that do not belong to the frames.
        """
        data = PlayData.load(folder)
        names = sorted(folder.glob("*-objects.npy"))
        objects = torch.full((*data.states.shape[:2], len(OBJECTS), 3), torch.nan)
        if names:
            known = np.concatenate([np.load(name) for name in names])
            if known.shape != tuple(objects.shape):
                raise InputError(
                    f"{folder}: places of objects {known.shape} do not belong to frames of "
                    f"{tuple(objects.shape)}; collect the data again"
                )
            objects = torch.from_numpy(known.astype(np.float32))
        return cls(encode_frames(model.encoder, data), data.states, objects)

    @property
    def targets(self) -> Tensor:
        """[E * T, 10]: hand [m], closedness, cup and box [m]."""
        states = torch.cat([self.states[..., :3], self.states[..., 6:]], dim=-1)
        return torch.cat([states, self.objects.flatten(2)], dim=-1).flatten(0, 1)

    @property
    def done(self) -> Tensor:
        """[E, T, T]: which frames show the same outcome; objects that nobody knows have not moved."""
        return same_outcome(self.states, self.objects.nan_to_num())


def probe_model(
    model: WorldModel, config: ProbeConfig, data: Path, test: Path, out: Path
) -> dict[str, float]:
    """Train both probes, and judge them on recordings that they have not seen; resumes.

    Args:
        model: whose encoder is asked; it is not changed.
        config: sizes and training of the probes.
        data: to train on.
        test: to judge by.
        out: gets ``state/`` and ``done/`` with ``probe.safetensors`` each.

    Returns:
        Median errors of where hand, cup and box are [m], with ``_mean`` those of always guessing the mean
        place; the share of the fingers' variance that is told, ``closedness_r2``; of the classifier
        ``done_auc``, and at probabilities 0.5 and 0.9 the share of goals it sees reached
        (``done_recall_..``) and of others that it takes for reached (``done_false_..``), frames that are
        the goal frame itself left out.

    Raises:
        InputError: no data.
        CheckpointError: the folder holds another run.
    """
    train, held_out = (Labelled.read(folder, model) for folder in (data, test))
    objects_known = not (train.objects.isnan().all() or held_out.objects.isnan().all())
    targets = train.targets if objects_known else train.targets[:, :4]
    stage = ReadOut(config, train.latents.flatten(0, 1), targets)
    figures = _state_figures(train_probe(stage, out / "state"), train, held_out)
    classifier = train_probe(DoneOrNot(config, train.latents, train.done), out / "done")
    return figures | _done_figures(classifier, held_out)


@torch.no_grad()
def _state_figures(probe: AttentiveProbe, train: Labelled, test: Labelled) -> dict[str, float]:
    guess = torch.cat([probe(part.float()) for part in test.latents.flatten(0, 1).split(256)])
    wanted = test.targets[:, : guess.shape[1]]
    error, spread = guess - wanted, wanted - train.targets[:, : guess.shape[1]].nanmean(dim=0)
    figures = {}
    for name, first in (("hand", 0), *((name, 4 + 3 * i) for i, name in enumerate(OBJECTS))):
        place = slice(first, first + 3)
        if first < guess.shape[1]:
            figures[f"{name}_m"] = float(error[:, place].norm(dim=1).nanmedian())
            figures[f"{name}_m_mean"] = float(spread[:, place].norm(dim=1).nanmedian())
    figures["closedness_r2"] = float(1 - error[:, 3].square().mean() / wanted[:, 3].var().clamp(min=1e-12))
    return figures


@torch.no_grad()
def _done_figures(probe: AttentiveProbe, test: Labelled) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    done = test.done
    episode, frame, goal = draw_pairs(done.shape[:2], PAIRS, generator)
    other = frame != goal
    episode, frame, goal = episode[other], frame[other], goal[other]
    probability = torch.cat(
        [
            probe(pair(test.latents[e, f].float(), test.latents[e, g].float())).squeeze(1).sigmoid()
            for e, f, g in zip(episode.split(256), frame.split(256), goal.split(256), strict=True)
        ]
    )
    wanted = done[episode, frame, goal]
    yes, no = probability[wanted], probability[~wanted]
    figures = {"done_pairs": float(len(wanted)), "done_positives": float(len(yes))}
    if len(yes) and len(no):
        above = (yes[:, None] > no).float() + 0.5 * (yes[:, None] == no).float()
        figures["done_auc"] = float(above.mean())
        for threshold in (0.5, 0.9):
            figures[f"done_recall_{threshold}"] = float((yes >= threshold).float().mean())
            figures[f"done_false_{threshold}"] = float((no >= threshold).float().mean())
    return figures
