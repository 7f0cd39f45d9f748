"""How far two gradients are apart: the one figure that tests, jobs and reports use."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

__all__ = ["gradient_difference", "largest_difference"]

_NEGLIGIBLE = 1e-3  # of the whole gradient: below it a parameter's gradient may be rounding alone


Gradients = Mapping[str, Tensor | None]


def gradient_difference(gradients: Gradients, reference: Gradients) -> float:
    """The largest, over the parameters, of ||g - g_ref|| / max(||g_ref||, 1e-3 ||whole g_ref||).

    Some gradients are mathematically zero (an attention key's bias), and their noise is no error.

    Args:
        gradients: by parameter name; None where the parameter has none.
        reference: the same names.

    Returns:
        The difference, without unit; infinite where a parameter has a gradient on one side only, or is NaN or
        infinite.

    Raises:
        ValueError: the names differ.
    """
    return largest_difference(gradients, reference)[0]


def largest_difference(gradients: Gradients, reference: Gradients) -> tuple[float, str]:
    """The same, with the name of the parameter that it belongs to; "" if there is none."""
    if gradients.keys() != reference.keys():
        odd = sorted(gradients.keys() ^ reference.keys())
        raise ValueError(f"gradients and reference must have the same names, found {odd} on one side only")
    norms = {name: _norm(value) for name, value in reference.items() if value is not None}
    whole = math.hypot(*norms.values())
    differences = {
        name: _difference(value, reference[name], max(norms.get(name, 0.0), _NEGLIGIBLE * whole))
        for name, value in gradients.items()
    }
    worst = max(differences, key=differences.__getitem__, default="")
    return differences.get(worst, 0.0), worst


def _difference(value: Tensor | None, reference: Tensor | None, scale: float) -> float:
    if value is None or reference is None:
        return 0.0 if value is reference else math.inf
    distance = _norm(value.detach().double() - reference.detach().double())
    if distance == 0.0:
        return 0.0
    relative = distance / scale if scale else math.inf
    return math.inf if math.isnan(relative) else relative


def _norm(value: Tensor) -> float:
    return float(value.detach().double().norm())
