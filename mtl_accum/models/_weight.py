"""Weights of task losses: numbers, parameters and modules, and which of them are exact in pieces of a batch."""

from __future__ import annotations

import copy
import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from mtl_accum._state import RngState, same_random_numbers
from mtl_accum._validate import number

__all__ = ["UncertaintyWeight", "Weight", "obstacle_in_pieces", "require_weight", "weighted"]

Weight = float | nn.Parameter | nn.Module  # a module maps the loss to the weighted loss, both 0-dim


class UncertaintyWeight(nn.Module):
    """A learned weight of a task's loss: `exp(-s) * loss + s`, where s is the logarithm of the task's variance.

    A task that is hard to learn gets a small weight, and `+ s` keeps the weights from vanishing. As it is affine in
    the loss, it is exact in pieces of a batch too, unless the loss is a sum.

    Reference: Kendall, Gal and Cipolla (2018), Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics.

    Args:
        log_variance: First value of s; the first weight is `exp(-log_variance)`.

    Attributes:
        log_variance: Parameter s, of shape (1,): FSDP2 cannot shard a 0-dim parameter.

    Raises:
        ValueError: log_variance is not a finite number.
    """

    def __init__(self, log_variance: float = 0.0) -> None:
        super().__init__()
        number("log_variance", log_variance)
        self.log_variance = nn.Parameter(torch.full((1,), float(log_variance)))

    def forward(self, loss: Tensor) -> Tensor:
        """Weigh a 0-dim loss."""
        log_variance = self.log_variance.squeeze()
        return torch.exp(-log_variance) * loss + log_variance


def require_weight(weight: object) -> None:
    """Check that a value can be the weight of a task.

    Raises:
        TypeError: The value is neither a finite number nor a parameter nor a module.
        ValueError: The value is a parameter that is not floating-point, or not of shape () or (1,).
    """
    if isinstance(weight, nn.Parameter):
        if weight.shape not in ((), (1,)) or not weight.is_floating_point():
            raise ValueError(
                "weight must be a floating-point parameter of shape () or (1,), found one of shape "
                f"{tuple(weight.shape)}, {weight.dtype}; give each task a parameter of its own"
            )
    elif isinstance(weight, type) or not (isinstance(weight, nn.Module) or number.met(weight)):
        fix = "; wrap the tensor: nn.Parameter(tensor), or float(tensor)" if isinstance(weight, Tensor) else ""
        raise TypeError(
            "weight must be a number, an nn.Parameter or a module weight(loss) -> loss such as UncertaintyWeight(), "
            f"found {f'{weight!r}':.200}{fix}"
        )


def weighted(weight: Any, loss: Tensor) -> Tensor:
    """Return a weighted loss, 0-dim where the loss is.

    Raises:
        TypeError, ValueError: A module did not return a 0-dim tensor.
    """
    if not isinstance(weight, nn.Module):
        factor = weight.squeeze() if isinstance(weight, Tensor) else weight
        product: Tensor = factor * loss
        return product
    result = weight(loss)
    if not isinstance(result, Tensor):
        raise TypeError(f"weight ({type(weight).__name__}) must return a 0-dim tensor, found {type(result).__name__}")
    if result.dim() and not loss.dim():
        raise ValueError(
            f"weight ({type(weight).__name__}) must return a 0-dim loss for a 0-dim loss, found one of shape "
            f"{tuple(result.shape)}; squeeze() its parameter"
        )
    return result


def obstacle_in_pieces(weight: Any, reduction: str) -> str:
    """Return why a weighted loss differs between pieces of a batch and the whole batch; "" if it is the same.

    The shares of a mean add up to 1, so `a * loss + b` is exact in pieces. For a sum, b would be added once per piece.
    A module that draws random numbers or changes its buffers is a different function in every piece.
    """
    if not isinstance(weight, nn.Module):
        return ""
    state = _plain_state(weight)
    cached = _KINDS.get(weight)
    if cached is None or cached[0] != state:
        cached = _KINDS[weight] = state, _kind(weight)
    kind = cached[1]
    if kind == "linear" or (kind == "affine" and reduction != "sum"):
        return ""
    why = "adds a term, which would come once per piece, to a sum (reduction='sum')" if kind == "affine" else kind
    return f"its weight ({type(weight).__name__}) {why}"


_OTHER = "is not affine in the loss: not a * loss + b"
_RANDOM = "draws random numbers, which differ in every piece"
_KINDS: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()  # evaluated once, not once per step
# Powers of two, which are exact in every floating-point format. Small and large ones: a weight may clamp. The first
# value is repeated to detect a weight that changes with every call.
_LOSSES = (0.0, 1.0, 0.25, 4.0, 64.0, 2.0**10, 2.0**20, 2.0**-10, -1.0, -(2.0**10), 0.0)
_SHIFT = 0.25  # of the parameters: s of `exp(-s) * loss + s` begins at 0, the exponent of a power at 1
_ROUNDING = 1e-6  # relative; a module may compute in float32


def _plain_state(weight: nn.Module) -> list[Any]:
    """Return the values on which a module's code may branch: modes, other flags, whole numbers and strings."""
    return [
        (name, value) for part in weight.modules() for name, value in vars(part).items() if isinstance(value, int | str)
    ]


def _kind(weight: nn.Module) -> str:
    """Classify a module as a function of the loss: "linear", "affine", or a description of the obstacle."""
    try:
        with _disable_current_modes(), torch.no_grad():
            kinds = [_kind_of(_on_cpu(weight, shift)) for shift in (0.0, _SHIFT)]
    except Exception as error:  # any exception of the user's module or its copying
        return f"cannot be evaluated on a copy ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    other = (kind for kind in kinds if kind not in ("affine", "linear"))
    return next(other, "affine" if "affine" in kinds else "linear")


def _kind_of(function: nn.Module) -> str:
    """Classify a module on the CPU as a function of the loss; its buffers may change."""
    buffers = {name: buffer.clone() for name, buffer in function.named_buffers()}
    with same_random_numbers():
        before = RngState.capture()
        values = [float(function(torch.tensor(loss, dtype=torch.float64, device="cpu"))) for loss in _LOSSES]
        if before != RngState.capture():
            return _RANDOM
    for name, buffer in function.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            return f"changes its buffer '{name}' with every call, so it differs in every piece"
    return _kind_of_values(values)


def _kind_of_values(values: list[float]) -> str:
    """Classify a function by its values at `_LOSSES`."""
    offset, slope = values[0], values[1] - values[0]
    rounding = _ROUNDING * (abs(values[0]) + abs(values[1]))  # of the slope, hence once per unit of the loss
    for loss, value in zip(_LOSSES, values, strict=True):
        slack = _ROUNDING * abs(value) + rounding * (1 + abs(loss))
        if not slack < math.inf or not abs(slope * loss + offset - value) <= slack:  # NaN fails both comparisons
            return _OTHER
    return "affine" if offset else "linear"


def _on_cpu(weight: nn.Module, shift: float) -> nn.Module:
    """Copy a module to the CPU in float64, with shifted parameters."""
    tensors = [(p, shift) for p in weight.parameters()] + [(b, 0.0) for b in weight.buffers()]
    return copy.deepcopy(weight, {id(tensor): _plain(tensor, by) for tensor, by in tensors})


def _plain(tensor: Tensor, shift: float) -> Tensor:
    """Return a tensor on the CPU with the same values, or with 0.5 if they cannot be read (sharded or fake)."""
    readable = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta
    values = tensor.detach().cpu() if readable else torch.full(tensor.shape, 0.5, device="cpu")
    if not tensor.is_floating_point():
        return values.clone()
    values = values.to(torch.float64) + shift
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values
