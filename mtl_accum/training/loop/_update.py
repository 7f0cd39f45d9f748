"""What happens between the gradient and the next step: clipping, NaN, loss scaling, the optimizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtl_accum._knob_rules import check_knob
from mtl_accum._state import BufferSnapshot
from mtl_accum.training.loop._precision import Precision

__all__ = ["Update"]

_LOG = logging.getLogger(__name__)


class Update:
    """Turns `.grad` into a step of the optimizer.

    Args:
        model: whose gradients.
        optimizer: of its parameters.
        precision: whose scaler unscales them.
        clip_norm: the largest norm of the whole gradient (Pascanu et al., 2013, On the difficulty of training recurrent
            neural networks); None does not clip.
        on_nan: "raise", or "skip": a step with a NaN or infinite loss or gradient changes nothing and is counted.
            To know that, every step waits for the device.

    Attributes:
        stepped: whether the last step changed anything.
        skipped: how many did not.
        norm: of the last gradient before clipping, where it was computed.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        *,
        clip_norm: float | None = None,
        on_nan: str = "raise",
    ) -> None:
        check_knob("on_nan", on_nan)
        check_knob("clip_norm", clip_norm)
        self._model, self._optimizer, self._precision = model, optimizer, precision
        self._clip_norm, self._skips = clip_norm, on_nan == "skip"
        self._buffers = BufferSnapshot()
        self._buffer_owners = [module for module in model.modules() if module._buffers]
        self.stepped, self.skipped = True, 0
        self.norm: Tensor | None = None
        self._scale: float | None = None  # of the loss after the last step; asking for it waits for the device

    def before(self) -> None:
        """A step begins, perhaps again after one that was undone."""
        if self._skips:
            self._buffers.renew(self._buffer_owners)

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> None:
        """The gradient is there: step, unless it is to be skipped.

        Args:
            losses: of the tasks.
            step: its number, for the log.
        """
        scaler = self._precision.scaler
        if scaler is not None and all(parameter.grad is None for parameter in self._model.parameters()):
            scaler = None  # no task is present: there is nothing to unscale
        if scaler is not None:
            scaler.unscale_(self._optimizer)
        if self._clip_norm is not None or self._skips:
            gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
            self.norm = nn.utils.get_total_norm(gradients)
        self.stepped = not self._skips or self._finite(losses, step)
        if not self.stepped:
            self._buffers.restore()
        elif self._clip_norm is not None and self.norm is not None:
            nn.utils.clip_grads_with_norm_(self._model.parameters(), self._clip_norm, self.norm)
        if scaler is not None:
            before = self._scale if self._scale is not None else scaler.get_scale()
            if self.stepped:
                scaler.step(self._optimizer)  # unless the gradient overflowed
            scaler.update()
            self._scale = scaler.get_scale()
            self.stepped = self.stepped and self._scale >= before
        elif self.stepped:
            self._optimizer.step()
        self.skipped += not self.stepped

    def _finite(self, losses: Mapping[str, Tensor], step: int) -> bool:
        """Whether losses and gradient are; one transfer from the device."""
        assert self.norm is not None
        *fine, all_fine = torch.stack([value.float() for value in (*losses.values(), self.norm)]).isfinite().tolist()
        if all(fine) and all_fine:
            return True
        tasks = [name for name, finite in zip(losses, fine, strict=True) if not finite]
        what = f"the loss of {', '.join(tasks)}" if tasks else f"the gradient of {self._first_parameter()}"
        _LOG.warning(
            "step %d: %s is NaN or infinite; nothing changed (%d skipped so far)", step, what, self.skipped + 1
        )
        return False

    def _first_parameter(self) -> str:
        named = self._model.named_parameters()
        return next((name for name, p in named if p.grad is not None and not p.grad.isfinite().all()), "?")
