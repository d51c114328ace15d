"""Candidates shared out over several devices, one process each, with one mind: that of rank 0.

Rank 0 plans, or runs the service that asks for plans. The others hold the same model, wait in
:func:`serve`, and score the candidates that they are sent. Noise, elites, deadline, cancel and early stop
live on rank 0 alone, so there is nothing on which two ranks could come to disagree, and every optimiser
is sharded by the same few lines. What travels is small: per iteration 28 bytes an action and 4 an energy,
per plan the latents of frame and goal.
"""

from __future__ import annotations

import atexit
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vjepa_ac_planner.config import check_ranges, ranged
from vjepa_ac_planner.errors import ConfigError, InputError, NotReadyError
from vjepa_ac_planner.planning.energy import LatentEnergy
from vjepa_ac_planner.planning.planner import Planner
from vjepa_ac_planner.planning.presets import PlannerConfig
from vjepa_ac_planner.planning.ranks import Others, Rank0, meet, packed, unpacked, world_size
from vjepa_ac_planner.types import ACTION_DIM, Goal, Observation
from vjepa_ac_planner.world_model import WorldModel, choose_device, choose_dtype, plain

_END, _LOAD, _PROBLEM, _SCORE, _SLOPE = range(5)
_LEAST = 2
"""Fewest candidates worth a rank: matrix kernels round a single one differently."""
_CHUNKS = ("chunk", "gradient_chunk")


@dataclass(frozen=True)
class ShardConfig:
    """How long the ranks wait for each other."""

    timeout_s: float = ranged(10.0, low=0.01, high=3600.0, unit="s")
    """Longest that the other ranks may take to score one population [s]; then the plan fails."""
    patience_s: float = ranged(120.0, low=0.1, high=3600.0, unit="s")
    """The same for meeting, for loading a model, and for its first population, which may compile [s]."""

    def __post_init__(self) -> None:
        check_ranges(self)


class Crew:
    """All ranks, as rank 0 sees them; a crew of one is rank 0 alone, and costs nothing.

    Use it as a context manager: at its end the others are told to go home. One that is gone, or did not
    answer in time, makes every plan from then on a :class:`PlanningError`: the robot holds until all ranks
    are started again.

    Args:
        group: gloo group of all ranks; None for rank 0 alone.
        config: how long to wait.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, config: ShardConfig | None = None) -> None:
        self.config = config or ShardConfig()
        self._others = None if group is None else Others(group)
        self._lock = threading.Lock()
        self._told: tuple[object, int] = (None, 1)
        """The problem that the first so many ranks hold."""
        self._limit = self.config.patience_s

    @classmethod
    def join(cls, config: ShardConfig | None = None) -> Crew:
        """The crew that ``torchrun`` started; of one when the process was started alone.

        Raises:
            NotReadyError: not all ranks came.
        """
        config = config or ShardConfig()
        return cls(meet(config.patience_s) if world_size() > 1 else None, config)

    @property
    def size(self) -> int:
        """Number of ranks, this one included."""
        return 1 if self._others is None else self._others.size

    def load(
        self, model: str | Path, *, device: str = "auto", dtype: str = "auto", **options: Any
    ) -> WorldModel:
        """Load the same model on every rank, each on its own device.

        Args:
            model: see :meth:`WorldModel.load`; a path must be one on every rank's machine.
            device: ``"cpu"``; or ``"auto"`` or ``"cuda"``, with several ranks the GPU of the local rank.
            dtype: as rank 0 understands it.
            options: whatever else :meth:`WorldModel.load` takes.

        Raises:
            PlannerError: the model cannot be loaded, here or on a rank, which is named.
            ConfigError: another rank finds other weights.
        """
        if self._others is None:
            return WorldModel.load(model, device=device, dtype=dtype, **options)  # type: ignore[arg-type]
        own = _own_device(device)
        if dtype == "auto":
            dtype = str(choose_dtype("auto", torch.device(own))).removeprefix("torch.")
        options["dtype"] = dtype
        order = packed({"model": str(model), "device": device, **options})
        with self._lock:
            self._told, self._limit = (None, 1), self.config.patience_s
            for other in range(1, self.size):
                self._others.order(other, _LOAD, len(order), payload=order, answer=2)
            try:
                loaded = WorldModel.load(model, device=own, **options)
            finally:
                answers = self._others.answers(self._limit)
        for other, answer in enumerate(answers, start=1):
            if not torch.equal(answer, _fingerprint(loaded)):
                raise ConfigError(f"rank {other}: {str(model)!r} has other weights there than on rank 0")
        return loaded

    def planner(self, world_model: WorldModel, config: PlannerConfig) -> Planner:
        """A planner whose candidates are scored by the whole crew.

        Args:
            world_model: what :meth:`load` returned.
            config: how to plan.
        """
        if self._others is None:
            return Planner(world_model, config)
        return ShardedPlanner(world_model, config, self)

    def score(self, energy: SharedEnergy, actions: Tensor, *, slope: bool = False) -> Tensor:
        """Energies [K, 1] of action sequences [K, H, 7], or [K, 1 + H * 7] with their gradients.

        Raises:
            DeviceMemoryError: a rank cannot hold a single candidate.
            PlanningError: a rank failed, which is named; or it is gone or too late.
        """
        mine, *parts = actions.detach().split(shares(len(actions), self.size))
        horizon, width = actions.shape[1], 1 + actions[0].numel() if slope else 1
        with self._lock:
            if self._others is None or not parts:
                return _scored(energy.alone, mine, slope)
            self._tell(energy, 1 + len(parts))
            for other, part in enumerate(parts, start=1):
                payload = part.to("cpu", torch.float32).contiguous()
                kind = _SLOPE if slope else _SCORE
                self._others.order(other, kind, len(part), horizon, payload, answer=len(part) * width)
            try:
                own = _scored(energy.alone, mine, slope)
            finally:  # whatever happened here: an answer left behind would be taken for the next one
                answers = self._others.answers(self._limit)
            self._limit = self.config.timeout_s
        return torch.cat([own, *(answer.view(-1, width).to(own.device) for answer in answers)])

    def close(self) -> None:
        """Tell the others to go home; safe to call twice."""
        with self._lock:
            others, self._others = self._others, None
            if others is not None:
                others.dismiss(_END)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, energy: SharedEnergy, ranks: int) -> None:
        """Give the problem to the first ``ranks`` ranks, unless they have it."""
        assert self._others is not None
        told = self._told[1] if self._told[0] is energy else 1
        if told >= ranks:
            return
        payload = packed(_problem(energy.alone))
        for other in range(told, ranks):
            self._others.order(other, _PROBLEM, len(payload), payload=payload)
        self._told = (energy, ranks)


class SharedEnergy(LatentEnergy):
    """A :class:`LatentEnergy` whose candidates are scored by a crew.

    The energies are those of one device up to rounding, about 1e-7 in float32, since matrix kernels may
    sum in another order for another number of candidates; elites whose energies agree that far may then
    change places. They are equal to the last bit when all ranks have the same kind of device and number
    of threads, and ``chunk`` divides every share: the kernels then see the same shapes as on one device.

    Args:
        energy: the problem.
        crew: who scores.
    """

    def __init__(self, energy: LatentEnergy, crew: Crew) -> None:
        super().__init__(**vars(energy))
        self._crew = crew
        self.alone = energy
        """The same problem on this rank only."""

    def __call__(self, actions: Tensor) -> Tensor:
        """[K, H, 7] action sequences -> [K] energies, float32, on the device of this rank's model."""
        return self._scored(actions, slope=False)[:, 0]

    def value_and_gradient(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Energies [K] of action sequences [K, H, 7], and their gradients [K, H, 7]."""
        found = self._scored(actions, slope=True)
        return found[:, 0], found[:, 1:].view_as(actions)

    def _scored(self, actions: Tensor, *, slope: bool) -> Tensor:
        found = self._crew.score(self, actions, slope=slope)
        self.chunk, self.gradient_chunk = self.alone.chunk, self.alone.gradient_chunk
        return found


class ShardedPlanner(Planner):
    """A planner whose candidates are scored by a crew; encoding and evidence stay on rank 0."""

    def __init__(self, world_model: WorldModel, config: PlannerConfig, crew: Crew) -> None:
        super().__init__(world_model, config)
        self._crew = crew

    def _energy(self, observation: Observation, goal: Goal | Tensor) -> LatentEnergy:
        return SharedEnergy(super()._energy(observation, goal), self._crew)


@cache
def crew() -> Crew:
    """The crew that this process belongs to, joined once and sent home at the end of the process.

    Raises:
        NotReadyError: not all ranks came.
    """
    joined = Crew.join()
    atexit.register(joined.close)
    return joined


def shares(count: int, ranks: int) -> list[int]:
    """How many candidates each rank gets: near-equal shares, of one candidate only if there is but one.

    Ranks that would get nothing are left out of the list.
    """
    used = max(1, min(ranks, count // _LEAST))
    least, more = divmod(count, used)
    return [least + (index < more) for index in range(used)]


def serve(load: Callable[..., WorldModel] = WorldModel.load, config: ShardConfig | None = None) -> None:
    """What every rank but 0 does: load the model that rank 0 names, and score, until told to go home.

    A failure of its own is answered, and the rank goes on; so one that runs out of memory costs a plan
    and not the service.

    Args:
        load: makes the model; for tests.
        config: how long to wait for the others to come.

    Raises:
        NotReadyError: not all ranks came.
        PlanningError: rank 0 is gone without a word.
    """
    group = meet((config or ShardConfig()).patience_s)
    _Server(Rank0(group), load).run()
    dist.destroy_process_group(group)


class _Server:
    """One of the ranks that wait for orders."""

    def __init__(self, rank0: Rank0, load: Callable[..., WorldModel]) -> None:
        self._rank0, self._load = rank0, load
        self._model: WorldModel | None = None
        self._problem: dict[str, Any] = {}
        self._energy: LatentEnergy | None = None
        self._chunks: dict[str, int | None] = {}

    def run(self) -> None:
        while True:
            kind, size, horizon = self._rank0.next()
            if kind == _END:
                return
            if kind in (_SCORE, _SLOPE):
                self._score(size, horizon, slope=kind == _SLOPE)
                continue
            options = unpacked(self._rank0.receive(torch.empty(size, dtype=torch.uint8)))
            if kind == _PROBLEM:
                self._problem, self._energy = options, None
            else:
                self._rank0.answer(2, lambda options=options: self._loaded(options))  # type: ignore[misc]

    def _loaded(self, options: dict[str, Any]) -> Tensor:
        self._model = self._energy = None  # their memory is needed
        self._chunks = {}
        name, device = options.pop("model"), options.pop("device")
        self._model = self._load(name, device=_own_device(device), **options)
        return _fingerprint(self._model)

    def _score(self, size: int, horizon: int, *, slope: bool) -> None:
        actions = self._rank0.receive(torch.empty(size, horizon, ACTION_DIM))

        @torch.no_grad()
        def work() -> Tensor:
            energy = self._energy or self._new_energy()
            try:
                return _scored(energy, actions.to(energy.z0.device), slope)
            finally:
                self._chunks = {name: getattr(energy, name) for name in _CHUNKS}

        self._rank0.answer(size * (1 + horizon * ACTION_DIM if slope else 1), work)

    def _new_energy(self) -> LatentEnergy:
        if self._model is None:
            raise NotReadyError("no model is loaded")
        device = self._model.device
        options: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self._problem.items()
        }
        for name in _CHUNKS:  # what was found to fit this device stays
            known = [chunk for chunk in (options[name], self._chunks.get(name)) if chunk is not None]
            options[name] = min(known, default=None)
        self._energy = LatentEnergy(self._model, **options)
        return self._energy


def _problem(energy: LatentEnergy) -> dict[str, Any]:
    """Everything that makes the energy but the model: its attributes, which are its arguments too."""
    options = {name: value for name, value in vars(energy).items() if name != "world_model"}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in options.items()}


def _scored(energy: LatentEnergy, actions: Tensor, slope: bool) -> Tensor:
    """[k, 1] energies of [k, H, 7] actions, or [k, 1 + H * 7] with their gradients."""
    if not slope:
        return energy(actions).float()[:, None]
    energies, gradients = energy.value_and_gradient(actions)
    return torch.cat((energies.float()[:, None], gradients.float().flatten(1)), dim=1)


def _own_device(device: str) -> str:
    """Each rank's own device."""
    if device.startswith("cuda:"):
        raise InputError(
            f"device: received {device!r}, allowed 'auto', 'cuda' or 'cpu' with several ranks: each takes "
            "the GPU of its local rank"
        )
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return str(choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))


def _fingerprint(model: WorldModel) -> Tensor:
    """[2] a checksum of some of the predictor's weights, in two halves that float32 holds exactly."""
    checksum = 0
    for name, parameter in sorted(model.predictor.named_parameters()):
        checksum = zlib.crc32(name.encode(), checksum)
        some = plain(parameter).flatten()[:64].float().cpu()
        checksum = zlib.crc32(some.numpy().tobytes(), checksum)
    return torch.tensor([checksum >> 16, checksum & 0xFFFF], dtype=torch.float32)
