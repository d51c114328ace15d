"""What is trained, and that what comes out is the plain architecture computing the same."""

from __future__ import annotations

import pytest
import torch

from vjepa_ac_planner.errors import ConfigError
from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor, PredictorConfig
from vjepa_ac_planner.training.losses import prediction_loss
from vjepa_ac_planner.training.scaling import InputScales
from vjepa_ac_planner.training.trainable import adapt, checkpoint_activations, finish, load_trained

CONFIG = PredictorConfig(latent_dim=12, dim=12, depth=3, heads=2, grid=(2, 2))
PARTS = ("all", "last", "lora")


@pytest.fixture
def predictor() -> ActionConditionedPredictor:
    torch.manual_seed(0)
    return ActionConditionedPredictor(CONFIG)


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return draw(2, 4, 4, 12), draw(2, 4, 7), 0.1 * draw(2, 3, 7)


def loss(predictor, clips) -> torch.Tensor:
    return prediction_loss(predictor, *clips).total


def train(predictor, trained, clips, steps: int = 3) -> None:
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(predictor, clips).backward()
        optimiser.step()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("scales", [None, InputScales()])
def test_adapting_changes_nothing_and_finishing_keeps_what_was_learned(
    predictor, clips, part, scales
) -> None:
    if part == "lora":
        pytest.importorskip("peft")
    names = set(predictor.state_dict())
    before = loss(predictor, clips).item()
    trained = adapt(predictor, part, last_blocks=1, lora_rank=2, scales=scales)
    assert loss(predictor, clips).item() == pytest.approx(before, rel=1e-5)
    train(predictor, trained, clips)
    learned = loss(predictor, clips).item()
    assert learned < before - 0.01
    plain = finish(predictor)
    assert set(plain.state_dict()) == names
    assert type(plain.blocks[0].attention.qkv) is torch.nn.Linear
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    fresh = ActionConditionedPredictor(CONFIG)
    fresh.load_state_dict(plain.state_dict())
    assert loss(fresh, clips).item() == pytest.approx(learned, rel=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_trained_stays_as_it_is(predictor, clips, part) -> None:
    if part == "lora":
        pytest.importorskip("peft")
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    trained = adapt(predictor, part, last_blocks=2, lora_rank=2)
    train(predictor, trained, clips, steps=1)
    assert all(parameter.grad is not None for parameter in trained.values())
    now = {name.replace(".base_layer.", "."): value for name, value in predictor.state_dict().items()}
    changed = {name for name in before if not torch.equal(now[name], before[name])}
    everything = set(before)
    condition = {name for name in everything if name.startswith(("action_embed", "state_embed"))}
    if part == "all":
        assert changed == everything
    elif part == "last":
        ends = ("blocks.1.", "blocks.2.", "norm.", "out.")
        assert changed == {name for name in everything if name.startswith(ends)}
    else:
        assert changed == condition
        assert sum("lora_" in name for name in trained) == 3 * 4 * 2


def test_trained_weights_can_be_put_back(predictor, clips) -> None:
    pytest.importorskip("peft")
    trained = adapt(predictor, "lora", lora_rank=2, seed=3)
    train(predictor, trained, clips)
    kept = {name: parameter.detach().clone() for name, parameter in trained.items()}
    torch.manual_seed(0)
    again = ActionConditionedPredictor(CONFIG)
    load_trained(adapt(again, "lora", lora_rank=2, seed=4), kept)
    assert torch.equal(loss(again, clips), loss(predictor, clips))
    with pytest.raises(ConfigError, match="names differ"):
        load_trained(adapt(ActionConditionedPredictor(CONFIG), "all"), kept)


def test_checkpointed_activations_give_the_same_gradients(predictor, clips) -> None:
    loss(predictor, clips).backward()
    plain = [parameter.grad.clone() for parameter in predictor.parameters()]
    predictor.zero_grad()
    checkpoint_activations(predictor)
    loss(predictor, clips).backward()
    for parameter, expected in zip(predictor.parameters(), plain, strict=True):
        assert torch.equal(parameter.grad, expected)


def test_more_blocks_than_there_are_is_an_error(predictor) -> None:
    with pytest.raises(ConfigError, match=r"last_blocks: received 4, allowed 1 \.\. 3"):
        adapt(predictor, "last", last_blocks=4)
