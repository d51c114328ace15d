"""``--scene``: simulate with another camera, or other quality of pictures, than models are shipped for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vjepa_ac_planner.errors import ConfigError


def add_scene(parser: argparse.ArgumentParser) -> None:
    """The option."""
    parser.add_argument(
        "--scene",
        metavar="FILE",
        help="YAML file with options of the scene and its camera that shall differ from the usual ones, or "
        "the name of one in config/sim, such as lab-camera",
    )


def scene_options(scene: str | None) -> dict[str, Any]:
    """Options of :class:`~vjepa_ac_planner.sim.panda.SimConfig` by name; empty without a scene.

    Args:
        scene: a file, or the name of a shipped one without its suffix.

    Raises:
        ConfigError: no such file or name, or options that a scene does not have, or out of range.
    """
    from vjepa_ac_planner.config import from_mapping, load_yaml
    from vjepa_ac_planner.planning.presets import config_file
    from vjepa_ac_planner.resources import resource_folders
    from vjepa_ac_planner.sim.panda import SimConfig

    if scene is None:
        return {}
    path = Path(scene).expanduser()
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise ConfigError(f"--scene: {scene}: no such file")
        known = {path.stem for folder in resource_folders("config") for path in folder.glob("sim/*.yaml")}
        if scene not in known:
            raise ConfigError(
                f"--scene: received {scene!r}, which is neither a file nor a known scene; "
                f"known: {', '.join(sorted(known)) or 'none'}"
            )
        path = config_file(f"sim/{scene}.yaml")
    options = dict(load_yaml(path))
    # The size of the picture belongs to the model, and places are drawn by each trial's seed.
    refused = sorted({"width", "height", "seed"} & set(options))
    if refused:
        raise ConfigError(f"{path}: {', '.join(refused)} cannot be chosen; leave it out")
    from_mapping(SimConfig, options, str(path))
    return options
