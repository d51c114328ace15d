from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from vjepa_ac_planner.cli import doctor


def test_findings_as_json(command, tmp_path, read_json):
    out = tmp_path / "doctor.json"
    code, text, err = command("doctor", "--json", out)
    record = read_json(out)
    assert code == (0 if record["ok"] else 3)
    assert [check["name"] for check in record["checks"]] == list(doctor.CHECKS)
    for check in record["checks"]:
        assert check["name"] in text and check["detail"]
        assert check["status"] in ("ok", "absent", "broken")
        assert check["status"] == "ok" or check["remedy"], f"{check['name']} says not what to do"
    torch = next(check for check in record["checks"] if check["name"] == "torch")
    assert torch["measured"]["float32_flops"] > 1e8
    assert record["ok"] == all(c["status"] == "ok" for c in record["checks"] if c["needed"])
    assert not err


def test_only_some(command, tmp_path, read_json):
    out = tmp_path / "doctor.json"
    assert command("doctor", "--only", "python", "--json", out)[0] == 0
    assert [check["name"] for check in read_json(out)["checks"]] == ["python"]


@pytest.mark.skipif(find_spec("mujoco") is None, reason="needs the sim extra")
def test_a_missing_renderer_is_3_and_says_what_to_install(command, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glass")
    code, text, _ = command("doctor", "--only", "gl")
    assert code == 3
    assert "broken" in text and "apt-get install" in text and "cannot run here yet: gl" in text


def test_a_missing_model_is_3(command, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "DEFAULT_MODEL", "not-shipped")
    code, text, _ = command("doctor", "--only", "models")
    assert code == 3 and "not-shipped" in text


def test_what_the_demo_does_not_need_may_be_absent(command, monkeypatch):
    absent = doctor.Check("ros", "absent", "rclpy not found", "source it", needed=False)
    monkeypatch.setitem(doctor.CHECKS, "ros", lambda: absent)
    code, text, _ = command("doctor", "--only", "ros")
    assert code == 0 and "-> source it" in text


@pytest.mark.skipif(find_spec("rclpy") is None, reason="needs the ros extra")
def test_a_ros_installation_that_hangs_is_broken(monkeypatch):
    def hang(command, timeout, **_):
        raise doctor.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    check = doctor.ros()
    assert (check.status, check.needed) == ("broken", False) and "60 s" in check.detail and check.remedy


def without(module, folder, *arguments):
    """Run ``vjepa-ac`` where ``module`` is not installed."""
    (folder / f"{module}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')"
    )
    return subprocess.run(
        [sys.executable, "-m", "vjepa_ac_planner", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "package", "checks"),
    [
        ("torch", "torch", ("python", "torch", "models", "weights")),
        ("transformers", "transformers", ("torch",)),
        ("cv2", "opencv-python-headless", ("models",)),
        ("numpy", "numpy", ("models",)),
        ("yaml", "pyyaml", ("models", "weights")),
    ],
)
def test_a_missing_package_is_a_finding(module, package, checks, tmp_path):
    done = without(module, tmp_path, "doctor", "--only", *checks)
    assert (done.returncode, done.stderr) == (3, "")
    assert f"{module} is not installed" in done.stdout and f"-> pip install {package}" in done.stdout
    assert all(f"\n  {name} " in f"\n{done.stdout}" for name in checks)


@pytest.mark.skipif(find_spec("mujoco") is None, reason="needs the sim extra")
def test_a_renderer_without_a_package_is_not_told_to_install_opengl(tmp_path):
    done = without("torch", tmp_path, "doctor", "--only", "gl")
    assert done.returncode == 3 and "-> pip install torch" in done.stdout and "apt-get" not in done.stdout


@pytest.mark.parametrize("arguments", [("models", "list"), ("plan", "--image", "a.png", "--goal", "b.png")])
def test_other_commands_say_what_to_install(arguments, tmp_path):
    extra = ("--state", "0,0,0,0,0,0,0") if arguments[0] == "plan" else ()
    done = without("torch", tmp_path, *arguments, *extra)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("vjepa-ac: error: torch is not installed (")
    assert done.stderr.endswith("): pip install torch\n")


def test_what_a_franka_needs_is_told(command, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    code, text, _ = command("doctor", "--only", "franka", "weights")
    assert code == 0 and "franka_msgs not found" in text and "frankarobotics/franka_ros2" in text
    assert "models convert vjepa2-ac-vitg FILE" in text
    assert text.endswith("All needed checks passed.\n")
