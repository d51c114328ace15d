"""Short films of trials: what happens, beside what the goal image shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.cli.console import replacing
from vjepa_ac_planner.cli.trial import Job, Runner
from vjepa_ac_planner.control.mpc import Step
from vjepa_ac_planner.report.animation import require_pillow
from vjepa_ac_planner.sim.evaluate import TrialResult
from vjepa_ac_planner.sim.panda import PandaSim

Image = npt.NDArray[np.uint8]

VIEW, INSET, STRIP = 320, 128, 26
"""Edge of the picture, of the goal image in its corner, and height of the line of text [pixels]."""
BETWEEN = 3
"""Pictures per step."""
STEP_MS, END_MS = 360, 1500
"""How long a step and the last picture are shown."""


class Filmer:
    """Runs trials again and films them; a context manager.

    Args:
        job: as for the trials that are to be seen.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """

    def __init__(self, job: Job) -> None:
        require_pillow()
        self._runner = Runner(replace(job, record=None), self._on_step)
        fine = replace(self._runner.sim.config, width=VIEW, height=VIEW, shadow_size=1024)
        self._show = PandaSim(fine)
        self._frames: list[Image] = []
        self._last: npt.NDArray[np.float64] | None = None

    def film(self, task: str, seed: int, path: Path) -> TrialResult:
        """Run one trial again, and write it as an animated WebP."""
        made = self._runner.task(task, seed)
        self._show.dress(made.appearance)
        self._frames, self._last = [], made.start
        result = self._runner.run(task, seed)
        end = "success" if result.success else f"failure: {result.cause}"
        final = self._picture(self._runner.sim.snapshot())
        _write(path, [*self._frames, _captioned(final, made.goals[-1].frame.image, end)])
        return result

    def _on_step(self, step: Step, sim: PandaSim) -> None:
        assert self._last is not None
        now = sim.snapshot()
        plan = step.plan
        energy = "" if plan is None else f"  energy {plan.current_energy:.3f}"
        text = f"{step.index + 1}: {step.goal.name}{energy}"
        # Within a step the joints move by a few degrees: a straight line between two snapshots is where
        # they were, to the eye.
        for share in np.arange(BETWEEN) / BETWEEN:
            picture = self._picture((1 - share) * self._last + share * now)
            self._frames.append(_captioned(picture, step.goal.frame.image, text))
        self._last = now

    def _picture(self, snapshot: npt.NDArray[np.float64]) -> Image:
        self._show.restore(snapshot)
        return self._show.render()

    def __enter__(self) -> Filmer:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.__exit__()
        self._show.close()


def _captioned(picture: Image, goal: Image, text: str) -> Image:
    """The picture with the goal image in its corner and a line of text below."""
    canvas = np.full((VIEW + STRIP, VIEW, 3), 24, dtype=np.uint8)
    canvas[:VIEW] = picture
    edge = VIEW - INSET
    canvas[: INSET + 2, edge - 2 :] = 255
    canvas[:INSET, edge:] = cv2.resize(goal, (INSET, INSET), interpolation=cv2.INTER_AREA)
    cv2.putText(
        canvas, text, (6, VIEW + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (240, 240, 240), 1, cv2.LINE_AA
    )
    return canvas


def _write(path: Path, frames: list[Image]) -> None:
    from PIL import Image as Pillow

    first, *rest = (Pillow.fromarray(frame) for frame in frames)
    durations = [STEP_MS // BETWEEN] * len(rest) + [END_MS]
    with replacing(path) as temporary:
        first.save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=rest,
            duration=durations,
            loop=0,
            quality=70,
            method=4,
        )
