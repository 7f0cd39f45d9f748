"""A network that ends in a vocabulary, for losses in chunks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum.verify._difference import gradient_difference

WORDS, WIDTH = 61, 7


class Network(nn.Module):
    """A trunk on vectors, and a head that ends in a vocabulary larger than a chunk of tokens."""

    def __init__(self, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh())
        self.hidden = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout))
        self.words = nn.Linear(WIDTH, WORDS, bias=bias)

    def summed(self, z: Tensor, labels: Tensor) -> Tensor:
        logits = self.words(self.hidden(z))
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")


def data(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs and labels, one in five of which is missing."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, WORDS, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = -100
    return torch.randn(*shape, 5, generator=generator).to(dtype), labels


def gradients(network: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    network.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def assert_same(
    network: nn.Module, plain: Callable[[], Tensor], ours: Callable[[], Tensor], bound: float = 1e-12
) -> None:
    """Assert the value and gradients of the plain loss; leaves without a gradient there have none here."""
    torch.manual_seed(3)
    loss = plain()
    expected = gradients(network, loss)
    torch.manual_seed(3)
    result = ours()
    torch.testing.assert_close(result, loss, rtol=bound, atol=bound)
    assert gradient_difference(gradients(network, result), expected) <= bound
