"""What an installation holds, and that the documents speak of commands that exist."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import vjepa_ac_planner
from vjepa_ac_planner.cli.main import build_parser

ROOT = Path(__file__).parents[1]
NAME = "vjepa_ac_planner"
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "models").glob("*/README.md"))),
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))),
)

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: building must leave nothing in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = shutil.ignore_patterns(
        ".*", "__pycache__", "build", "runs", "demo-report", "*.egg-info", "test"
    )
    shutil.copytree(ROOT, source, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, timeout=300)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_every_file_that_is_needed_at_run_time(wheel):
    names = set(wheel.namelist())
    share = next(name for name in names if name.endswith(f"share/{NAME}/package.xml")).removesuffix(
        "package.xml"
    )
    for folder in ("config", "models"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert share + path.relative_to(ROOT).as_posix() in names
    marker = share.removesuffix(f"{NAME}/") + f"ament_index/resource_index/packages/{NAME}"
    assert marker in names
    for path in (ROOT / NAME).rglob("*"):
        if path.suffix in (".py", ".css", ".js", ".typed"):
            assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith("test")]


def test_the_wheel_names_its_script_extras_and_python(wheel):
    info = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(info).decode())
    assert metadata["Version"] == vjepa_ac_planner.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra")) == {
        "ros", "sim", "bags", "convert", "training", "float8", "dev", "test",
    }  # fmt: skip
    base = [line for line in metadata.get_all("Requires-Dist") if "extra" not in line]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in base}
    assert names == {"torch", "transformers", "numpy", "opencv-python-headless", "pyyaml", "safetensors"}
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(info.replace("METADATA", "entry_points.txt")).decode())
    assert scripts["console_scripts"]["vjepa-ac"] == f"{NAME}.cli.main:main"
    assert {"planner_node", "sim_node"} <= set(scripts["console_scripts"])  # for `ros2 run`
    # A script among the data files would not land in bin/, whatever setup.cfg tells colcon.
    assert not [name for name in wheel.namelist() if "/scripts/" in name or "lib/vjepa" in name]


def test_package_xml_is_what_colcon_takes_for_an_ament_package():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("name") == NAME
    assert package.findtext("version") == vjepa_ac_planner.__version__
    assert package.findtext("export/build_type") == "ament_python"
    # colcon drops to plain Python when this does not look like an address.
    assert re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w-]+)*\.[a-z]{2,}", package.find("maintainer").get("email"))
    assert (ROOT / "resource" / NAME).read_bytes() == b""


def test_setup_cfg_puts_scripts_where_ros_looks():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["develop"]["script_dir"] == f"$base/lib/{NAME}"
    assert settings["install"]["install_scripts"] == f"$base/lib/{NAME}"


def shell_lines(document: Path) -> list[str]:
    """Commands in fenced blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" # ")[0].strip() for line in lines]


def test_documented_commands_exist():
    parser, seen = build_parser(), 0
    for name in DOCUMENTS:
        if not (ROOT / name).is_file():
            continue
        for line in shell_lines(ROOT / name):
            if line.startswith("vjepa-ac "):
                seen += 1
                arguments = shlex.split(line)[1:]
                try:
                    parser.parse_args(arguments)
                except SystemExit as stop:
                    assert stop.code == 0, f"{name}: {line}"
    assert seen > 5


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"demo", "test", "lint", "bench", "install", "clean"} <= targets
    for name in DOCUMENTS:
        if (ROOT / name).is_file():
            for line in shell_lines(ROOT / name):
                if line.startswith("make "):
                    words = [word for word in shlex.split(line)[1:] if "=" not in word]
                    assert set(words) <= targets, f"{name}: {line}"


def test_examples_in_help_can_be_typed():
    """Every example that a command's help shows is parsed by that very parser."""
    import argparse

    parser, seen = build_parser(), 0

    def walk(node: argparse.ArgumentParser) -> None:
        nonlocal seen
        for line in re.sub(r"\\\n\s*", "", node.epilog or "").splitlines():
            if line.strip().startswith("vjepa-ac "):
                seen += 1
                words = shlex.split(re.split(r"   +", line.strip())[0])[1:]
                parser.parse_args(words)
        for action in node._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    walk(child)

    walk(parser)
    assert seen > 15


def test_links_in_documents_lead_somewhere():
    for name in (*DOCUMENTS, "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_contributors_are_told_of_every_slow_test():
    """Files whose tests are left out of the default run are in the list of them, or their folder is."""
    listed = tuple(re.findall(r"`(test/[^`]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "test").rglob("test_*.py")]
    slow = [name for name in files if re.search(r"mark\.slow\b", (ROOT / name).read_text(encoding="utf-8"))]
    assert len(slow) > 10 and [name for name in slow if not name.startswith(listed)] == []
