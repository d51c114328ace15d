"""Collect play data: what a training run learns the world from, without labels, rewards or tasks.

Episodes of :mod:`~vjepa_ac_planner.sim.play` are spread over processes and written as shards that can
be memory-mapped. Images are stored at the model's input size, already resized the way the planner
resizes camera images.
"""

from __future__ import annotations

import argparse
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

from vjepa_ac_planner.config import from_mapping, load_yaml, to_mapping
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.panda import PandaSim, SimConfig
from vjepa_ac_planner.sim.play import BEHAVIOURS, CollectConfig, collect_episode


def resize(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Square images [T, H, W, 3] to [T, size, size, 3]: bilinear without antialiasing, rounded.

    At exactly half the size this is the mean of each 2x2 block.
    """
    import torch

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(
        tensor, (size, size), mode="bilinear", align_corners=False, antialias=False
    )
    result: npt.NDArray[np.uint8] = (
        small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return result


def collect(config: CollectConfig, out: str | Path) -> Path:
    """Collect all episodes into a folder; shards that are already there are kept.

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
        ConfigError: the folder holds data of another configuration.
    """
    from tqdm import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.json"
    _check_manifest(manifest, config)
    todo = [i for i in range(_shards(config)) if not _shard_path(out, i, "states").exists()]
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
    import torch

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
        episodes.append({**episode, "images": resize(episode["images"], config.store_size)})
    behaviours = np.array([BEHAVIOURS.index(e["behaviour"]) for e in episodes], np.uint8)
    folder = Path(out)
    _save(_shard_path(folder, index, "images"), np.stack([e["images"] for e in episodes]))
    _save(_shard_path(folder, index, "behaviours"), behaviours)
    _save(_shard_path(folder, index, "objects"), np.stack([e["objects"] for e in episodes]))
    # The states come last: a shard counts as finished when they are there.
    _save(_shard_path(folder, index, "states"), np.stack([e["states"] for e in episodes]))
    return len(episodes)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    partial = _partial(path)
    with partial.open("wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def _partial(path: Path) -> Path:
    """Where a file is written before it is complete; one name per process."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


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
    _write_manifest(path, config, complete=False)


def _write_manifest(path: Path, config: CollectConfig, *, complete: bool) -> None:
    import mujoco

    content = {
        "complete": complete,
        "shards": _shards(config),
        "behaviours": BEHAVIOURS,
        "config": to_mapping(config),
        "seeds": [config.first_seed, config.first_seed + config.episodes - 1],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "mujoco": mujoco.__version__,
        },
    }
    partial = _partial(path)
    partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m vjepa_ac_planner.sim.collect --out DIR``."""
    parser = argparse.ArgumentParser(description="Collect play data in the simulator.")
    parser.add_argument("--config", help="YAML file with the options of CollectConfig")
    parser.add_argument("--episodes", type=int, help="number of episodes")
    parser.add_argument("--seed", type=int, help="seed of the first episode, below 100000")
    parser.add_argument("--processes", type=int, help="worker processes")
    parser.add_argument("--out", required=True, help="folder to write to; finished shards are kept")
    options = parser.parse_args(arguments)
    mapping = load_yaml(options.config) if options.config else {}
    given = {"episodes": options.episodes, "first_seed": options.seed, "processes": options.processes}
    mapping.update({key: value for key, value in given.items() if value is not None})
    collect(from_mapping(CollectConfig, mapping, options.config or "options"), options.out)


if __name__ == "__main__":
    main()
