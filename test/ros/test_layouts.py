"""The layouts for Foxglove and RViz show topics and call services that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vjepa_ac_planner.ros.profile import load_profile

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not (ROOT / "config/foxglove").is_dir(), reason="needs the source tree"),
]
LAYOUT = ROOT / "config/foxglove/planner.json"


def names() -> set[str]:
    """Topics and services of planner, robot and camera."""
    topics = load_profile("sim").topics
    known = {f"/{name}" for name in vars(topics).values() if isinstance(name, str)}
    for file in ("outputs.py", "planner_node.py"):
        source = (ROOT / "vjepa_ac_planner/ros" / file).read_text(encoding="utf-8")
        known |= {f"/planner/{name}" for name in re.findall(r'"~/(\w+)"', source)}
    return known | {"/diagnostics", "/camera/camera_info"}


def leaves(node: Any) -> list[str]:
    """Panels of a layout tree."""
    return [node] if isinstance(node, str) else [*leaves(node["first"]), *leaves(node["second"])]


def test_every_panel_is_configured_and_shown_once() -> None:
    layout = json.loads(LAYOUT.read_text(encoding="utf-8"))
    panels = leaves(layout["layout"])
    assert len(panels) > 8 and sorted(panels) == sorted(layout["configById"])


def test_panels_name_topics_and_services_that_exist() -> None:
    text = LAYOUT.read_text(encoding="utf-8")
    used = {re.split(r"\.", name)[0] for name in re.findall(r'"(/[a-z_/]+[\w./\[\]]*)"', text)}
    assert len(used) > 10
    assert used <= names(), used - names()


def test_the_stop_button_of_the_layout_disables() -> None:
    panel = json.loads(LAYOUT.read_text(encoding="utf-8"))["configById"]["CallService!stop"]
    assert panel["serviceName"] == "/planner/set_enabled"
    assert json.loads(panel["requestPayload"]) == {"data": False}


def test_rviz_shows_topics_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "config/rviz/planner.rviz").read_text(encoding="utf-8"))
    displays = config["Visualization Manager"]["Displays"]
    used = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert len(used) > 3 and used <= names(), used - names()
    assert config["Visualization Manager"]["Global Options"]["Fixed Frame"] == (
        load_profile("sim").frames.base_frame
    )
