"""Arithmetic of training: fp32, tf32, or autocast to a 16-bit type, with loss scaling where that needs it."""

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
    """One of "fp32", "tf32", "bf16" and "fp16".

    The 16-bit ones run trunk and heads under autocast, weights and optimizer stay in fp32; "fp16" scales the losses
    (Micikevicius et al., 2018, Mixed Precision Training). "tf32" and "fp32" say what matrix products and convolutions
    of an NVIDIA GPU may round to, for the whole process.

    Args:
        name: which.
        device: where the network is.

    Attributes:
        scaler: of "fp16"; None elsewhere.

    Raises:
        ValueError: there is no such precision.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        check_knob("precision", name)
        self.name, self._dtype, self._device = name, _DTYPES[name], device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def set_up(self) -> None:
        """Say how fp32 is computed; for the whole process."""
        rounded = self.name == "tf32"
        torch.set_float32_matmul_precision("high" if rounded else "highest")
        if self._device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = rounded

    def of(self, model: MultiTaskModel) -> tuple[Trunk, Tasks]:
        """Trunk and tasks as they are called in training."""
        if self._dtype is None:
            return model.trunk, model.tasks
        where = self._device.type, self._dtype
        return _Autocast(model.trunk, *where), {name: _Autocast(task, *where) for name, task in model.tasks.items()}

    def undo(self) -> None:
        """Forget what the step that is undone has unscaled."""
        if self.scaler is not None:
            state = self.scaler.state_dict()
            self.scaler = torch.amp.GradScaler(self._device.type)
            self.scaler.load_state_dict(state)

    def scaled(self) -> AbstractContextManager[None]:
        """Backward passes inside the block are of scaled losses, where this precision needs it."""
        if self.scaler is None:
            return nullcontext()
        scaled: Any = self.scaler.scale(torch.ones((), device=self._device))
        return backward_scale(scaled)


class _Autocast:
    """A callable whose forward runs under autocast; its backward, as it should, does not."""

    def __init__(self, function: Callable[..., Any], device: str, dtype: torch.dtype | None) -> None:
        self._function, self._device, self._dtype = function, device, dtype
        vars(self).update(facts(function))

    def __call__(self, *arguments: Any) -> Tensor:
        with torch.autocast(self._device, self._dtype):
            found: Tensor = self._function(*arguments)
        return found
