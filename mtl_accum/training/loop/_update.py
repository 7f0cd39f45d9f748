"""Parameter updates: gradient clipping, skipping of NaN, loss scaling, and the optimizer's step."""

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
    """Update of the parameters from their gradients.

    Args:
        model: Network with the gradients.
        optimizer: Optimizer of its parameters.
        precision: Precision whose loss scaler unscales the gradients.
        clip_norm: Largest norm of the whole gradient (Pascanu et al., 2013, On the difficulty of training recurrent
            neural networks); None does not clip.
        on_nan: "raise", or "skip": a step with a NaN or infinite loss or gradient changes nothing and is counted. The
            test makes every step wait for the device.

    Attributes:
        stepped: Whether the last step changed the parameters.
        skipped: Number of steps that changed nothing.
        norm: Norm of the last gradient before clipping; None where it was not computed.

    Raises:
        ValueError: An argument is out of range.
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
        self._scale: float | None = None  # loss scale after the last step; reading it waits for the device

    def before(self) -> None:
        """Save what a skipped step must restore; called at the start of a step, again if it was rolled back."""
        if self._skips:
            self._buffers.renew(self._buffer_owners)

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> None:
        """Update the parameters, or skip the step.

        Args:
            losses: Losses by task.
            step: Number of the step, for the log.
        """
        scaler = self._precision.scaler
        if scaler is not None and all(parameter.grad is None for parameter in self._model.parameters()):
            scaler = None  # no task is present: unscaling no gradient at all would raise
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
                scaler.step(self._optimizer)  # skips an overflowed gradient, and `update` then lowers the scale
            scaler.update()
            self._scale = scaler.get_scale()
            self.stepped = self.stepped and self._scale >= before
        elif self.stepped:
            self._optimizer.step()
        self.skipped += not self.stepped

    def _finite(self, losses: Mapping[str, Tensor], step: int) -> bool:
        """Return whether losses and gradient are finite, and log it if not; costs one transfer from the device."""
        assert self.norm is not None
        values = torch.stack([value.float() for value in (*losses.values(), self.norm)])
        *finite_losses, finite_gradient = values.isfinite().tolist()
        if all(finite_losses) and finite_gradient:
            return True
        tasks = [name for name, finite in zip(losses, finite_losses, strict=True) if not finite]
        cause = f"the loss of {', '.join(tasks)}" if tasks else f"the gradient of {self._first_nonfinite()}"
        _LOG.warning(
            "step %d: %s is NaN or infinite; nothing changed (%d skipped so far)", step, cause, self.skipped + 1
        )
        return False

    def _first_nonfinite(self) -> str:
        """Return the name of the first parameter whose gradient is not finite."""
        named = self._model.named_parameters()
        return next((name for name, p in named if p.grad is not None and not p.grad.isfinite().all()), "?")
