"""The model under test, in every dtype that a benchmark asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vjepa_ac_planner.models import find_model
from vjepa_ac_planner.world_model import WorldModel, choose_device

if TYPE_CHECKING:
    import torch

    from vjepa_ac_planner.models import ModelDescription
    from vjepa_ac_planner.world_model import Dtype


class Models:
    """Loads the model, and keeps it in each dtype that it has been asked for in.

    Args:
        model: name or path.
        device: where it runs.
        dtype: float32, bfloat16, float8, or ``auto`` for what suits the device.
        compile: whether ``torch.compile`` fuses the networks; None: on a GPU.
        untrained: random weights in place of the model's own.

    Raises:
        PlannerError: no such model or device.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str,
        dtype: str,
        compile: bool | None,  # noqa: A002
        untrained: bool,
    ) -> None:
        self._source, self._device, self._dtype = model, device, dtype
        self._without_weights = untrained
        self.compiled = choose_device(device).type == "cuda" if compile is None else compile
        self._kept: dict[str, WorldModel] = {}
        first = self.load(dtype)
        self.name = dtype if dtype == "float8" else str(first.dtype).removeprefix("torch.")
        """Of the dtype under test."""
        self._kept[self.name] = first

    @property
    def model(self) -> WorldModel:
        """In the dtype under test."""
        return self._kept[self.name]

    def of(self, dtype: str) -> WorldModel:
        """With the predictor's weights in this dtype; frames are not encoded with it."""
        import torch

        from vjepa_ac_planner.nn.predictor import ActionConditionedPredictor

        if dtype not in self._kept:
            source = self.load("bfloat16") if self.name == "float8" else self.model
            with torch.device("meta"):
                predictor = ActionConditionedPredictor(source.description.predictor)
            state = source.predictor.state_dict()
            weights = {key: value.to(getattr(torch, dtype), copy=True) for key, value in state.items()}
            predictor.load_state_dict(weights, assign=True)
            predictor.requires_grad_(False)
            self._kept[dtype] = WorldModel(
                source.description, source.encoder, predictor, compile=self.compiled
            )
        return self._kept[dtype]

    def load(self, dtype: str, *, memory_limit: float | None = None) -> WorldModel:
        """Anew, not kept.

        Args:
            dtype: as for the class.
            memory_limit: what it may use of the device's memory [bytes].
        """
        options: dict[str, Any] = {
            "device": self._device,
            "dtype": dtype,
            "compile": self.compiled,
            "memory_limit": None if memory_limit is None else int(memory_limit),
        }
        if self._without_weights:
            return WorldModel.untrained(find_model(self._source).description, **options)
        return WorldModel.load(self._source, **options)

    def untrained(self, description: ModelDescription, device: torch.device | None = None) -> WorldModel:
        """Another model, with random weights, on the same device unless another is given."""
        return WorldModel.untrained(
            description,
            device=device or self.model.device,
            dtype=cast("Dtype", self._dtype),
            compile=self.compiled,
        )

    def forget(self) -> None:
        """Let go of all of them, and of their memory."""
        self._kept.clear()
