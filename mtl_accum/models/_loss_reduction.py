"""Reduction of a loss: whether it is a mean or a sum, and the denominator of its mean for torch's losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum.editions import modules_of

__all__ = ["LossReduction", "count_terms", "reduction_of"]

Terms = Callable[[Any, Tensor], "float | Tensor"]  # (loss, target) -> the number of terms of its mean

_IGNORED = -100  # label that torch's cross-entropies leave out by default


class LossReduction(NamedTuple):
    """Reduction of a loss, as far as it can be determined from outside.

    Attributes:
        reduction: Reduction that the loss declares, "mean", "sum" or another name; None if it declares none.
        terms: Function that returns the number of terms for a target, as far as it is known.
        is_torch: Whether the loss is one of torch's; then `terms` returns the denominator.
        depends_on_labels: Whether the number of terms depends on the labels.
        obstacle: Reason why the loss cannot be treated as a mean over samples; empty if it can.
    """

    reduction: str | None
    terms: Terms
    is_torch: bool = True
    depends_on_labels: bool = False
    obstacle: str = ""


# By the loss: a step in pieces would otherwise inspect it for every piece.
_CACHE: WeakKeyDictionary[Any, LossReduction] = WeakKeyDictionary()


def reduction_of(loss: Callable[..., Any]) -> LossReduction:
    """Determine the reduction of a loss.

    Torch's loss modules and functions are recognised, also inside `functools.partial` and `torch.compile`. Of other
    losses the `reduction` attribute is used. Losses that ignore labels, weight classes or are known to couple samples
    (Dice, OHEM, contrastive losses) have no denominator that could be determined from outside.
    """
    try:
        cached = _CACHE.get(loss)
    except TypeError:  # the loss is not hashable
        return _inspect(loss)
    if cached is None:
        cached = _inspect(loss)
        with suppress(TypeError):  # the loss does not support weak references
            _CACHE[loss] = cached
    return cached


def _inspect(loss: Any) -> LossReduction:
    loss = _uncompiled(loss)
    kind = _kind(loss)
    reduction = _options(loss).get("reduction")
    if kind is None:
        return LossReduction(reduction, _unignored, is_torch=False, obstacle=_obstacle(loss))
    if kind == "labels":
        return LossReduction(reduction or "mean", _labelled, depends_on_labels=True)
    elements = kind == "elements" and reduction != "batchmean"
    return LossReduction(reduction or "mean", _elements if elements else _samples)


def count_terms(labels: Tensor, *, ignore_index: int = _IGNORED, weight: Tensor | None = None) -> float | Tensor:
    """Count the labels that are not ignored, or sum the weights of their classes, without a synchronisation.

    For class probabilities (floating-point labels) all entries count.
    """
    if labels.is_floating_point():
        return labels.numel()
    valid = labels != ignore_index
    if weight is None:
        return valid.sum()
    weights = weight.to(labels.device, non_blocking=True)[torch.where(valid, labels, 0)]
    return torch.where(valid, weights, 0).sum(dtype=torch.promote_types(weights.dtype, torch.float32))


_KINDS: dict[type[nn.Module], tuple[str, Callable[..., Any]]] = {
    nn.CrossEntropyLoss: ("labels", F.cross_entropy),
    nn.NLLLoss: ("labels", F.nll_loss),
    nn.MSELoss: ("elements", F.mse_loss),
    nn.L1Loss: ("elements", F.l1_loss),
    nn.SmoothL1Loss: ("elements", F.smooth_l1_loss),
    nn.HuberLoss: ("elements", F.huber_loss),
    nn.BCELoss: ("elements", F.binary_cross_entropy),
    nn.BCEWithLogitsLoss: ("elements", F.binary_cross_entropy_with_logits),
    nn.KLDivLoss: ("elements", F.kl_div),
    nn.PoissonNLLLoss: ("elements", F.poisson_nll_loss),
    nn.SoftMarginLoss: ("elements", F.soft_margin_loss),
    nn.HingeEmbeddingLoss: ("elements", F.hinge_embedding_loss),
    nn.MultiLabelMarginLoss: ("samples", F.multilabel_margin_loss),
    nn.MultiLabelSoftMarginLoss: ("samples", F.multilabel_soft_margin_loss),
    nn.MultiMarginLoss: ("samples", F.multi_margin_loss),
}
_MODULES: dict[Any, str] = {module.forward: kind for module, (kind, _) in _KINDS.items()}
_FUNCTIONS: dict[Any, str] = {function: kind for kind, function in _KINDS.values()}


def _kind(loss: Any) -> str | None:
    """Return the kind of a torch loss, or None for any other loss."""
    if isinstance(loss, nn.Module):  # a subclass that overrides forward is a different loss
        return _MODULES.get(type(loss).forward)
    if isinstance(loss, partial):
        return None if loss.args else _FUNCTIONS.get(loss.func)
    return _FUNCTIONS.get(loss) if isinstance(loss, Hashable) else None


def _uncompiled(loss: Any) -> Any:
    """Return the module inside `torch.compile`, or the loss itself."""
    return getattr(loss, "_orig_mod", loss)


def _options(loss: Any) -> Mapping[str, Any]:
    if isinstance(loss, partial):
        return loss.keywords
    return {name: getattr(loss, name, None) for name in ("reduction", "ignore_index", "weight")}


def _labelled(loss: Any, target: Tensor) -> float | Tensor:
    options = _options(_uncompiled(loss))
    ignored = options.get("ignore_index")
    return count_terms(target, ignore_index=_IGNORED if ignored is None else ignored, weight=options.get("weight"))


def _elements(loss: Any, target: Tensor) -> int:
    return target.numel()


def _samples(loss: Any, target: Tensor) -> int:
    return len(target)


_COUPLING_NAMES = re.compile(
    r"dice|tversky|jaccard|lovasz|ohem|hard_?example|contrastive|info_?nce|nt_?xent|sup_?con|barlow|vicreg",
    re.IGNORECASE,
)


def _obstacle(loss: Any) -> str:
    """Return why a user's loss cannot be treated as a mean over samples; "" if it can."""
    inner = loss.func if isinstance(loss, partial) else loss
    names = [kind.__name__ for kind in type(inner).__mro__] if isinstance(inner, nn.Module) else []
    name = names[0] if names else getattr(inner, "__name__", type(inner).__name__)
    if any(_COUPLING_NAMES.search(each) for each in names or [name]):
        return (
            f"{name} is no mean over samples, so that over pieces of the batch it is another loss; declare "
            "couples_samples=True, or give count= (the denominator of its mean) if it has one"
        )
    ignored = getattr(loss, "ignore_index", None)
    if ignored is not None:
        return (
            f"{name} leaves out labels (ignore_index={ignored}), so its mean is not over the samples; give "
            f"count=, e.g. count_labels(target, ignore_index={ignored})"
        )
    if isinstance(loss, nn.modules.loss._WeightedLoss) and loss.weight is not None:
        return f"{name} has class weights, whose effect on its mean is unknown; give count="
    return ""


def _unignored(loss: Any, target: Tensor) -> float | Tensor:
    """Count the terms of a user's loss by its labels: a function around a cross-entropy may ignore some labels."""
    if target.is_floating_point():
        return target.numel()
    inner = next((m for m in modules_of(loss) if isinstance(m, nn.CrossEntropyLoss | nn.NLLLoss)), None)
    return (target != (_IGNORED if inner is None else inner.ignore_index)).sum()
