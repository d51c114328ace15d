"""Play data: format, resuming, limits, seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vjepa_ac_planner.config import from_mapping, load_yaml
from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.collect import collect, shrunk
from vjepa_ac_planner.sim.panda import WORKSPACE, PandaSim, SimConfig
from vjepa_ac_planner.sim.play import BEHAVIOURS, CollectConfig, View, collect_episode
from vjepa_ac_planner.types import Command

SMALL = CollectConfig(
    episodes=3,
    frames=4,
    store_size=32,
    processes=1,
    shard_episodes=2,
    sim=SimConfig(width=64, height=64, faces=2000, shadow_size=0),
)


def only(behaviour: str) -> CollectConfig:
    share = {name: float(name == behaviour) for name in BEHAVIOURS}
    return replace(
        SMALL,
        frames=9,
        random_fraction=share["random"],
        goal_fraction=share["goal"],
        contact_fraction=share["contact"],
        yaw_fraction=0.5,
    )


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_command_stays_in_the_workspace(
    sim: PandaSim, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[np.ndarray] = []
    apply = sim.apply

    def record(command: Command) -> None:
        targets.append(command.target)
        apply(command)

    monkeypatch.setattr(sim, "apply", record)
    for seed in range(4):
        episode = collect_episode(seed, only(behaviour), sim)
        assert episode["behaviour"] == behaviour
        assert episode["images"].shape == (9, 64, 64, 3) and episode["images"].dtype == np.uint8
        assert episode["states"].shape == (9, 7) and episode["states"].dtype == np.float32
        assert episode["commands"].shape == (8, 7) and episode["objects"].shape == (9, 2, 3)
        # Contact may push the arm a little off; a frame that is missing would show as a jump.
        assert np.abs(np.diff(episode["states"][:, :3], axis=0)).max() < 0.10
    assert len(targets) >= 32
    for target in targets:
        assert WORKSPACE.contains(target[:3]) and 0.0 <= target[6] <= 1.0


def test_an_episode_is_a_function_of_its_seed(sim: PandaSim) -> None:
    first = collect_episode(5, SMALL, sim)
    collect_episode(6, SMALL, sim)
    again = collect_episode(5, SMALL, sim)
    assert (first["images"] == again["images"]).all() and (first["states"] == again["states"]).all()


def test_evaluation_seeds_are_refused(sim: PandaSim) -> None:
    with pytest.raises(ConfigError, match=r"seed: received 100000, allowed 0 \.\. 99999"):
        collect_episode(100_000, SMALL, sim)
    with pytest.raises(ConfigError, match="first_seed: received 99999"):
        replace(SMALL, first_seed=99_999)


def test_halving_is_the_mean_of_each_block() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    blocks = images.reshape(2, 4, 2, 4, 2, 3).astype(float).mean(axis=(2, 4))
    assert (shrunk(images, 4) == np.round(blocks)).all()


def test_shards_resume_where_they_stopped(tmp_path: Path) -> None:
    manifest = collect(SMALL, tmp_path)
    found = json.loads(manifest.read_text())
    assert found["complete"] and found["shards"] == 2 and found["seeds"] == [0, 2]
    assert found["versions"]["mujoco"]
    images = [np.load(tmp_path / f"shard-{i:05d}-images.npy", mmap_mode="r") for i in (0, 1)]
    states = [np.load(tmp_path / f"shard-{i:05d}-states.npy", mmap_mode="r") for i in (0, 1)]
    assert [array.shape for array in images] == [(2, 4, 32, 32, 3), (1, 4, 32, 32, 3)]
    assert [array.shape for array in states] == [(2, 4, 7), (1, 4, 7)]
    assert np.load(tmp_path / "shard-00000-behaviours.npy").max() < len(BEHAVIOURS)
    kinds = {path.stem.rpartition("-")[2] for path in tmp_path.glob("shard-*.npy")}
    assert kinds == {"images", "states", "behaviours", "objects"}
    assert not list(tmp_path.glob(".*"))

    kept = tmp_path / "shard-00000-states.npy"
    lost = tmp_path / "shard-00001-states.npy"
    untouched, before = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    collect(SMALL, tmp_path)
    assert kept.stat().st_mtime_ns == untouched
    assert lost.read_bytes() == before

    with pytest.raises(ConfigError, match="holds data collected with other store_size"):
        collect(replace(SMALL, store_size=16), tmp_path)


def test_more_episodes_fill_the_last_shard_and_fewer_are_refused(tmp_path: Path) -> None:
    collect(SMALL, tmp_path)
    full, short = (tmp_path / f"shard-{i:05d}-states.npy" for i in (0, 1))
    untouched, first = full.stat().st_mtime_ns, np.load(short)
    manifest = collect(replace(SMALL, episodes=5), tmp_path)
    lengths = [len(np.load(path)) for path in sorted(tmp_path.glob("*-images.npy"))]
    assert lengths == [2, 2, 1] and json.loads(manifest.read_text())["config"]["episodes"] == 5
    assert full.stat().st_mtime_ns == untouched
    assert (np.load(short)[:1] == first).all()  # the same episode, made again
    for fewer in (4, 1):
        with pytest.raises(ConfigError, match=rf"holds 5 episodes, more than the {fewer} that are asked"):
            collect(replace(SMALL, episodes=fewer), tmp_path)
    assert json.loads(manifest.read_text())["complete"]

    (tmp_path / "shard-00002-states.npy").write_bytes(b"cut")
    collect(replace(SMALL, episodes=5), tmp_path)
    assert len(np.load(tmp_path / "shard-00002-states.npy")) == 1


@pytest.mark.parametrize("name", ["collect.yaml", "collect-contact.yaml"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    path = Path(__file__).parents[2] / "config" / "training" / name
    config = from_mapping(CollectConfig, load_yaml(path), str(path))
    assert config.sim.width == 2 * config.store_size


def test_contact_closes_on_things_lifts_and_misses(sim: PandaSim) -> None:
    config = replace(only("contact"), frames=17, yaw_fraction=0.0)
    episodes = [collect_episode(seed, config, sim) for seed in range(12)]
    states = np.stack([e["states"] for e in episodes])
    commands = np.stack([e["commands"] for e in episodes])
    heights = np.stack([e["objects"] for e in episodes])[..., 2]
    assert ((heights > 0.06).any(axis=(1, 2))).sum() >= 3, "things are lifted"
    stopped = (commands[..., 6] > 0.95) & (states[:, 1:, 6] < 0.6) & (states[:, :-1, 6] < 0.6)
    assert stopped.any(axis=1).sum() >= 3, "fingers are told to close and a thing stops them"
    assert ((states[:, 1:, 6] > 0.95) & (commands[..., 6] > 0.95)).any(axis=1).sum() >= 3, (
        "and nothing does"
    )
    assert (states[..., 2] < 0.16).any(axis=1).mean() > 0.5, "the hand is low"


def test_looks_differ_by_episode_and_what_happens_does_not(sim: PandaSim) -> None:
    plain = collect_episode(8, SMALL, sim)
    dressed = collect_episode(8, replace(SMALL, randomise=1.0), sim)
    assert (plain["images"] != dressed["images"]).any()
    assert np.abs(plain["states"] - dressed["states"]).max() < 2e-2
    again = collect_episode(8, SMALL, sim)
    assert (plain["images"] == again["images"]).all()


def test_episodes_are_seen_from_several_places(sim: PandaSim, tmp_path: Path) -> None:
    near = View((0.95, 0.95, 0.70), (0.28, 0.0, 0.28), 50.0)
    far = View((1.25, 0.45, 0.85), (0.35, 0.0, 0.25), 45.0)
    config = replace(SMALL, episodes=6, views=(near, far))
    scenes = [config.scene(seed) for seed in range(6)]
    assert {scene.camera_position for scene in scenes} == {near.camera_position, far.camera_position}
    collect(config, tmp_path)
    images = np.concatenate([np.load(path) for path in sorted(tmp_path.glob("*-images.npy"))])
    for seed, scene in enumerate(scenes):
        # Near is the usual camera; what happens in an episode does not depend on who watches.
        seen = shrunk(collect_episode(seed, SMALL, sim)["images"], SMALL.store_size)
        assert (images[seed] == seen).all() == (scene.camera_position == near.camera_position)
    with pytest.raises(ConfigError, match="camera_fovy: received 500"):
        replace(SMALL, views=(replace(near, camera_fovy=500.0),))
