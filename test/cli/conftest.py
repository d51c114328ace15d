"""A small untrained model under the shipped model's name, so that commands run in a second."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vjepa_ac_planner.cli.main import main


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory):
    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.nn.checkpoint import save_model
    from vjepa_ac_planner.nn.encoder import EncoderConfig
    from vjepa_ac_planner.nn.predictor import PredictorConfig
    from vjepa_ac_planner.world_model import WorldModel

    description = ModelDescription(
        name="panda-sim",
        summary="Untrained, for tests.",
        encoder=EncoderConfig(image_size=32, dim=64, depth=1, heads=2),
        predictor=PredictorConfig(latent_dim=64, dim=64, depth=1, heads=2, grid=(2, 2)),
        preset="demo",
        workspace=((0.38, -0.30, 0.1234), (0.68, 0.30, 0.5534)),
        limits="It <knows> nothing.",
    )
    model = WorldModel.untrained(description)
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "panda-sim", description, model.encoder.state_dict(), model.predictor.state_dict())
    return folder


@pytest.fixture
def command(models_folder, monkeypatch, capsys):
    """Run ``vjepa-ac`` in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("VJEPA_AC_MODELS", str(models_folder))

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def images(tmp_path) -> dict[str, Path]:
    """A good pair of images, and bad ones by what is wrong with them."""
    rng = np.random.default_rng(0)

    def save(name: str, array: np.ndarray) -> Path:
        assert cv2.imwrite(str(tmp_path / name), array)
        return tmp_path / name

    color = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    good = save("good.png", color)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:100])
    (tmp_path / "text.png").write_text("not a picture")
    return {
        "good": good,
        "goal": save("goal.png", color[::-1]),
        "grey": save("grey.png", color[..., 0]),
        "alpha": save("alpha.png", np.dstack([color, color[..., :1]])),
        "deep": save("deep.png", color.astype(np.uint16) * 256),
        "tiny": save("tiny.png", color[:8, :8]),
        "empty": tmp_path / "empty.png",
        "cut": tmp_path / "cut.png",
        "text": tmp_path / "text.png",
        "missing": tmp_path / "missing.png",
        "folder": tmp_path,
    }


@pytest.fixture(scope="session")
def read_json():
    """Read a JSON file strictly: NaN and Infinity are not JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return lambda path: json.loads(Path(path).read_text(), parse_constant=refuse)
