"""The denominator of a loss's mean: what torch's losses state of themselves, and where it cannot be told."""

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

__all__ = ["Denominator", "count_terms", "denominator"]

Terms = Callable[[Any, Tensor], "float | Tensor"]  # (loss, target) -> the number of terms of its mean

_IGNORED = -100  # torch's default for labels that a cross-entropy leaves out


class Denominator(NamedTuple):
    """What is known of a loss's mean.

    Attributes:
        reduction: "mean", "sum", or another word of the loss's own; None where nothing is stated.
        terms: Number of terms for a target, as far as it is known.
        of_torch: Whether it is one of torch's losses, so that `terms` are the denominator.
        of_labels: Whether the terms depend on the labels.
        obstacle: Why the loss cannot be taken for a mean over samples; empty where it can.
    """

    reduction: str | None
    terms: Terms
    of_torch: bool = True
    of_labels: bool = False
    obstacle: str = ""


# By the loss, so that a step in pieces does not look at it once a piece.
_KNOWN: WeakKeyDictionary[Any, Denominator] = WeakKeyDictionary()


def denominator(loss: Callable[..., Any]) -> Denominator:
    """Return what a loss states of its own mean.

    Torch's loss modules and functions (also under `functools.partial` and `torch.compile`) are known. Of others, a
    `reduction` attribute is believed; one that ignores labels, weighs classes or is known to couple samples (Dice,
    OHEM, contrastive losses) has no denominator that could be told from outside.
    """
    try:
        known = _KNOWN.get(loss)
    except TypeError:  # it has no hash
        return _denominator(loss)
    if known is None:
        known = _denominator(loss)
        with suppress(TypeError):  # it cannot be referred to weakly
            _KNOWN[loss] = known
    return known


def _denominator(loss: Any) -> Denominator:
    loss = getattr(loss, "_orig_mod", loss)  # torch.compile's
    kind = _kind(loss)
    reduction = _options(loss).get("reduction")
    if kind is None:
        return Denominator(reduction, _unignored, of_torch=False, obstacle=_obstacle(loss))
    if kind == "labels":
        return Denominator(reduction or "mean", _labelled, of_labels=True)
    elements = kind == "elements" and reduction != "batchmean"
    return Denominator(reduction or "mean", _elements if elements else _samples)


def count_terms(labels: Tensor, *, ignore_index: int = _IGNORED, weight: Tensor | None = None) -> float | Tensor:
    """Count the labels that are not ignored, or add up their classes' weights, without a synchronisation.

    Class probabilities (floating-point labels) count with all their entries.
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
    """Return the kind of one of torch's losses, else None."""
    if isinstance(loss, nn.Module):  # a class that overrides forward is another loss, whatever it inherits
        return _MODULES.get(type(loss).forward)
    if isinstance(loss, partial):
        return None if loss.args else _FUNCTIONS.get(loss.func)
    return _FUNCTIONS.get(loss) if isinstance(loss, Hashable) else None


def _options(loss: Any) -> Mapping[str, Any]:
    if isinstance(loss, partial):
        return loss.keywords
    return {name: getattr(loss, name, None) for name in ("reduction", "ignore_index", "weight")}


def _labelled(loss: Any, target: Tensor) -> float | Tensor:
    options = _options(getattr(loss, "_orig_mod", loss))
    ignored = options.get("ignore_index")
    return count_terms(target, ignore_index=_IGNORED if ignored is None else ignored, weight=options.get("weight"))


def _elements(loss: Any, target: Tensor) -> int:
    return target.numel()


def _samples(loss: Any, target: Tensor) -> int:
    return len(target)


_COUPLES = re.compile(
    r"dice|tversky|jaccard|lovasz|ohem|hard_?example|contrastive|info_?nce|nt_?xent|sup_?con|barlow|vicreg",
    re.IGNORECASE,
)


def _obstacle(loss: Any) -> str:
    inner = loss.func if isinstance(loss, partial) else loss
    names = [kind.__name__ for kind in type(inner).__mro__] if isinstance(inner, nn.Module) else []
    name = names[0] if names else getattr(inner, "__name__", type(inner).__name__)
    if any(_COUPLES.search(each) for each in names or [name]):
        return (
            f"{name} is no mean over samples, so that over pieces of the batch it is another loss; declare "
            "couples_samples=True, or give count= (the denominator of its mean) if it has one"
        )
    ignored = getattr(loss, "ignore_index", None)
    if ignored is not None:
        return (
            f"{name} leaves out labels (ignore_index={ignored}), so that its mean is not over the samples; give "
            f"count=, e.g. count_labels(target, ignore_index={ignored})"
        )
    if isinstance(loss, nn.modules.loss._WeightedLoss) and loss.weight is not None:
        return f"{name} has class weights, whose part in its mean cannot be seen from outside; give count="
    return ""


def _unignored(loss: Any, target: Tensor) -> float | Tensor:
    """Terms of a loss of the user's own, as far as labels tell: a function around a cross-entropy leaves some out."""
    if target.is_floating_point():
        return target.numel()
    inner = next((m for m in modules_of(loss) if isinstance(m, nn.CrossEntropyLoss | nn.NLLLoss)), None)
    return (target != (_IGNORED if inner is None else inner.ignore_index)).sum()
