"""Relative difference of two gradients: the figure that tests, jobs and reports use."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["distance", "gradient_difference", "largest_difference", "norm", "scale_of"]

_NEGLIGIBLE = 1e-3  # of the whole gradient: below it a parameter's gradient may be rounding alone


Gradients = Mapping[str, Tensor | None]


def gradient_difference(gradients: Gradients, reference: Gradients) -> float:
    """Return the largest, over the parameters, of ||g - g_ref|| / max(||g_ref||, 1e-3 ||whole g_ref||).

    Some gradients are mathematically zero (an attention key's bias), and their noise is no error.

    Args:
        gradients: Gradients by parameter name; None where a parameter has no gradient.
        reference: Gradients to compare with, by the same names.

    Returns:
        The difference, without unit; infinite where a parameter has a gradient on one side only, gradients of
        different shapes, or one that is NaN or infinite.

    Raises:
        ValueError: The names differ.
    """
    return largest_difference(gradients, reference)[0]


def largest_difference(
    gradients: Gradients, reference: Gradients, rounding: Mapping[str, float] | None = None
) -> tuple[float, str]:
    """Return `gradient_difference`, and the name of the parameter where it is largest; "" without parameters.

    Args:
        gradients: Gradients by parameter name.
        reference: Gradients to compare with, by the same names.
        rounding: Distances ||g - g_ref|| that rounding explains, by parameter name; they are subtracted.

    Raises:
        ValueError: The names differ.
    """
    if gradients.keys() != reference.keys():
        odd = sorted(gradients.keys() ^ reference.keys())
        raise ValueError(f"gradients and reference must have the same names, found {odd} on one side only")
    explained, scales = rounding or {}, scale_of(reference)
    differences = {
        name: _relative(distance(value, reference[name]) - explained.get(name, 0.0), scales[name])
        for name, value in gradients.items()
    }
    worst = max(differences, key=differences.__getitem__, default="")
    return differences.get(worst, 0.0), worst


def scale_of(reference: Gradients) -> dict[str, float]:
    """Return the divisor of each parameter's distance: max(||g_ref||, 1e-3 ||whole g_ref||)."""
    norms = {name: 0.0 if value is None else norm(value) for name, value in reference.items()}
    whole = math.hypot(*norms.values())
    return {name: max(value, _NEGLIGIBLE * whole) for name, value in norms.items()}


def distance(value: Tensor | None, reference: Tensor | None) -> float:
    """Return ||g - g_ref||; infinite if only one of them is None, the shapes differ, or the result is NaN."""
    if value is None or reference is None:
        return 0.0 if value is reference else math.inf
    if value.shape != reference.shape:
        return math.inf
    result = norm(_wide(value) - _wide(reference))
    return math.inf if math.isnan(result) else result


def norm(value: Tensor) -> float:
    """Return the Euclidean norm, computed in float64."""
    return float(_wide(value).norm())


def _wide(value: Tensor) -> Tensor:
    """Convert to float64; a complex tensor to its real and imaginary parts."""
    value = value.detach()
    return torch.view_as_real(value.resolve_conj()).double() if value.is_complex() else value.double()


def _relative(value: float, scale: float) -> float:
    if value <= 0.0:
        return 0.0
    relative = value / scale if scale else math.inf
    return math.inf if math.isnan(relative) else relative
