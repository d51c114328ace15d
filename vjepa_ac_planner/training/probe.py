"""Attentive probes: what frozen latents tell about the world, and whether a goal is reached.

As in V-JEPA 2 (arXiv 2506.09985, section 4) a probe has four blocks: three of self-attention, then one in
which a single learned query attends to all tokens. The encoder is never changed. Unlike the world model a
probe learns from labels: it measures, or says when to stop, and the latents stay label-free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vjepa_ac_planner.config import check_range
from vjepa_ac_planner.errors import CheckpointError, ConfigError
from vjepa_ac_planner.nn.layers import MLP
from vjepa_ac_planner.nn.storage import StoredTensor, read_safetensors, write_safetensors
from vjepa_ac_planner.training.loop import LoopConfig, WholeEngine, load_modules, optimise
from vjepa_ac_planner.types import Goal, Observation
from vjepa_ac_planner.world_model import WorldModel

_HEADS = "heads"
"""Where a file says how many there are: no weight shows it."""


@dataclass(frozen=True)
class ProbeConfig:
    """Sizes of a probe, and how it is trained.

    Raises:
        ConfigError: a value is out of range.
    """

    dim: int = 192
    """Width."""
    depth: int = 4
    """Blocks, the last of which pools."""
    heads: int = 3
    """Attention heads."""
    batch: int = 64
    """Frames, or pairs of frames, in a batch."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(iterations=600, lr=1e-3, decay=0.7))

    def __post_init__(self) -> None:
        check_range("depth", self.depth, 1, 64)
        check_range("heads", self.heads, 1, 1024)
        check_range("dim", self.dim, self.heads, 65536)
        check_range("batch", self.batch, 1, 65536)
        if self.dim % self.heads:
            raise ConfigError(f"dim: received {self.dim}, allowed are multiples of heads ({self.heads})")


class AttentiveProbe(nn.Module):
    """Tokens to a few numbers.

    Args:
        config: sizes.
        tokens: number of tokens L.
        latent_dim: their channels.
        outputs: how many numbers.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, config: ProbeConfig, tokens: int, latent_dim: int, outputs: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.sizes = (tokens, latent_dim, outputs)
        self.embed = nn.Linear(latent_dim, config.dim)
        # A pooled token must know where in the image it was: the encoder's own positions are relative.
        self.place = nn.Parameter(0.02 * torch.randn(tokens, config.dim))
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, config.dim))
        self.blocks = nn.ModuleList(_Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, outputs)
        self.register_buffer("offset", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def forward(self, z: Tensor) -> Tensor:
        """[B, L, D] tokens -> [B, outputs]."""
        x = self.embed(z) + self.place
        *layers, pool = self.blocks
        for layer in layers:
            x = layer(x, x)
        pooled = pool(self.query.expand(len(x), -1, -1), x).squeeze(1)
        answer: Tensor = self.offset + self.scale * self.out(self.norm(pooled))
        return answer


class _Block(nn.Module):
    """One pre-norm block in which tokens attend to a context, be it themselves."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_context = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm_mlp, self.mlp = nn.LayerNorm(dim), MLP(dim, 4 * dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, Q, dim] queries, [B, L, dim] context -> [B, Q, dim]."""
        q = self.q(self.norm_query(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(self.norm_context(context)).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # [B, heads, L, head_dim] each
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x))


class ReadOut:
    """Stage that learns numbers from frames, for :func:`~vjepa_ac_planner.training.loop.optimise`.

    Args:
        config: sizes and training.
        latents: [F, N, D].
        targets: [F, outputs]; NaN where a number is unknown.
    """

    def __init__(self, config: ProbeConfig, latents: Tensor, targets: Tensor) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.latents, self.targets = config, latents, targets
        tokens, dim = latents.shape[1:]
        self.probe = AttentiveProbe(config, tokens, dim, targets.shape[1])
        self.probe.offset.copy_(targets.nanmean(dim=0))
        spread = (targets - self.probe.offset).square().nanmean(dim=0).sqrt()
        self.probe.scale.copy_(spread.clamp(min=1e-6))
        self.modules = {"probe": self.probe}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error, in standard deviations of each number."""
        rows = torch.randint(len(self.latents), (self.config.batch,), generator=generator)
        wanted = self.targets[rows]
        known = wanted.isfinite()
        error = (self.probe(self.latents[rows].float()) - wanted.nan_to_num()) / self.probe.scale
        loss = (error.abs() * known).sum() / known.sum().clamp(min=1)
        return loss, {"error": loss}

    def after_step(self, progress: float) -> None:
        """Nothing to do."""


class DoneOrNot:
    """Stage that learns whether a frame shows what a goal frame of its episode shows.

    Half the pairs are near in time, where the answer is in doubt; both answers weigh the same.

    Args:
        config: sizes and training.
        latents: [E, T, N, D].
        done: [E, T, T] bool; whether frame t (second axis) counts as the goal frame g (third).
    """

    def __init__(self, config: ProbeConfig, latents: Tensor, done: Tensor) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.latents, self.done = config, latents, done
        tokens, dim = latents.shape[2:]
        self.probe = AttentiveProbe(config, 2 * tokens, dim, 1)
        self.modules = {"probe": self.probe}

    def loss(self, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the share of right answers."""
        episode, frame, goal = draw_pairs(self.done.shape[:2], self.config.batch, generator)
        wanted = self.done[episode, frame, goal].float()
        z = self.latents[episode, frame].float()
        logit = self.probe(pair(z, self.latents[episode, goal].float())).squeeze(1)
        share = wanted.mean().clamp(0.05, 0.95)
        weight = torch.where(wanted > 0, 0.5 / share, 0.5 / (1 - share))
        loss = F.binary_cross_entropy_with_logits(logit, wanted, weight=weight)
        return loss, {"right": ((logit > 0) == (wanted > 0)).float().mean()}

    def after_step(self, progress: float) -> None:
        """Nothing to do."""


def draw_pairs(
    shape: tuple[int, ...], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes, frames and goal frames [count] each; half the frames lie at most three steps off."""
    episodes, length = shape
    episode = torch.randint(episodes, (count,), generator=generator)
    goal = torch.randint(length, (count,), generator=generator)
    anywhere = torch.randint(length, (count,), generator=generator)
    near = (goal + torch.randint(-3, 4, (count,), generator=generator)).clamp(0, length - 1)
    return episode, torch.where(torch.rand(count, generator=generator) < 0.5, near, anywhere), goal


def pair(z: Tensor, z_goal: Tensor) -> Tensor:
    """[B, N, D] twice -> [B, 2 N, D]: what differs from the goal, and the goal."""
    return torch.cat([z - z_goal, z_goal], dim=1)


def same_outcome(states: Tensor, objects: Tensor) -> Tensor:
    """Which frames of an episode count as the same outcome as which others.

    The hand within 2 cm, the fingers within 0.15 of closedness, and both objects within 2.5 cm.

    Args:
        states: [E, T, 7].
        objects: [E, T, 2, 3] where the objects are [m].

    Returns:
        [E, T, T] bool.
    """
    hand = torch.cdist(states[..., :3], states[..., :3]) < 0.02
    grip = (states[:, :, None, 6] - states[:, None, :, 6]).abs() < 0.15
    moved = (objects[:, :, None] - objects[:, None, :]).norm(dim=-1).amax(dim=-1)
    return hand & grip & (moved < 0.025)


def train_probe(stage: ReadOut | DoneOrNot, folder: Path) -> AttentiveProbe:
    """Train to the end, going on where a run stopped; the probe is also left in ``probe.safetensors``."""
    optimise(stage, stage.config.loop, folder, stage.config, WholeEngine())
    stage.probe.load_state_dict(load_modules(folder / "state.pt")["probe"])
    save_probe(folder / "probe.safetensors", stage.probe)
    return stage.probe.eval()


def save_probe(path: Path, probe: AttentiveProbe) -> None:
    """Write a probe's weights.

    Raises:
        CheckpointError: they cannot be written, or are not finite.
    """
    tensors = {name: StoredTensor.of(tensor) for name, tensor in probe.state_dict().items()}
    tensors[_HEADS] = StoredTensor.of(torch.tensor([float(probe.heads)]))
    write_safetensors(path, tensors, torch.float32, {"format": "pt"})


def load_probe(path: Path) -> AttentiveProbe:
    """Read a probe's weights; its sizes follow from them.

    Raises:
        CheckpointError: missing, damaged, or no probe.
    """
    state = {name: tensor.read().clone() for name, tensor in read_safetensors(path).items()}
    try:
        heads = int(state.pop(_HEADS))
        tokens, dim = state["place"].shape
        outputs, latent_dim = len(state["offset"]), state["embed.weight"].shape[1]
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        probe = AttentiveProbe(ProbeConfig(dim, depth, heads), tokens, latent_dim, outputs)
        probe.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is no attentive probe ({error!r})") from error
    return probe.eval()


class TaskDone:
    """Whether what is seen is what the goal shows: a stop condition, ``reached`` of a receding horizon.

    Args:
        model: encodes frames.
        probe: trained by :class:`DoneOrNot` on latents of this model.
        goal: what to reach.
        threshold: probability from which on the answer is yes.

    Raises:
        ConfigError: a threshold out of range, or a probe of other latents or questions.
    """

    def __init__(
        self, model: WorldModel, probe: AttentiveProbe, goal: Goal, threshold: float = 0.9
    ) -> None:
        check_range("threshold", threshold, 0.0, 1.0)
        encoder = model.description.encoder
        wanted = (2 * encoder.tokens, encoder.dim, 1)
        if probe.sizes != wanted:
            raise ConfigError(
                f"probe: takes tokens, channels and gives numbers {probe.sizes}, for model "
                f"{model.description.name!r} allowed is {wanted}; train one with `vjepa-ac train probe`"
            )
        self._model, self._probe, self._threshold = model, probe.to(model.device).eval(), threshold
        self._goal = model.encode([goal.frame]).float()

    def __call__(self, observation: Observation) -> bool:
        """Whether the goal is reached."""
        return self.probability(observation) >= self._threshold

    @torch.no_grad()
    def probability(self, observation: Observation) -> float:
        """Probability that it is."""
        z = self._model.encode([observation.frame]).float()
        return float(self._probe(pair(z, self._goal)).sigmoid())
