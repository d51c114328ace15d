"""Finding models: by name, folder, description and weights file, wherever the package is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from vjepa_ac_planner import models, resources
from vjepa_ac_planner.config import from_mapping, to_mapping
from vjepa_ac_planner.errors import CheckpointError, ConfigError
from vjepa_ac_planner.models import ModelDescription, find_model, list_models, load_description
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import PredictorConfig

SHIPPED = Path(__file__).parents[1] / "models"


def description(name: str, **options: object) -> ModelDescription:
    return ModelDescription(
        name=name,
        summary="A test.",
        encoder=EncoderConfig(image_size=32, dim=24, depth=1, heads=2),
        predictor=PredictorConfig(latent_dim=24, dim=24, depth=1, heads=2, grid=(2, 2)),
        **options,  # type: ignore[arg-type]
    )


def write(path: Path, value: ModelDescription) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(to_mapping(value)))
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model is found but those below the returned folder."""
    package = tmp_path / "prefix" / "lib" / "python3" / "site-packages" / "vjepa_ac_planner"
    package.mkdir(parents=True)
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    monkeypatch.delenv(models.FOLDERS_VARIABLE, raising=False)
    return tmp_path


def test_every_shipped_description_is_valid() -> None:
    paths = [*SHIPPED.glob("*.yaml"), *SHIPPED.glob("*/model.yaml")]
    assert paths
    for path in paths:
        loaded = load_description(path)
        assert loaded.name in (path.stem, path.parent.name)
        assert find_model(loaded.name).path == path


def test_the_published_model_is_described_exactly() -> None:
    loaded = load_description(SHIPPED / "vjepa2-ac-vitg.yaml")
    assert loaded.encoder == EncoderConfig()
    assert loaded.predictor == PredictorConfig()
    assert (loaded.image_size, loaded.tokens, loaded.latent_dim) == (256, 256, 1408)
    assert (loaded.step_seconds, loaded.ee_frame, loaded.preset) == (0.25, "panda_link8", "paper")


def test_a_description_survives_yaml() -> None:
    value = description("a", workspace=((0.3, -0.3, 0.0), (0.7, 0.3, 0.6)), limits="None known.")
    assert from_mapping(ModelDescription, yaml.safe_load(yaml.safe_dump(to_mapping(value)))) == value


@pytest.mark.parametrize(
    "place",
    [
        "prefix/share/vjepa_ac_planner/models",  # plain pip, a virtual environment, or a colcon install
        "data/vjepa_ac_planner/models",  # the user's own
        "ros/share/vjepa_ac_planner/models",  # a sourced ROS workspace
        "mine",  # named by the environment variable
    ],
)
def test_models_are_found_wherever_they_are_installed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(elsewhere / "ros"))
    monkeypatch.setenv(models.FOLDERS_VARIABLE, str(elsewhere / "mine"))
    assert list_models() == ()
    write(elsewhere / place / "one" / "model.yaml", description("one"))
    write(elsewhere / place / "two.yaml", description("two", weights="two.safetensors"))
    assert [files.description.name for files in list_models()] == ["one", "two"]
    assert find_model("two").path == elsewhere / place / "two.yaml"


def test_a_source_tree_is_told_from_site_packages(elsewhere: Path) -> None:
    beside = elsewhere / "prefix/lib/python3/site-packages"
    write(beside / "models" / "stray.yaml", description("stray"))
    assert list_models() == ()
    (beside / "package.xml").write_text("<package/>")
    assert [files.description.name for files in list_models()] == ["stray"]


def test_folders_are_searched_in_order(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(models.FOLDERS_VARIABLE, str(elsewhere / "mine"))
    for place in ("prefix/share/vjepa_ac_planner/models", "mine"):
        write(elsewhere / place / "a.yaml", description("a", limits=place))
    assert find_model("a").description.limits == "mine"


def test_weights_may_lie_in_the_users_folder(elsewhere: Path) -> None:
    path = write(
        elsewhere / "prefix/share/vjepa_ac_planner/models/big.yaml",
        description("big", weights="big.safetensors"),
    )
    assert find_model("big").weights is None
    weights = models.user_folder() / "big.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert find_model("big").weights == weights
    assert find_model(path).require_weights() == weights


def test_a_downloaded_file_takes_the_known_description_of_its_name(elsewhere: Path) -> None:
    folder = elsewhere / "prefix/share/vjepa_ac_planner/models"
    folder.mkdir(parents=True)
    shutil.copy(SHIPPED / "vjepa2-ac-vitg.yaml", folder)
    download = elsewhere / "Downloads" / "vjepa2-ac-vitg.pt"
    files = find_model(download)
    assert (files.path, files.weights) == (folder / "vjepa2-ac-vitg.yaml", download)
    with pytest.raises(CheckpointError, match=r"Download https://\S+/vjepa2-ac-vitg\.pt, then run"):
        find_model("vjepa2-ac-vitg").require_weights()


def test_a_file_that_describes_no_model_is_passed_over_unless_asked_for(
    elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = elsewhere / "data/vjepa_ac_planner/models"
    write(folder / "a.yaml", description("a"))
    (folder / "stray.yaml").write_text("pets: [cat]")
    (folder / "bad").mkdir()
    (folder / "bad" / "model.yaml").write_text("{")
    for _ in range(2):
        assert find_model("a").description.name == "a"
    warnings = sorted(record.getMessage() for record in caplog.records)
    assert len(warnings) == 2 and all("passed over, not a model: " in text for text in warnings)
    for name, why in (("stray", "unknown pets"), ("bad", "is not valid YAML")):
        with pytest.raises(ConfigError, match=why):
            find_model(name)


def test_weights_without_a_description_say_so(elsewhere: Path) -> None:
    weights = elsewhere / "w.safetensors"
    weights.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no description .* \(w\.yaml or model\.yaml\), and no"):
        find_model(weights)
    with pytest.raises(ConfigError, match="neither a path nor a known name"):
        find_model(elsewhere / "none.safetensors")


def test_unknown_names_list_the_known(elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match="neither a path nor a known name; known: none"):
        find_model("panda-sim")
    write(elsewhere / "data/vjepa_ac_planner/models/a/model.yaml", description("a"))
    with pytest.raises(ConfigError, match=r"received 'b'.*known: a \(searched"):
        find_model("b")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_model(elsewhere)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"predictor: expects latents of 32 channels on a grid \(2, 2\)"):
        ModelDescription(
            "a",
            "b",
            EncoderConfig(image_size=32, dim=24, depth=1, heads=2),
            PredictorConfig(latent_dim=32, dim=24, depth=1, heads=2, grid=(2, 2)),
        )
    with pytest.raises(ConfigError, match=r"workspace: received 0\.5 \.\. 0\.2 m along y"):
        description("a", workspace=((0.0, 0.5, 0.0), (1.0, 0.2, 1.0)))
    with pytest.raises(ConfigError, match="step_seconds: received 0"):
        description("a", step_seconds=0.0)
    with pytest.raises(ConfigError, match=r"m: unknown colour; valid: name, summary"):
        from_mapping(ModelDescription, {"colour": 1}, "m")
