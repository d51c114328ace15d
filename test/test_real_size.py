"""The published sizes on a CPU: 1.01 B + 305 M parameters, written, converted, loaded and run once.

Each stage is a process of its own, so that its peak memory is its own. Needs 16 GB of disk and 8 GB of
memory; run with ``pytest -m slow -s test/test_real_size.py`` to see the figures.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARAMETERS = 1_012_173_952 + 305_213_824
FULL_COPY = 4 * PARAMETERS
"""Bytes of all weights in float32."""


def published_shapes(part: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the published checkpoint, written down from its description."""
    if part == "encoder":
        dim, hidden, depth, blocks, norm = 1408, 6144, 40, "blocks", "norm"
        layers: dict[str, tuple[int, ...]] = {"patch_embed.proj": (dim, 3, 2, 16, 16)}
    else:
        dim, hidden, depth, blocks, norm = 1024, 4096, 24, "predictor_blocks", "predictor_norm"
        layers = {
            "predictor_embed": (dim, 1408),
            "predictor_proj": (1408, dim),
            "action_encoder": (dim, 7),
            "state_encoder": (dim, 7),
            "extrinsics_encoder": (dim, 6),
        }
    for i in range(depth):
        layers[f"{blocks}.{i}.norm1"] = layers[f"{blocks}.{i}.norm2"] = (dim,)
        layers[f"{blocks}.{i}.attn.qkv"] = (3 * dim, dim)
        layers[f"{blocks}.{i}.attn.proj"] = (dim, dim)
        layers[f"{blocks}.{i}.mlp.fc1"] = (hidden, dim)
        layers[f"{blocks}.{i}.mlp.fc2"] = (dim, hidden)
    layers[norm] = (dim,)
    for name, shape in layers.items():
        yield f"module.backbone.{name}.weight", shape
        yield f"module.backbone.{name}.bias", shape[:1]


def values(part: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The same numbers for the same name, wherever they are asked for."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{part}.{name}".encode()))
    if len(shape) == 1:
        return torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
    return torch.empty(shape).uniform_(-1, 1, generator=generator) * (3.0 / shape[1:].numel()) ** 0.5


def measured(stage: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a stage; add its seconds (of the clock and of all its threads on the CPU), its peak memory, and
    the part of that which is no mapped file.
    """
    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            status = Path("/proc/self/status").read_text()
            peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]) * 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    try:
        figures = stage()
    finally:
        done.set()
        watcher.join()
    figures["seconds"] = round(time.perf_counter() - begin, 1)
    figures["cpu_seconds"] = round(time.process_time() - begin_cpu, 1)
    figures["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures["peak_anonymous"] = peak[0]
    return figures


def write_published(folder: Path) -> dict[str, Any]:
    """A checkpoint as published, with random weights and something else beside them."""
    torch.save(
        {
            part: {name: values(part, name, torch.Size(shape)) for name, shape in published_shapes(part)}
            for part in ("encoder", "predictor")
        }
        | {"epoch": 315, "opt": {"exp_avg": torch.zeros(1000, 1000)}},
        folder / "vjepa2-ac-vitg.pt",
    )
    return {"bytes": (folder / "vjepa2-ac-vitg.pt").stat().st_size}


def convert(folder: Path) -> dict[str, Any]:
    """Published layout to bfloat16 safetensors."""
    from vjepa_ac_planner.models import find_model
    from vjepa_ac_planner.nn import checkpoint

    description = find_model("vjepa2-ac-vitg").description
    target = folder / "vjepa2-ac-vitg.safetensors"
    checkpoint.convert(
        folder / "vjepa2-ac-vitg.pt", target, description.encoder, description.predictor, torch.bfloat16
    )
    return {"bytes": target.stat().st_size}


def run(folder: Path) -> dict[str, Any]:
    """Load the converted file in bfloat16, compare some tensors, encode a frame, imagine two futures."""
    import numpy as np

    from vjepa_ac_planner.world_model import WorldModel

    clock = [time.process_time()]
    model = WorldModel.load(folder / "vjepa2-ac-vitg.safetensors", device="cpu", dtype="bfloat16")
    clock.append(time.process_time())
    image = np.random.default_rng(0).integers(0, 256, (1, 720, 1280, 3), dtype=np.uint8)
    z0 = model.encode(image)
    clock.append(time.process_time())
    actions = torch.zeros(2, 2, 7)
    actions[1, :, :3] = 0.05
    latents, states = model.rollout(z0[0], torch.tensor([0.4, 0.0, 0.3, 3.1, 0.0, 0.0, 0.0]), actions)
    clock.append(time.process_time())

    assert z0.shape == (1, 256, 1408)
    assert latents.shape == (2, 2, 256, 1408)
    assert latents.dtype == torch.bfloat16
    assert latents.isfinite().all()
    assert not torch.equal(latents[0], latents[1])
    torch.testing.assert_close(states[1, -1, :3], torch.tensor([0.5, 0.1, 0.4]))
    state = model.encoder.vit.state_dict()
    qkv = values("encoder", "module.backbone.blocks.17.attn.qkv.weight", torch.Size((4224, 1408)))
    assert torch.equal(state["layer.17.attention.key.weight"], qkv[1408:2816].bfloat16())
    up = values("predictor", "module.backbone.predictor_blocks.23.mlp.fc1.weight", torch.Size((4096, 1024)))
    assert torch.equal(model.predictor.state_dict()["blocks.23.mlp.up.weight"], up.bfloat16())
    load, encode, rollout = (round(b - a, 1) for a, b in itertools.pairwise(clock))
    return {
        "encoder_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "predictor_parameters": sum(p.numel() for p in model.predictor.parameters()),
        "load_cpu_seconds": load,
        "encode_cpu_seconds": encode,
        "rollout_2x2_cpu_seconds": rollout,
    }


def in_process(stage: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    code = (
        "import json, sys; from pathlib import Path; import test_real_size as t; "
        f"print('FIGURES' + json.dumps(t.measured(lambda: t.{stage.__name__}(Path(sys.argv[1])))))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "test")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    figures: dict[str, Any] = json.loads(answer.stdout.split("FIGURES")[1])
    sys.stdout.write(f"\n{stage.__name__}: {figures}\n")
    return figures


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path.iterdir():  # pytest keeps temporary folders; 8 GB are too much to keep
        path.unlink()


def test_published_to_converted_to_running(folder: Path) -> None:
    written = in_process(write_published, folder)
    assert written["bytes"] > FULL_COPY

    converted = in_process(convert, folder)
    assert 2 * PARAMETERS < converted["bytes"] < 2 * PARAMETERS + 1_000_000
    # The mapped source is the only copy there ever is; on the heap lies one tensor at a time.
    assert converted["peak_rss"] < 1.25 * FULL_COPY
    assert converted["peak_anonymous"] < 0.25 * FULL_COPY

    ran = in_process(run, folder)
    assert ran["encoder_parameters"] == 1_012_173_952
    assert ran["predictor_parameters"] == 305_213_824
    assert ran["peak_rss"] < 1.25 * FULL_COPY
    assert ran["peak_anonymous"] < 0.75 * FULL_COPY
