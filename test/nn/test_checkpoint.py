"""Weights in and out: every layout, and every file that must be refused, with what it says."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vjepa_ac_planner.errors import CheckpointError, DeviceMemoryError
from vjepa_ac_planner.models import ModelDescription
from vjepa_ac_planner.nn import checkpoint
from vjepa_ac_planner.nn.encoder import EncoderConfig
from vjepa_ac_planner.nn.predictor import PredictorConfig
from vjepa_ac_planner.nn.storage import StoredTensor, read_safetensors, write_safetensors

PUBLISHED = Path(__file__).parents[1] / "data" / "mini-ac.pt"
ENCODER = EncoderConfig(image_size=64, dim=128, depth=2, heads=2)
PREDICTOR = PredictorConfig(latent_dim=128, dim=128, depth=2, heads=2, grid=(4, 4))
CPU = torch.device("cpu")


def load(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    encoder, predictor = checkpoint.load(
        checkpoint.read_weights(path), ENCODER, PREDICTOR, CPU, dtype, path.name
    )
    return {**encoder.state_dict(prefix="encoder."), **predictor.state_dict(prefix="predictor.")}


@pytest.fixture
def published() -> dict[str, Any]:
    return torch.load(PUBLISHED, weights_only=True)


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "changed.pt")
    return folder / "changed.pt"


def test_fused_qkv_is_split_in_order(published: dict[str, Any]) -> None:
    weights = checkpoint.read_published(PUBLISHED)
    fused = published["encoder"]["module.backbone.blocks.1.attn.qkv.weight"]
    for number, name in enumerate(("query", "key", "value")):
        part = weights[f"encoder.layer.1.attention.{name}.weight"].read()
        assert torch.equal(part, fused[number * 128 : (number + 1) * 128])


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_any_wrapper_prefix_and_a_stray_pos_embed_are_accepted(
    published: dict[str, Any], tmp_path: Path, prefix: str
) -> None:
    expected = load(PUBLISHED)
    for part in ("encoder", "predictor"):
        published[part] = {
            key.replace("module.backbone.", prefix): tensor for key, tensor in published[part].items()
        }
        published[part][f"{prefix}pos_embed"] = torch.zeros(1, 16, 128)
    again = load(saved(tmp_path, published))
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_the_unused_extrinsics_encoder_may_be_there_or_not(
    published: dict[str, Any], tmp_path: Path
) -> None:
    assert not any("extrinsics" in name for name in load(PUBLISHED))
    kept = {k: v for k, v in published["predictor"].items() if "extrinsics" not in k}
    load(saved(tmp_path, {**published, "predictor": kept}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conversion_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    target = tmp_path / "new" / "model.safetensors"
    checkpoint.convert(PUBLISHED, target, ENCODER, PREDICTOR, dtype)
    direct, converted = load(PUBLISHED), load(target)
    assert direct.keys() == converted.keys()
    for name, tensor in direct.items():
        assert torch.equal(converted[name], tensor.to(dtype).float()), name
    assert [path.name for path in target.parent.iterdir()] == ["model.safetensors"]
    # The independent reader of the safetensors package agrees with what was streamed.
    stored = load_file(target)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert torch.equal(stored["predictor.embed.weight"].float(), converted["predictor.embed.weight"])


def test_weights_are_copied_out_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.convert(PUBLISHED, path, ENCODER, PREDICTOR, torch.float32)
    before = load(path)
    kept = {name: tensor.clone() for name, tensor in before.items()}
    with open(path, "r+b") as file:  # someone overwrites the file in place while the model is in use
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    assert all(torch.equal(before[name], kept[name]) for name in kept)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_encoder_of_a_hugging_face_folder(tmp_path: Path, sharded: bool) -> None:
    from transformers import VJEPA2Model

    torch.manual_seed(0)
    model = VJEPA2Model(
        ENCODER.transformers_config(
            pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1
        )
    )
    folder = tmp_path / "hf"
    model.save_pretrained(folder, max_shard_size="1MB" if sharded else "1GB")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    target = tmp_path / "model.safetensors"
    checkpoint.convert(PUBLISHED, target, ENCODER, PREDICTOR, torch.float32, encoder_source=folder)
    converted, direct = load(target), load(PUBLISHED)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(converted[f"encoder.vit.{name}"], tensor), name
    assert torch.equal(converted["predictor.embed.weight"], direct["predictor.embed.weight"])


def test_another_encoder_than_its_own_is_told(published: dict[str, Any], tmp_path: Path) -> None:
    own = {
        name: stored.read().clone()
        for name, stored in checkpoint.read_weights(PUBLISHED).items()
        if name.startswith("encoder.")
    }
    save_file(own, tmp_path / "own.safetensors")
    save_file({name: 1.01 * tensor for name, tensor in own.items()}, tmp_path / "other.safetensors")
    target = tmp_path / "model.safetensors"

    def note(source: Path, encoder: str) -> str:
        return checkpoint.convert(
            source, target, ENCODER, PREDICTOR, encoder_source=tmp_path / f"{encoder}.safetensors"
        )

    assert note(PUBLISHED, "own") == ""
    assert note(target, "own") == ""  # rounded to bfloat16 it is the same one
    told = note(PUBLISHED, "other")
    assert "other.safetensors is not the one in" in told and "leave out --encoder to keep it" in told

    # Without an encoder of its own there is nothing to compare; and none is an error where none is given.
    alone = saved(tmp_path, {"predictor": published["predictor"]})
    assert note(alone, "own") == "" and load(target).keys() == load(PUBLISHED).keys()
    with pytest.raises(CheckpointError, match=r"expected a dict .* received \['predictor'\]"):
        checkpoint.convert(alone, target, ENCODER, PREDICTOR)
    with pytest.raises(CheckpointError, match=r"received \['encoder'\]"):
        note(saved(tmp_path, {"encoder": published["encoder"]}), "own")


def test_save_model_and_what_it_refuses(tmp_path: Path) -> None:
    from vjepa_ac_planner.models import find_model

    description = ModelDescription("mini", "A test.", ENCODER, PREDICTOR)
    encoder, predictor = checkpoint.load(
        checkpoint.read_weights(PUBLISHED), ENCODER, PREDICTOR, CPU, torch.float32, "mini"
    )
    folder = tmp_path / "mini"
    # Names as a transformers encoder has them, without our module's prefix.
    checkpoint.save_model(folder, description, encoder.vit.state_dict(), predictor.state_dict())
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "model.yaml"]
    files = find_model(folder)
    assert files.description == description
    assert files.weights is not None
    assert all(
        torch.equal(a, b)
        for a, b in zip(load(files.weights).values(), load(PUBLISHED).values(), strict=True)
    )

    broken = {**predictor.state_dict(), "norm.bias": torch.full((128,), float("nan"))}
    with pytest.raises(CheckpointError, match=r"not written, since predictor\.norm\.bias holds NaN"):
        checkpoint.save_model(tmp_path / "bad", description, encoder.state_dict(), broken)
    assert not list((tmp_path / "bad").iterdir())
    with pytest.raises(
        CheckpointError, match=r"model 'mini': does not fit .* Missing: encoder\.embeddings"
    ):
        checkpoint.save_model(tmp_path / "bad", description, {}, predictor.state_dict())


def test_missing_unexpected_and_misshapen_are_listed(published: dict[str, Any], tmp_path: Path) -> None:
    predictor = {k: v for k, v in published["predictor"].items() if "predictor_blocks.0." not in k}
    predictor["module.backbone.camera_encoder.weight"] = torch.zeros(3)
    predictor["module.backbone.predictor_proj.bias"] = torch.zeros(64)
    path = saved(tmp_path, {**published, "predictor": predictor})
    with pytest.raises(CheckpointError) as caught:
        load(path)
    text = str(caught.value)
    assert "Missing: predictor.blocks.0.norm1.weight, " in text
    assert "and 7 more (12 in all)" in text
    assert "Unexpected: predictor.camera_encoder.weight." in text
    assert "Other shape: predictor.out.bias is 64, not 128." in text


def test_another_architecture_is_refused() -> None:
    deeper = EncoderConfig(image_size=64, dim=128, depth=3, heads=2)
    with pytest.raises(CheckpointError, match=r"Missing: encoder\.layer\.2\.norm1\.weight"):
        checkpoint.check(checkpoint.read_weights(PUBLISHED), deeper, PREDICTOR, "mini")


def test_values_that_are_not_finite_are_refused(published: dict[str, Any], tmp_path: Path) -> None:
    published["encoder"]["module.backbone.norm.weight"][3] = float("inf")
    path = saved(tmp_path, published)
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in encoder\.layernorm\.weight"):
        load(path)
    target = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"not written, since encoder\.layernorm\.weight"):
        checkpoint.convert(path, target, ENCODER, PREDICTOR)
    assert [p.name for p in tmp_path.iterdir()] == ["changed.pt"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 34603008 bytes."),
    ],
)
def test_a_full_device_says_so(error: RuntimeError) -> None:
    def full() -> torch.Tensor:
        raise error

    weights = {name: StoredTensor(t.shape, full) for name, t in checkpoint.read_weights(PUBLISHED).items()}
    with pytest.raises(DeviceMemoryError, match="mini: the weights do not fit on cpu"):
        checkpoint.load(weights, ENCODER, PREDICTOR, CPU, torch.float32, "mini")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("absent.pt", None, r"absent\.pt: cannot be read \(No such file"),
        ("empty.pt", b"", "is truncated or no PyTorch checkpoint"),
        ("text.pt", b"<html>404 not found</html>", "is truncated or no PyTorch checkpoint"),
        ("half.pt", PUBLISHED.read_bytes()[:2_000_000], "is truncated or no PyTorch checkpoint"),
        ("raw.pt", pickle.dumps(Malicious()), "is truncated or no PyTorch checkpoint"),
        ("absent.safetensors", None, r"absent\.safetensors: cannot be read"),
        ("half.safetensors", b"\x40" + bytes(200), "is truncated or no safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, name: str, content: bytes | None, text: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        load(tmp_path / name)


def test_code_in_a_checkpoint_is_refused_and_not_run(
    published: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, {**published, "opt": Malicious()})
    with pytest.raises(
        CheckpointError, match=r"more than tensors and plain values \(posix.mkdir\).*refused"
    ):
        load(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2], "expected a dict with state dicts 'encoder' and 'predictor', received list"),
        ({"target_encoder": {}, "epoch": 3}, r"received \['target_encoder', 'epoch'\]"),
        ({"encoder": {"a": 1}, "predictor": {}}, "is no V-JEPA 2-AC checkpoint"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: Any, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        load(saved(tmp_path, content))


def test_a_hugging_face_file_without_an_encoder_is_refused(tmp_path: Path) -> None:
    save_file({"predictor.x": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="holds no encoder"):
        checkpoint.read_huggingface_encoder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no \*\.safetensors file"):
        checkpoint.read_huggingface_encoder(tmp_path / "empty")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": StoredTensor.of(torch.ones(3))}, torch.float32, {})

    def fails() -> torch.Tensor:
        raise OSError(28, "No space left on device")

    bad = {"a": StoredTensor.of(torch.zeros(3)), "b": StoredTensor((2,), fails)}
    with pytest.raises(CheckpointError, match="cannot be written \\(No space left"):
        write_safetensors(path, bad, torch.float32, {})
    assert torch.equal(read_safetensors(path)["a"].read(), torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
