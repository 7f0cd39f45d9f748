"""Numeric precision of training: fp32, tf32, or autocast to a 16-bit type, with loss scaling for fp16."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from mtl_accum._knob_rules import check_knob
from mtl_accum.editions import Tasks, Trunk, backward_scale
from mtl_accum.editions._engine import facts
from mtl_accum.models import MultiTaskModel

__all__ = ["Precision"]

_DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Precision of trunk, heads and losses in training.

    "bf16" and "fp16" run trunk and heads under autocast; weights and optimizer state stay in fp32. "fp16" scales the
    losses (Micikevicius et al., 2018, Mixed Precision Training). "fp32" and "tf32" set, for the whole process, how an
    NVIDIA GPU rounds matrix products and convolutions.

    Args:
        name: Name of the precision: "fp32", "tf32", "bf16" or "fp16".
        device: Device of the network.

    Attributes:
        scaler: Loss scaler of "fp16"; None for other precisions.

    Raises:
        ValueError: There is no such precision.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        check_knob("precision", name)
        self.name, self._dtype, self._device = name, _DTYPES[name], device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def set_up(self) -> None:
        """Set how fp32 matrix products and convolutions are computed, for the whole process."""
        tf32 = self.name == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        if self._device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = tf32

    def apply(self, model: MultiTaskModel) -> tuple[Trunk, Tasks]:
        """Return a model's trunk and tasks, under autocast where the precision has 16 bits."""
        if self._dtype is None:
            return model.trunk, model.tasks
        device = self._device.type
        tasks = {name: _Autocast(task, device, self._dtype) for name, task in model.tasks.items()}
        return _Autocast(model.trunk, device, self._dtype), tasks

    def reset(self) -> None:
        """Discard what the loss scaler recorded in a step that is rolled back; its scale stays."""
        if self.scaler is not None:
            state = self.scaler.state_dict()
            self.scaler = torch.amp.GradScaler(self._device.type)
            self.scaler.load_state_dict(state)

    def scaled(self) -> AbstractContextManager[None]:
        """Scale the backward passes in the block by the loss scaler's factor, if there is a scaler."""
        if self.scaler is None:
            return nullcontext()
        scaled: Any = self.scaler.scale(torch.ones((), device=self._device))
        return backward_scale(scaled)


class _Autocast:
    """A function whose forward runs under autocast; the backward runs outside, as PyTorch recommends."""

    def __init__(self, function: Callable[..., Any], device: str, dtype: torch.dtype | None) -> None:
        self._function, self._device, self._dtype = function, device, dtype
        vars(self).update(facts(function))

    def __call__(self, *arguments: Any) -> Tensor:
        with torch.autocast(self._device, self._dtype):
            output: Tensor = self._function(*arguments)
        return output
