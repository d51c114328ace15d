"""Looks: the plain one is the compiled scene, others change the picture and not the rules."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.sim.model import BOX_HALF, CUP_SCALES, DISTRACTORS, TABLES
from vjepa_ac_planner.sim.panda import ObjectPose, PandaSim, SimConfig, down_state
from vjepa_ac_planner.sim.randomise import (
    CAMERA_SHIFT,
    CAMERA_TURN,
    PLAIN,
    Appearance,
    Distractor,
    random_appearance,
)
from vjepa_ac_planner.types import Command

CONFIG = SimConfig(width=96, height=96, faces=2000, shadow_size=256)


@pytest.fixture(scope="module")
def dressed() -> Iterator[PandaSim]:
    with PandaSim(CONFIG) as sim:
        yield sim


def test_no_strength_is_the_plain_look_and_a_seed_is_one_look() -> None:
    assert random_appearance(3, 0.0) == PLAIN == Appearance()
    assert random_appearance(3) == random_appearance(3) != random_appearance(4)


def test_looks_stay_within_their_bounds_and_grow_with_strength() -> None:
    looks = [random_appearance(seed) for seed in range(200)]
    for look in looks:
        assert max(map(abs, look.camera_shift)) <= CAMERA_SHIFT
        assert max(map(abs, look.camera_turn)) <= CAMERA_TURN
        for thing in look.distractors:  # where neither the hand nor a pushed object comes
            x, y = thing.position
            assert y < -0.49 or x > 0.8 or (x < 0.15 and y > 0.29)
    assert {look.table for look in looks} == set(TABLES)
    assert {look.cup_scale for look in looks} == set(CUP_SCALES)
    assert {len(look.distractors) for look in looks} == {0, 1, 2, 3}
    weak = random_appearance(7, 0.1)
    assert np.abs(np.subtract(weak.cup, PLAIN.cup)).max() <= 0.1
    assert np.linalg.norm(weak.camera_shift) == pytest.approx(
        0.1 * np.linalg.norm(random_appearance(7).camera_shift)
    )


def test_after_any_look_the_plain_one_is_back_to_the_last_bit(dressed: PandaSim) -> None:
    dressed.dress(PLAIN)
    dressed.reset(5)
    plain = dressed.render()
    for seed in range(3):
        dressed.dress(random_appearance(seed))
        dressed.reset(5)
        assert np.abs(dressed.render().astype(int) - plain).mean() > 3
    dressed.dress(PLAIN)
    dressed.reset(5)
    assert (dressed.render() == plain).all()
    with PandaSim(CONFIG) as fresh:
        fresh.reset(5)
        assert (fresh.render() == plain).all()


def test_a_look_may_be_given_at_the_start(dressed: PandaSim) -> None:
    look = random_appearance(11)
    dressed.dress(look)
    dressed.reset(5)
    with PandaSim(CONFIG, look) as other:
        other.reset(5)
        assert other.appearance == look
        assert (other.render() == dressed.render()).all()


def test_every_part_of_a_look_shows(dressed: PandaSim) -> None:
    plain = Appearance()
    thing = Distractor((0.3, -0.5), (0.05, 0.05, 0.05), 0.3, (0.9, 0.1, 0.9))
    pictures = []
    for look in (
        plain,
        Appearance(light_direction=(0.4, 0.4, -1.0)),
        Appearance(light=(0.3, 0.3, 0.3)),
        Appearance(ambient=(0.2, 0.2, 0.3)),
        *(Appearance(table=name) for name in TABLES[1:]),
        Appearance(table_tint=(0.5, 0.6, 0.7)),
        Appearance(wall=(0.2, 0.5, 0.2)),
        Appearance(side_wall=(0.2, 0.5, 0.2)),
        Appearance(floor=(0.8, 0.2, 0.2)),
        Appearance(cup=(0.1, 0.8, 0.1)),
        Appearance(box=(0.9, 0.9, 0.1)),
        Appearance(cup_scale=CUP_SCALES[0]),
        Appearance(box_half=(0.02, 0.02, 0.02)),
        *(Appearance(distractors=(thing,) * n) for n in range(1, 2)),
        Appearance(camera_shift=(0.02, 0.0, 0.0)),
        Appearance(camera_turn=(0.0, 0.03, 0.0)),
    ):
        dressed.dress(look)
        dressed.reset(5)
        pictures.append(dressed.render())
    for one in range(len(pictures)):
        for other in range(one):
            assert (pictures[one] != pictures[other]).any(), (one, other)


def test_objects_of_every_size_stand_and_can_be_held(dressed: PandaSim) -> None:
    for scale, half in zip(CUP_SCALES, (0.023, 0.025, BOX_HALF[0], 0.028, 0.030), strict=True):
        dressed.dress(Appearance(cup_scale=scale, box_half=(half, half, half)))
        dressed.reset(2)
        heights = dressed.rest_heights()
        assert heights == pytest.approx({"cup": 0.035 * scale, "box": half})
        places = {
            "cup": ObjectPose((0.5, 0.15, heights["cup"])),
            "box": ObjectPose((0.5, -0.15, heights["box"])),
        }
        for name, size in (("cup", 0.056 * scale), ("box", 2 * half)):
            hand = down_state([0.5, places[name].position[1], 0.1034 + 0.03])
            dressed.reset_to(hand, places)
            for _ in range(3):
                dressed.apply(Command("move", np.append(hand[:6], 1.0), 0.25))
            z = dressed.objects()[name].position[2]
            # The arm, which carries the grip, may press a millimetre or two.
            assert z == pytest.approx(heights[name], abs=4e-3)
            assert dressed.holding(name)
            assert dressed.state()[6] == pytest.approx(1 - size / 0.08, abs=0.04)


def test_a_bumped_camera_projects_where_it_sees(dressed: PandaSim) -> None:
    dressed.dress(Appearance(camera_shift=(0.02, -0.02, 0.02), camera_turn=(0.03, 0.03, 0.03)))
    dressed.reset_to(down_state([0.45, -0.2, 0.5]), {"box": ObjectPose((0.55, 0.2, 0.0275))})
    image = dressed.render().astype(int)
    rows, columns = np.nonzero((image[..., 2] > 90) & (image[..., 2] > 2 * image[..., 0]))
    seen = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    assert np.abs(dressed.project([[0.55, 0.2, 0.0275]])[0] - seen).max() < 1.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"table": "glass"}, "table: received 'glass', allowed wood, stone, cloth, plain"),
        ({"cup_scale": 2.0}, "cup_scale: received 2.0, allowed 0.88"),
        ({"box_half": (0.05, 0.02, 0.02)}, "box_half: received 0.05 m"),
        ({"light_direction": (0.0, 0.0, 1.0)}, "it must point down"),
        (
            {"distractors": (Distractor((0, 0), (0.1, 0.1, 0.1), 0, (0, 0, 0)),) * 4},
            f"distractors: received 4, allowed at most {len(DISTRACTORS)}",
        ),
    ],
)
def test_impossible_looks_are_refused(options: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Appearance(**options)


def test_strength_is_a_share() -> None:
    with pytest.raises(ConfigError, match=r"strength: received 1\.5"):
        random_appearance(0, 1.5)
