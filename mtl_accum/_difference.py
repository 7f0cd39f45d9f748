"""How far two gradients are apart: the one figure that tests, jobs and reports use."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

__all__ = ["gradient_difference"]

_NEGLIGIBLE = 1e-3  # of the whole gradient: below it a parameter's gradient may be rounding alone


def gradient_difference(gradients: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None]) -> float:
    """The largest, over the parameters, of ||g - g_ref|| / max(||g_ref||, 1e-3 ||whole g_ref||).

    Some gradients are mathematically zero (an attention key's bias), and their noise is no error.

    Args:
        gradients: by parameter name; None where the parameter has none.
        reference: the same names.

    Returns:
        The difference, without unit; infinite where a parameter has a gradient on one side only, or NaN or
        infinity on one side only.

    Raises:
        ValueError: the names differ.
    """
    if gradients.keys() != reference.keys():
        odd = sorted(gradients.keys() ^ reference.keys())
        raise ValueError(f"gradients and reference must have the same names, found {odd} on one side only")
    norms = {name: _norm(value) for name, value in reference.items() if value is not None}
    whole = math.hypot(*norms.values())
    largest = 0.0
    for name, value in gradients.items():
        expected = reference[name]
        if value is None or expected is None:
            if value is not expected:
                return math.inf
            continue
        distance = _norm(value.detach().double() - expected.detach().double())
        if distance != 0.0:  # NaN too
            scale = max(norms[name], _NEGLIGIBLE * whole)
            relative = distance / scale if scale else math.inf
            largest = max(largest, math.inf if math.isnan(relative) else relative)
    return largest


def _norm(value: Tensor) -> float:
    return float(value.detach().double().norm())
