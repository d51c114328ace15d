from __future__ import annotations

import subprocess
import sys

import pytest

STATE = "0.5,0.0,0.35,3.1,0.0,-0.78,0"


def plan(images, json=None, image="good", goal="goal", state=STATE):
    extra = [] if json is None else ["--json", json]
    return ["plan", "--image", images[image], "--goal", images[goal], "--state", state, *extra]


def test_a_plan_carries_its_action_and_evidence(command, images, tmp_path, read_json):
    out = tmp_path / "plan.json"
    code, text, err = command(*plan(images, out))
    assert (code, err) == (0, "")
    record = read_json(out)
    assert len(record["action"]) == 7
    assert record["action"] == record["actions"][0]
    assert (record["model"], record["preset"]) == ("panda-sim", "demo")
    evidence = {"energy", "zero_energy", "current_energy", "improves", "seed", "stop_reason", "timings"}
    assert evidence | {"evaluations", "iterations", "predicted_states"} <= set(record)
    assert len(record["predicted_states"]) == len(record["actions"]) + 1
    assert all(len(state) == 7 for state in record["predicted_states"])
    assert record["iterations"][0].keys() >= {"best_energy", "elite_mean_energy", "mean", "std"}
    for name in ("dx", "dgrip", "energy"):
        assert name in text
    assert f"{record['action'][0]:+.4f}" in text


def test_the_seed_decides(command, images, tmp_path, read_json):
    actions = []
    for index, seed in enumerate((5, 5, 6)):
        out = tmp_path / f"{index}.json"
        assert command(*plan(images, out), "--seed", seed)[0] == 0
        actions.append(read_json(out)["action"])
    assert actions[0] == actions[1] != actions[2]


def test_states_may_be_separated_by_spaces(command, images):
    assert command(*plan(images, state=STATE.replace(",", "  ")))[0] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "cannot be read (No such file"),
        ("folder", "cannot be read (Is a directory"),
        ("empty", "is empty"),
        ("cut", "cut short"),
        ("text", "is not an image"),
        ("grey", "expected 3 colour channels (RGB), received 1"),
        ("alpha", "expected 3 colour channels (RGB), received 4"),
        ("deep", "expected 8 bits per channel, received uint16"),
        ("tiny", "at least 16x16 pixels"),
    ],
)
@pytest.mark.parametrize("role", ["image", "goal"])
def test_bad_images_are_refused_by_name(command, images, tmp_path, name, says, role):
    out = tmp_path / "plan.json"
    code, text, err = command(*plan(images, out, **{role: name}))
    assert (code, text) == (2, "")
    assert err.count("\n") == 1 and err.startswith(f"vjepa-ac: error: {images[name]}: ")
    assert says in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("1,2,3", "expected 7 numbers"),
        ("0.5,0,0.3,3.1,0,0,0,0", "received 8"),
        ("a,b,c,d,e,f,g", "expected numbers"),
        ("0.5,0,nan,3.1,0,0,0", "finite"),
        ("0.5,0,inf,3.1,0,0,0", "finite"),
        ("500,0,300,3.1,0,0,0", "millimetres"),
        ("0.5,0,0.3,180,0,0,0", "degrees"),
        ("0.5,0,0.3,3.1,0,0,7", "closedness"),
    ],
)
def test_bad_states_are_refused(command, images, state, says):
    code, text, err = command(*plan(images, state=state))
    assert (code, text) == (2, "")
    assert err.count("\n") == 1 and says in err


@pytest.mark.parametrize(
    ("extra", "code", "says"),
    [
        (["--model", "nonsense"], 2, "known: panda-sim"),
        (["--preset", "nonsense"], 2, "allowed demo"),
        (["--device", "toaster"], 2, "toaster"),
        (["--device", "cuda:93"], 3, "cuda:93"),
        (["--model", "vjepa2-ac-vitg"], 2, "no weights"),
        (["--seed", "99999999999999999999999"], 2, "seed: received 99999999999999999999999, allowed 0 .. "),
    ],
)
def test_what_cannot_be_had_is_said(command, images, extra, code, says):
    got, _, err = command(*plan(images), *extra)
    assert got == code
    assert err.count("\n") == 1 and says in err


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "soon"])
def test_a_deadline_is_a_time(command, images, value):
    code, _, err = command(*plan(images), "--deadline", value)
    assert code == 2 and "argument --deadline: " in err
    assert ("allowed 0.001 .. 3600" if value != "soon" else "expected a number") in err


def test_a_state_may_begin_with_a_minus(command, images):
    arguments = [str(word) for word in plan(images)]
    place = arguments.index("--state")
    joined = [*arguments[:place], f"--state=-{STATE}", *arguments[place + 2 :]]
    assert command(*joined)[0] == 0
    _, text, _ = command("plan", "--help")
    assert '--state="-0.5' in text


@pytest.mark.slow
def test_two_processes_make_the_same_plan(command, images, tmp_path, read_json):
    alone, together = tmp_path / "one.json", tmp_path / "two.json"
    assert command(*plan(images, alone), "--device", "cpu")[0] == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--standalone", "-m", "vjepa_ac_planner"]
    result = subprocess.run(
        [*map(str, (*torchrun, *plan(images, together), "--device", "cpu"))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(" sequences in ") == 1  # only rank 0 has something to say
    one, two = read_json(alone), read_json(together)
    assert two["evaluations"] == one["evaluations"]
    assert two["energy"] == pytest.approx(one["energy"], abs=1e-6)
    assert two["action"] == pytest.approx(one["action"], abs=1e-4)
