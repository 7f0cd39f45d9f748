"""Gradient of a sum of losses, computed one loss at a time with one buffer per leaf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._engine import (
    Behind,
    Graph,
    attach,
    inside_forward,
    own_graph,
    require_loss,
    walk,
    wide,
    without_autocast,
    without_hooks,
)
from mtl_accum.models._graph_shortcuts import Product, products_in, start_of_backward

__all__ = ["ChunkGradients"]


class ChunkGradients:
    """Gradients of the inputs, filled slice by slice, and of all other leaves, summed over the chunks.

    Sums for 16-bit leaves are in float32. The gradient of a large weight of a linear layer is multiplied directly into
    its buffer: a separate gradient in every chunk would be a second copy of a vocabulary matrix.

    Args:
        inputs: Tensors from which chunks are cut.
        dim: Dimension along which they are cut.
        scale: Factor of the gradients, which the backward divides out.
        who: Name of the caller for messages.
    """

    def __init__(self, inputs: Sequence[Tensor], dim: int, scale: float | Tensor | None, who: str) -> None:
        self._inputs, self._dim, self._scale, self._who = inputs, dim, scale, who
        self._slices: dict[int, Tensor] = {}  # by the input's position
        self._sums: dict[Tensor, Tensor] = {}
        self._checked = False  # whether the graph of the first chunk has been checked
        self._behind = Behind([x for x in inputs if x.requires_grad])

    def take(self, function: Callable[..., Tensor], start: int, length: int) -> Tensor:
        """Return the loss of a function on one chunk; its gradient is added, and its graph freed.

        Raises:
            TypeError: The function does not return a tensor.
            ValueError: The loss is not 0-dim.
            RuntimeError: The function reads the graph behind the inputs, or is in float16 without a scale.
        """
        chunk = [x.detach().narrow(self._dim, start, length).requires_grad_(x.requires_grad) for x in self._inputs]
        loss = function(*chunk)
        require_loss(self._who, loss)
        value = loss.detach().clone()
        if loss.requires_grad:
            graph = self._walk(loss)
            slices = {x: index for index, x in enumerate(chunk) if x.requires_grad}
            products = [product for product in products_in(graph) if product.weight not in slices]
            direct = {product.weight for product in products}
            leaves = [leaf for leaf in graph.leaves if leaf not in direct and leaf not in slices]
            with without_autocast(), without_hooks(leaves), inside_forward(), torch.no_grad():
                root, first = start_of_backward(loss, self._scale)
                del loss, graph  # the nodes above the logits hold a tensor of the same size
                targets: list[Any] = [*slices, *leaves, *(product.output for product in products)]
                gradients = list(torch.autograd.grad(root, targets, first, allow_unused=True))
                for product in reversed(products):
                    self._add_product(product, gradients.pop())
                for leaf in reversed(leaves):
                    self._add(leaf, gradients.pop())
                for index in reversed(slices.values()):
                    self._fill(index, start, gradients.pop())
        return value

    def attach(self, value: Tensor) -> Tensor:
        """Return a value with the gradients attached, and drop them here."""
        if not self._checked:  # no loss needed a gradient
            return value
        pairs = [(gradient, self._inputs[index]) for index, gradient in self._slices.items()]
        self._slices.clear()
        while self._sums:
            leaf, total = self._sums.popitem()
            pairs.append((total.to(leaf.dtype), leaf))
            del total
        return attach(value, pairs, self._scale, disposable=True)

    def _walk(self, loss: Tensor) -> Graph:
        """Walk the graph of a chunk; the graph of the first chunk is also checked."""
        if self._checked:
            return walk([loss])
        self._checked = True
        return own_graph(loss, self._behind, self._who, dtypes=self._scale is None)

    def _fill(self, index: int, start: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            if index not in self._slices:
                self._slices[index] = torch.zeros_like(self._inputs[index])
            self._slices[index].narrow(self._dim, start, gradient.shape[self._dim]).copy_(gradient)

    def _add(self, leaf: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        if leaf in self._sums:
            self._sums[leaf].add_(gradient)  # the kernel converts the gradient to float32
        else:  # a copy: autograd may return the same or an expanded tensor for two leaves
            self._sums[leaf] = gradient.to(wide(leaf.dtype), copy=True)

    def _add_product(self, product: Product, output_gradient: Tensor | None) -> None:
        if output_gradient is None:
            return
        weight, features = product.weight, product.features
        total = self._sums.get(weight)
        if total is None:
            self._sums[weight] = (output_gradient.T @ features).to(wide(weight.dtype))
        elif total.dtype == features.dtype:
            total.addmm_(output_gradient.T, features)
        else:
            total.add_(output_gradient.T @ features)
