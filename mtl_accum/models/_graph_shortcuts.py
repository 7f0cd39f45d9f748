"""Memory-saving replacements of two backward computations: the gradient of a large weight, and of a cross-entropy."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mtl_accum.editions._engine import Graph, start_gradient

__all__ = ["Product", "products_in", "start_of_backward"]

# By the name of a matrix product's node: the index of the weight among its inputs, and the attribute of the features.
_PRODUCTS = {"AddmmBackward0": (2, "_saved_mat1"), "MmBackward0": (1, "_saved_self")}
_LIKELIHOODS = {"NllLossBackward0", "NllLoss2DBackward0"}
_SUM = 2  # torch's number for reduction="sum"


class Product(NamedTuple):
    """Linear layer whose weight has the gradient dL/d(output), transposed, times the features.

    Attributes:
        weight: Weight (out, in), a leaf.
        features: Input of the layer (rows, in).
        output: Edge of the graph for dL/d(output), (rows, out).
    """

    weight: Tensor
    features: Tensor
    output: GradientEdge


def products_in(graph: Graph) -> list[Product]:
    """Return the linear layers whose weight has more entries than dL/d(output) and the features together."""
    uses = Counter(below for node in graph.nodes for below, _ in node.next_functions)
    products = (_product(node, uses) for node in graph.nodes if node.name() in _PRODUCTS)
    return [product for product in products if product is not None]


def _product(node: Any, uses: Counter[Any]) -> Product | None:
    index, saved = _PRODUCTS[node.name()]
    transposed = node.next_functions[index][0]
    if transposed is None or transposed.name() != "TBackward0" or getattr(node, "_saved_alpha", 1) != 1:
        return None
    end = transposed.next_functions[0][0]
    if end.name() == "ToCopyBackward0" and uses[transposed] == 1:  # autocast
        transposed, end = end, end.next_functions[0][0]
    weight = getattr(end, "variable", None)
    if weight is None or uses[transposed] > 1 or uses[end] > 1 or is_traceable_wrapper_subclass(weight):
        return None
    features: Tensor = getattr(node, saved)
    smaller = len(features) * sum(weight.shape) < weight.numel()
    return Product(weight, features.detach(), GradientEdge(node, 0)) if smaller else None


def start_of_backward(loss: Tensor, scale: float | Tensor | None) -> tuple[Tensor | GradientEdge, Tensor]:
    """Return the root of the backward of a loss, and the gradient at the root.

    The root is the loss, with its scale as the gradient. For `F.cross_entropy(logits, labels, reduction="sum")` it is
    the logits, with softmax minus one-hot as the gradient. That allocates one tensor of the size of the logits beside
    the saved one; autograd's nodes allocate two.
    """
    start = torch.ones_like(loss) if scale is None else start_gradient(loss, scale)
    return _softmax_minus_one_hot(loss.grad_fn, start) or (loss, start)


def _softmax_minus_one_hot(top: Any, scale: Tensor) -> tuple[GradientEdge, Tensor] | None:
    below = top.next_functions[0][0] if top.name() in _LIKELIHOODS else None
    if below is None or below.name() != "LogSoftmaxBackward0" or below._saved_dim != 1:
        return None
    log_probabilities = below._saved_result.detach()
    wide = log_probabilities.dtype in (torch.float32, torch.float64)  # in 16 bit, 1 - p would lose its digits
    if top._saved_reduction != _SUM or top._saved_weight is not None or log_probabilities.dim() < 2 or not wide:
        return None
    labels: Tensor = top._saved_target
    valid = labels != top._saved_ignore_index
    factor = (valid * scale).unsqueeze(1).to(log_probabilities.dtype)
    gradient = torch.softmax(log_probabilities, 1).mul_(factor)  # equals exp here, and is faster
    gradient.scatter_add_(1, (labels * valid).unsqueeze(1), -factor)
    return GradientEdge(*below.next_functions[0]), gradient
