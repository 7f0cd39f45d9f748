"""How large rounding is in a network: measured with the summed loss against itself, never assumed."""

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

# Exact in every precision down to bfloat16, and not powers of two: they round anew every number of the backward.
_FACTORS = (1.25, 1.5, 1.75)
# A sound edition's rounding is as large as that of another sound one; a few samples of it are not its maximum.
_MARGIN = 10.0
_LARGEST = 1e-4  # of a value's scale: what moves further when weights move by rounding was a tie, not rounding


@dataclass(frozen=True)
class Rounding:
    """Distances that rounding alone explains in one network, in one precision.

    Attributes:
        losses: By task.
        gradients: By parameter.
        buffers: By buffer.
        relative: Of the whole gradient.
        proportional: Whether twice the losses give twice the gradient, to the last bit; if not, something adds
            gradient of its own in the backward.
    """

    losses: Mapping[str, float]
    gradients: Mapping[str, float]
    buffers: Mapping[str, float]
    relative: float
    proportional: bool


def measure_rounding(network: Sandbox, reference: StepOutcome) -> Rounding:
    """Measure rounding, where no reference is more exact than the network itself.

    The losses times 1.25 give the gradient times 1.25, and every rounding of the backward falls differently, in
    whatever precision the network computes inside (a norm in float32 in the midst of float64). The losses times 2
    round as before: what is not doubled then is no rounding. For the forward, the weights are moved by as much as
    the backward was found to round.

    Args:
        network: Runs without a trace.
        reference: Its outcome under `SummedLoss`.
    """
    again = _scaled(network, 1.0, reference)
    doubled = _scaled(network, 2.0, reference)
    runs = [_scaled(network, factor, reference) for factor in _FACTORS]
    norms = {name: 0.0 if g is None else norm(g) for name, g in reference.gradients.items()}
    whole = max(1e-300, torch.tensor([*norms.values(), 0.0], dtype=torch.float64).norm().item())
    tiny = torch.finfo(torch.float64).eps * whole
    odd = {name for name, away in doubled.items() if away > 4 * again[name] + tiny}
    backward = {name: 0.0 if name in odd else max(run[name] for run in runs) for name in doubled}
    relative = torch.tensor([*backward.values(), 0.0], dtype=torch.float64).norm().item() / whole
    moved = _moved(network, reference, max(_epsilon(reference), min(relative, _LARGEST)))
    if moved is None:
        moved = reference
    gradients = _distances(moved.gradients, reference.gradients)
    return Rounding(
        losses=_times_margin(_distances(moved.losses, reference.losses)),
        gradients={name: _MARGIN * max(away, gradients[name]) for name, away in backward.items()},
        buffers=_times_margin(_distances(moved.buffers, reference.buffers)),
        relative=_MARGIN * relative,
        proportional=not odd,
    )


def _scaled(network: Sandbox, factor: float, reference: StepOutcome) -> dict[str, float]:
    """How far the gradient of the losses times a factor, divided by it, is from the gradient."""
    gradients = network.run(_Scaled(factor)).gradients
    return {
        name: distance(None if value is None else value.double() / factor, reference.gradients.get(name))
        for name, value in gradients.items()
    }


def _moved(network: Sandbox, reference: StepOutcome, relative: float) -> StepOutcome | None:
    """The outcome with every weight moved by a relative step up or down; None where the network fails with them."""
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
    kept = [(p, p.detach().clone()) for p in network.parameters.values() if p.is_floating_point() and not _is_odd(p)]
    try:
        for parameter, value in kept:
            signs = torch.randint(0, 2, value.shape, generator=generator).to(value.device) * 2 - 1
            parameter.data.copy_(value + value * signs * relative)
        yield
    finally:
        for parameter, value in kept:
            parameter.data.copy_(value)


def _is_odd(parameter: Tensor) -> bool:
    return type(parameter) not in (Tensor, torch.nn.Parameter) or parameter.is_inference()


def _distances(values: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None]) -> dict[str, float]:
    scales = scale_of(reference)
    away = {name: distance(value, reference.get(name)) for name, value in values.items()}
    return {name: value if value <= _LARGEST * scales.get(name, 0.0) else 0.0 for name, value in away.items()}


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
    """A task times a number; everything else is the task's own."""

    def __init__(self, task: Any, factor: float) -> None:
        self._task, self._factor = task, factor

    def __call__(self, representation: Any, batch: Any) -> Tensor:
        loss: Tensor = self._task(representation, batch) * self._factor
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)
