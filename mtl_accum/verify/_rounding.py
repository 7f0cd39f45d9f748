"""Rounding of a network's losses and gradients, measured by comparing the summed loss with itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk
from mtl_accum.verify._difference import distance, norm, scale_of
from mtl_accum.verify._trial import Sandbox, StepOutcome

__all__ = ["Rounding", "measure_rounding"]

# Exact in every precision down to bfloat16, and no powers of two: every number of the backward rounds differently.
_FACTORS = (1.25, 1.5, 1.75)
# The rounding of all exact editions is about equal; the maximum exceeds that of a few samples.
_MARGIN = 10.0
_LARGEST = 1e-4  # of a value's scale: a larger change comes from a tie (an argmax, a threshold), not from rounding


@dataclass(frozen=True)
class Rounding:
    """Distances that rounding alone explains in one network, in one precision.

    Attributes:
        losses: Distances of the losses, by task.
        gradients: Distances of the gradients, by parameter.
        buffers: Distances of the buffers, by name.
        relative: Distance of the whole gradient, relative to its norm.
        proportional: Whether twice the losses give twice the gradient, to the last bit. If not, something adds to the
            gradient in the backward.
    """

    losses: Mapping[str, float]
    gradients: Mapping[str, float]
    buffers: Mapping[str, float]
    relative: float
    proportional: bool


def measure_rounding(network: Sandbox, reference: StepOutcome) -> Rounding:
    """Measure the rounding of a network without a more precise reference.

    Backward: losses times 1.25 give the gradient times 1.25, but every number rounds differently, in whatever precision
    the network computes inside (a norm in float32 within float64). Losses times 2 round as before, so a gradient that
    is not doubled is no rounding. Forward: the weights are changed by the relative rounding of the backward.

    Args:
        network: Network to run.
        reference: Outcome of `SummedLoss` on it.
    """
    again = _scaled(network, 1.0, reference)
    doubled = _scaled(network, 2.0, reference)
    runs = [_scaled(network, factor, reference) for factor in _FACTORS]
    norms = {name: 0.0 if g is None else norm(g) for name, g in reference.gradients.items()}
    whole = max(1e-300, torch.tensor([*norms.values(), 0.0], dtype=torch.float64).norm().item())
    tiny = torch.finfo(torch.float64).eps * whole
    odd = {name for name, change in doubled.items() if change > 4 * again[name] + tiny}
    backward = {name: 0.0 if name in odd else max(run[name] for run in runs) for name in doubled}
    relative = torch.tensor([*backward.values(), 0.0], dtype=torch.float64).norm().item() / whole
    moved = _with_moved_weights(network, reference, max(_epsilon(reference), min(relative, _LARGEST)))
    if moved is None:
        moved = reference
    gradients = _distances(moved.gradients, reference.gradients)
    return Rounding(
        losses=_times_margin(_distances(moved.losses, reference.losses)),
        gradients={name: _MARGIN * max(change, gradients[name]) for name, change in backward.items()},
        buffers=_times_margin(_distances(moved.buffers, reference.buffers)),
        relative=_MARGIN * relative,
        proportional=not odd,
    )


def _scaled(network: Sandbox, factor: float, reference: StepOutcome) -> dict[str, float]:
    """Return how far the gradient of scaled losses, divided by the factor, is from the gradient."""
    gradients = network.run(_Scaled(factor)).gradients
    return {
        name: distance(None if value is None else value.double() / factor, reference.gradients.get(name))
        for name, value in gradients.items()
    }


def _with_moved_weights(network: Sandbox, reference: StepOutcome, relative: float) -> StepOutcome | None:
    """Return the outcome with every weight changed by a relative step up or down; None if the network then fails."""
    try:
        with _weights_moved(network, relative):
            outcome = network.run(SummedLoss())
    except Exception:
        return None
    same = outcome.gradients.keys() == reference.gradients.keys() and outcome.buffers.keys() == reference.buffers.keys()
    return outcome if same else None


@contextmanager
def _weights_moved(network: Sandbox, relative: float) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    parameters = [p for p in network.parameters.values() if p.is_floating_point() and not _is_special(p)]
    saved = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        for parameter, value in saved:
            signs = torch.randint(0, 2, value.shape, generator=generator).to(value.device) * 2 - 1
            parameter.data.copy_(value + value * signs * relative)
        yield
    finally:
        for parameter, value in saved:
            parameter.data.copy_(value)


def _is_special(parameter: Tensor) -> bool:
    """Return whether a parameter cannot be written to: a tensor subclass, or an inference tensor."""
    return type(parameter) not in (Tensor, torch.nn.Parameter) or parameter.is_inference()


def _distances(values: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Return the distances of values from a reference; 0 where a distance is too large for rounding."""
    scales = scale_of(reference)
    distances = {name: distance(value, reference.get(name)) for name, value in values.items()}
    return {name: value if value <= _LARGEST * scales.get(name, 0.0) else 0.0 for name, value in distances.items()}


def _times_margin(distances: Mapping[str, float]) -> dict[str, float]:
    return {name: _MARGIN * value for name, value in distances.items()}


def _epsilon(outcome: StepOutcome) -> float:
    kinds = {g.dtype for g in outcome.gradients.values() if g is not None and g.is_floating_point()}
    return min((torch.finfo(kind).eps for kind in kinds), default=0.0)


@dataclass(frozen=True)
class _Scaled(Edition):
    """`SummedLoss` of the losses times a factor."""

    factor: float

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        return SummedLoss().forward_backward(
            trunk, {name: _Times(task, self.factor) for name, task in tasks.items()}, batch
        )


class _Times:
    """Task times a number; all attributes are the task's."""

    def __init__(self, task: Any, factor: float) -> None:
        self._task, self._factor = task, factor

    def __call__(self, representation: Any, batch: Any) -> Tensor:
        loss: Tensor = self._task(representation, batch) * self._factor
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)
