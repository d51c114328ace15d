from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "data" / "mini-ac.pt"
DESCRIPTION = """\
name: mini
summary: The golden model.
encoder: {image_size: 64, dim: 128, depth: 2, heads: 2}
predictor: {latent_dim: 128, dim: 128, depth: 2, heads: 2, grid: [4, 4]}
weights: mini.safetensors
"""


@pytest.fixture
def mini(tmp_path) -> Path:
    (tmp_path / "mini.yaml").write_text(DESCRIPTION)
    return tmp_path / "mini.yaml"


def test_the_list_shows_names_and_what_is_missing(command, tmp_path, read_json):
    code, text, _ = command("models", "list", "--json", tmp_path / "list.json")
    assert code == 0
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert "ready" in rows["panda-sim"] and "no weights" in rows["vjepa2-ac-vitg"]
    assert {m["name"] for m in read_json(tmp_path / "list.json")["models"]} >= {"panda-sim"}


def test_info_counts_parameters(command, tmp_path, read_json):
    code, text, _ = command("models", "info", "vjepa2-ac-vitg", "--json", tmp_path / "info.json")
    assert code == 0 and "1012.2 M" in text
    assert round(read_json(tmp_path / "info.json")["parameters"]["predictor"] / 1e6, 1) == 305.2


def test_convert_then_verify(command, mini, tmp_path, read_json):
    out = tmp_path / "mini.safetensors"
    assert command("models", "verify", mini)[0] == 1  # no weights yet
    code, text, err = command("models", "convert", mini, GOLDEN, "--out", out, "--dtype", "float32")
    assert (code, err) == (0, "") and str(out) in text
    code, text, _ = command("models", "verify", mini, "--json", tmp_path / "v.json")
    assert code == 0 and "fits" in text
    assert read_json(tmp_path / "v.json")["ok"] is True


def test_a_predictor_alone_takes_its_encoder_from_elsewhere(command, mini, tmp_path):
    import torch
    from safetensors.torch import save_file

    from vjepa_ac_planner.nn.checkpoint import read_weights

    held = {name: stored.read().clone() for name, stored in read_weights(GOLDEN).items()}
    save_file({n: t for n, t in held.items() if n.startswith("encoder.")}, tmp_path / "hf.safetensors")
    published = torch.load(GOLDEN, weights_only=True)
    torch.save({"predictor": published["predictor"]}, tmp_path / "predictor.pt")
    options = ["--encoder", tmp_path / "hf.safetensors", "--out", tmp_path / "mini.safetensors"]
    code, _, err = command("models", "convert", mini, tmp_path / "predictor.pt", *options)
    assert (code, err) == (0, "") and command("models", "verify", mini)[0] == 0

    save_file({n: -t for n, t in held.items() if n.startswith("encoder.")}, tmp_path / "hf.safetensors")
    code, _, err = command("models", "convert", mini, GOLDEN, *options)
    assert code == 0 and "warning: the encoder of" in err and "is not the one in" in err


def test_verify_fails_on_a_damaged_file(command, mini, tmp_path, read_json):
    out = tmp_path / "mini.safetensors"
    command("models", "convert", mini, GOLDEN, "--out", out)
    out.write_bytes(out.read_bytes()[:-1000])
    code, _, err = command("models", "verify", mini, "--json", tmp_path / "v.json")
    assert code == 1 and "check failed" in err and err.count("\n") == 1
    record = read_json(tmp_path / "v.json")
    assert record["ok"] is False and str(out) in record["problem"]


def test_convert_refuses_what_is_no_checkpoint(command, mini, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"nothing of use")
    out = tmp_path / "mini.safetensors"
    code, _, err = command("models", "convert", mini, tmp_path / "bad.pt", "--out", out)
    assert code == 2 and "bad.pt" in err and not out.exists()
