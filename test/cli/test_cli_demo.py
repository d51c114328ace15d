from __future__ import annotations

import re
import sys
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("gymnasium_robotics") is None:  # not importorskip: the package must import mujoco itself
    pytest.skip("needs the sim extra", allow_module_level=True)


@pytest.fixture(scope="module")
def demo(models_folder, tmp_path_factory):
    """One run of the demo with an untrained model, which does not get far: exit code, folder, output."""
    import contextlib
    import io

    from vjepa_ac_planner.cli.main import main

    folder = tmp_path_factory.mktemp("demo")
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setenv("VJEPA_AC_MODELS", str(models_folder))
        code = main(
            [
                "demo",
                "--seed",
                "3",
                "--episodes",
                "2",
                "--out",
                f"{folder}/out",
                "--gif",
                f"{folder}/run.gif",
            ]
        )
    return code, folder, text.getvalue()


def test_the_exit_code_says_whether_the_goal_was_reached(demo, read_json):
    code, folder, _ = demo
    record = read_json(folder / "out" / "report.json")
    assert code == (0 if record["success"] else 1)
    assert record["success"] == (record["errors_m"][-1] < 0.04)


def test_every_step_is_told_as_it_happens(demo, read_json):
    _, folder, text = demo
    record = read_json(folder / "out" / "report.json")
    steps = re.findall(r"step +(\d+)  (move|hold) +([\d.]+) cm", text)
    assert [int(number) for number, _, _ in steps] == list(range(1, len(record["steps"]) + 1))
    assert [kind for _, kind, _ in steps] == [step["command"]["kind"] for step in record["steps"]]
    assert "seed 4: " in text and "report.html" in text


def test_the_record_has_every_plan_and_what_made_it(demo, read_json):
    record = read_json(demo[1] / "out" / "report.json")
    assert record["command"] == "vjepa-ac demo --seed 3 --episodes 2"
    assert {"vjepa_ac_planner", "torch", "MuJoCo", "device"} <= set(record["versions"])
    for step in record["steps"]:
        assert len(step["state"]) == 7 and len(step["plan"]["action"]) == 7
    assert len(record["errors_m"]) == len(record["steps"]) + 1


def test_the_page_is_written_and_names_the_limits(demo):
    page = (demo[1] / "out" / "report.html").read_text()
    assert "It &lt;knows&gt; nothing." in page and "<knows>" not in page
    assert "vjepa-ac demo --seed 3 --episodes 2" in page


def test_the_animation_moves(demo, read_json):
    from PIL import Image

    picture = Image.open(demo[1] / "run.gif")
    steps = len(read_json(demo[1] / "out" / "report.json")["steps"])
    assert picture.n_frames >= 4 * steps
    first = np.asarray(picture.convert("RGB")).astype(int)
    picture.seek(picture.n_frames - 1)
    assert np.abs(first - np.asarray(picture.convert("RGB"))).max() > 50


def test_an_animation_without_pillow_is_refused_before_anything_is_run(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    code, out, err = command("demo", "--gif", str(tmp_path / "run.gif"), "--out", str(tmp_path / "out"))
    assert (code, out) == (3, "") and "pip install pillow" in err
    assert list(tmp_path.iterdir()) == []
