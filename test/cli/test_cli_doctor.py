from __future__ import annotations

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
