"""Collect play data: what a training run learns the world from, without labels, rewards or tasks.

Episodes of :mod:`~vjepa_ac_planner.sim.play` are spread over processes and written as shards that can
be memory-mapped. Images are stored at the model's input size, already resized the way the planner
resizes camera images.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vjepa_ac_planner.config import to_mapping
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.nn.storage import remove_stale, replacing
from vjepa_ac_planner.outputs import make_folder
from vjepa_ac_planner.preprocess import shrink
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.play import BEHAVIOURS, CollectConfig, collect_episode


def collect(config: CollectConfig, out: str | Path) -> Path:
    """Collect all episodes into a folder; shards that are already there, and full, are kept.

    The folder then holds, for each shard, ``shard-00000-images.npy`` uint8 [E, T, S, S, 3],
    ``-states.npy`` float32 [E, T, 7] as measured (training takes its actions from their differences),
    ``-behaviours.npy`` uint8 [E] (index into ``BEHAVIOURS``), and for probes, not for training,
    ``-objects.npy`` float32 [E, T, 2, 3] (cup and box, [m]);
    and ``manifest.json``. All of it can be memory-mapped.

    Args:
        config: what to collect.
        out: the folder, made if absent.

    Returns:
        The manifest's path.

    Raises:
        ConfigError: the folder holds data of another configuration, or more episodes.
        InputError: the folder cannot be made.
        CheckpointError: a file cannot be written.
    """
    from tqdm import tqdm

    out = make_folder(out)
    manifest = out / "manifest.json"
    _check_manifest(manifest, config)
    held = _check_shards(out, config)
    _write_manifest(manifest, config, complete=False)
    remove_stale(out)
    # A shard that was the last one of fewer episodes is not full: it is made again.
    todo = [i for i in range(_shards(config)) if held.get(i) != len(_shard_seeds(config, i))]
    with (
        ProcessPoolExecutor(
            min(config.processes, max(1, len(todo))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_worker_threads,
        ) as pool,
        tqdm(total=config.episodes, unit="episode", desc="collect") as bar,
    ):
        bar.update(config.episodes - sum(len(_shard_seeds(config, i)) for i in todo))
        futures = [pool.submit(_collect_shard, config, i, str(out)) for i in todo]
        try:
            for future in as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _write_manifest(manifest, config, complete=True)
    return manifest


def _worker_threads() -> None:
    # One rendering thread and one arithmetic thread per process: the processes are the parallelism.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@cache  # one for each place of the camera
def _worker_sim(config: SimConfig) -> PandaSim:
    return PandaSim(config)


def _shards(config: CollectConfig) -> int:
    return -(-config.episodes // config.shard_episodes)


def _shard_seeds(config: CollectConfig, index: int) -> range:
    start = index * config.shard_episodes
    stop = min(start + config.shard_episodes, config.episodes)
    return range(config.first_seed + start, config.first_seed + stop)


def _shard_path(out: Path, index: int, kind: str) -> Path:
    return out / f"shard-{index:05d}-{kind}.npy"


def _collect_shard(config: CollectConfig, index: int, out: str) -> int:
    episodes = []
    for seed in _shard_seeds(config, index):
        episode = collect_episode(seed, config, _worker_sim(config.scene(seed)))
        episodes.append({**episode, "images": shrunk(episode["images"], config.store_size)})
    behaviours = np.array([BEHAVIOURS.index(e["behaviour"]) for e in episodes], np.uint8)
    folder = Path(out)
    # The states come last, and those of a shard that was not full go first: a shard counts as finished when
    # they are there.
    _shard_path(folder, index, "states").unlink(missing_ok=True)
    _save(_shard_path(folder, index, "images"), np.stack([e["images"] for e in episodes]))
    _save(_shard_path(folder, index, "behaviours"), behaviours)
    _save(_shard_path(folder, index, "objects"), np.stack([e["objects"] for e in episodes]))
    _save(_shard_path(folder, index, "states"), np.stack([e["states"] for e in episodes]))
    return len(episodes)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with replacing(path) as file:
        np.save(file, array)


def shrunk(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Square images [T, H, H, 3] as they are stored, [T, size, size, 3]."""
    small: npt.NDArray[np.uint8] = shrink(torch.from_numpy(images), size).numpy()
    return small


def _identity(config: CollectConfig) -> dict[str, Any]:
    """What must agree for two runs to continue one another; the number of processes need not."""
    mapping = to_mapping(config)
    return {key: value for key, value in mapping.items() if key not in ("processes", "episodes")}


def _check_manifest(path: Path, config: CollectConfig) -> None:
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["config"]
        wanted = json.loads(json.dumps(_identity(config)))
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise ConfigError(
                f"{path.parent}: holds data collected with other {', '.join(differing)}; "
                "choose another folder, or delete this one"
            )


def _check_shards(out: Path, config: CollectConfig) -> dict[int, int]:
    """Episodes that each shard holds, by its number; refuses more than there are to be."""
    held = {}
    for path in out.glob("shard-*-states.npy"):
        try:
            count = len(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError):
            continue  # damaged: it is made again
        held[int(path.name.split("-")[1])] = count
    surplus = [index for index, count in held.items() if count > len(_shard_seeds(config, index))]
    if surplus:
        raise ConfigError(
            f"{out}: holds {sum(held.values())} episodes, more than the {config.episodes} that are asked "
            f"for (shards {', '.join(map(str, sorted(surplus)))}); ask for as many, or choose another "
            "folder"
        )
    return held


def _write_manifest(path: Path, config: CollectConfig, *, complete: bool) -> None:
    content = {
        "complete": complete,
        "shards": _shards(config),
        "behaviours": BEHAVIOURS,
        "config": to_mapping(config),
        "seeds": [config.first_seed, config.first_seed + config.episodes - 1],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            # Not of the module: whoever imports it first chooses how it renders.
            "mujoco": importlib.metadata.version("mujoco"),
        },
    }
    with replacing(path) as file:
        file.write(json.dumps(content, indent=2).encode())
