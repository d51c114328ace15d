"""Search space: bounds hold for whatever is proposed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.planning.proposals import ActionSpace, SearchConfig

LOW, HIGH = (0.3, -0.3, 0.1), (0.7, 0.3, 0.6)


@settings(max_examples=60, deadline=None)
@given(
    axes=st.sampled_from(["xyz", "xyz+gripper", "all"]),
    shape=st.sampled_from(["box", "l1", "l2"]),
    xyz=st.floats(1e-3, 0.2),
    scale=st.floats(0.0, 1e4),
    seed=st.integers(0, 2**31),
)
def test_clipped_actions_obey_every_bound(axes, shape, xyz, scale, seed):
    space = ActionSpace(SearchConfig(axes=axes, xyz=xyz, xyz_shape=shape, rotation=0.2), horizon=3)
    actions = torch.randn(20, 3, 7, generator=torch.Generator().manual_seed(seed)) * scale
    clipped = space.clip(actions)
    order = {"box": torch.inf, "l1": 1, "l2": 2}[shape]
    assert torch.linalg.vector_norm(clipped[..., :3], ord=order, dim=-1).max() <= xyz * (1 + 1e-5)
    assert (clipped.abs() <= space.bound + 1e-9).all()
    unsearched = [i for i in range(7) if i not in space.axes]
    assert (clipped[..., unsearched] == 0).all()
    torch.testing.assert_close(space.clip(clipped), clipped)  # clipping twice changes nothing


@pytest.mark.parametrize("shape", ["l1", "l2"])
def test_balls_shorten_and_keep_the_direction(shape):
    space = ActionSpace(SearchConfig(xyz=0.05, xyz_shape=shape), horizon=1)
    action = torch.tensor([[0.04, -0.04, 0.02, 0, 0, 0, 0]])
    clipped = space.clip(action)[0, :3]
    torch.testing.assert_close(
        clipped / clipped.norm(), action[0, :3] / action[0, :3].norm(), rtol=1e-6, atol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(
    start=st.tuples(*[st.floats(-0.2, 1.2)] * 3),
    seed=st.integers(0, 2**31),
)
def test_imagined_positions_never_leave_the_workspace_nor_go_further_out(start, seed):
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    position = torch.tensor(start)
    space = ActionSpace(SearchConfig(xyz=0.2), 4, "cpu", position, torch.stack((low, high)))
    actions = space.clip(torch.randn(50, 4, 7, generator=torch.Generator().manual_seed(seed)))
    assert actions[..., :3].abs().max() <= 0.2 + 1e-6  # from far outside it does not jump back in
    way = torch.cat((position.expand(50, 1, 3), position + actions[..., :3].cumsum(1)), dim=1)
    outside = torch.maximum(low - way, way - high).clamp(min=0)  # [K, H + 1, 3]
    assert (outside[:, 1:] <= outside[:, :-1] + 1e-6).all()
    if outside[0, 0].max() == 0:
        assert outside.max() <= 1e-6


def test_first_proposal_is_the_reference_one():
    space = ActionSpace(SearchConfig(xyz=0.05), horizon=2)
    assert (space.mean == 0).all()
    torch.testing.assert_close(space.std, torch.tensor([[0.05] * 3 + [0.0] * 3 + [1.0]] * 2))


def test_the_dead_zone_silences_small_gripper_changes_only():
    space = ActionSpace(SearchConfig(), horizon=3)
    actions = torch.tensor([[0.01, 0, 0, 0, 0, 0, g] for g in (0.24, -0.24, 0.26)])
    answer = space.answer(actions)
    assert answer[:, 6].tolist() == pytest.approx([0.0, 0.0, 0.26])
    assert torch.equal(answer[:, :6], actions[:, :6])
    assert actions[0, 6] != 0  # the input is left alone


def test_noise_comes_from_the_generator_and_only_on_searched_axes():
    space = ActionSpace(SearchConfig(axes="xyz"), horizon=2)
    first, second = (space.draw(3, 5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first.shape == (3, 5, 2, 7)
    assert torch.equal(first, second)
    assert (first[..., 3:] == 0).all()
    assert (first[..., :3] != 0).all()


def test_what_is_refused():
    with pytest.raises(InputError, match=r"axes 'xyz' need 3 values per action, received shape \(2, 4\)"):
        ActionSpace(SearchConfig(axes="xyz"), 1).spread(torch.zeros(2, 4))
    with pytest.raises(InputError, match="needs the current position"):
        ActionSpace(SearchConfig(), 1, workspace=torch.zeros(2, 3))
    with pytest.raises(ConfigError, match=r"xyz: received 3 m, allowed 0.0001 .. 0.5 m"):
        SearchConfig(xyz=3)
    with pytest.raises(ConfigError, match="gripper: received nan"):
        SearchConfig(gripper=float("nan"))
