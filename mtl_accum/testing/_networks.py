"""Networks for tests and studies of memory: convolutions, attention, many small heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtl_accum.editions import Cached, Edition, PerTask, Split, SummedLoss
from mtl_accum.models import MultiTaskModel, Task

__all__ = [
    "MODES",
    "NETWORKS",
    "OPTIMIZERS",
    "Network",
    "basic_editions",
    "convolutional",
    "many_heads",
    "transformer",
]

Network = tuple[MultiTaskModel, dict[str, Tensor]]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "adamw": torch.optim.AdamW,
}
MODES = ("fp32", "autocast", "checkpoint")


def basic_editions(samples: int) -> dict[str, Edition]:
    """Return the four editions that every study compares, by name.

    Args:
        samples: Number of samples in the batch; a chunk of the trunk is a quarter of it.
    """
    return {"summed": SummedLoss(), "per_task": PerTask(), "split": Split(), "cached": Cached(max(1, samples // 4))}


class Under(nn.Module):
    """A network under autocast or activation checkpointing, on the device of its input.

    Args:
        network: Network to run.
        mode: One of `MODES`.
    """

    def __init__(self, network: nn.Module, mode: str) -> None:
        super().__init__()
        self.network, self.mode = network, mode

    def forward(self, *inputs: Tensor) -> Any:
        """Run the network."""
        if self.mode == "autocast":
            with torch.autocast(inputs[0].device.type, torch.bfloat16):
                return self.network(*inputs)
        if self.mode == "checkpoint":
            return checkpoint(self.network, *inputs, use_reentrant=False)
        return self.network(*inputs)


class _ResidualBlock(nn.Module):
    """A residual convolution with GroupNorm and dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(2, width), nn.ReLU(), nn.Dropout2d(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def convolutional(mode: str = "fp32", *, width: int = 8, size: int = 18, samples: int = 7) -> Network:
    """Build residual blocks with GroupNorm, three dense heads that upsample, and a classifier.

    Args:
        mode: One of `MODES`.
        width: Number of channels.
        size: Height and width of the images.
        samples: Number of samples in the batch.
    """
    trunk = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), *(Under(_ResidualBlock(width), mode) for _ in range(3)))

    def dense(channels: int) -> nn.Module:
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        return Under(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), up, nn.Conv2d(width, channels, 1)), mode
        )

    classifier = Under(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)), mode)
    tasks = {
        "depth": Task(dense(1), nn.L1Loss(), "depth"),
        "normals": Task(dense(3), nn.MSELoss(), "normals", weight=0.5),
        "segments": Task(dense(5), nn.CrossEntropyLoss(), "segments"),
        "scene": Task(classifier, nn.CrossEntropyLoss(), "scene"),
    }
    batch = {
        "x": torch.randn(samples, 3, size, size),
        "depth": torch.randn(samples, 1, size, size),
        "normals": torch.randn(samples, 3, size, size),
        "segments": torch.randint(0, 5, (samples, size, size)),
        "scene": torch.randint(0, 10, (samples,)),
    }
    return MultiTaskModel(Under(trunk, "autocast" if mode == "autocast" else "fp32"), tasks, "x"), batch


class _Attention(nn.Module):
    """A pre-norm transformer block with scaled dot-product attention."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(samples, length, width)
        x = x + F.dropout(self.out(mixed), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.second(x)), self.dropout, self.training)


class _Tokens(nn.Module):
    """Token and position embeddings, then blocks."""

    def __init__(self, vocabulary: int, length: int, width: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.blocks(self.tokens(ids) + self.positions(positions))  # type: ignore[no-any-return]


class _TokenLoss(nn.Module):
    """Cross-entropy, the mean over all tokens."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def transformer(
    mode: str = "fp32", *, width: int = 16, depth: int = 3, length: int = 13, samples: int = 7, classes: int = 11
) -> Network:
    """Build a transformer over tokens, and four token heads of one block and a linear layer each.

    Args:
        mode: One of `MODES`.
        width: Width of the representation.
        depth: Number of blocks in the trunk.
        length: Number of tokens in a sample.
        samples: Number of samples in the batch.
        classes: Number of classes of the first task; each further task has one more.
    """
    heads = max(2, width // 64)

    def block() -> nn.Module:
        return Under(_Attention(width, heads, 0.1), mode)

    whole = "autocast" if mode == "autocast" else "fp32"
    trunk = Under(_Tokens(50, length, width, [block() for _ in range(depth)]), whole)
    tasks = {
        f"t{n}": Task(Under(nn.Sequential(block(), nn.Linear(width, classes + n)), whole), _TokenLoss(), f"y{n}")
        for n in range(4)
    }
    batch = {"ids": torch.randint(0, 50, (samples, length))}
    batch |= {f"y{n}": torch.randint(0, classes, (samples, length)) for n in range(4)}
    return MultiTaskModel(trunk, tasks, "ids"), batch


def many_heads(mode: str = "fp32", *, heads: int = 12, width: int = 16, samples: int = 7) -> Network:
    """Build a small trunk and many linear heads, with losses that are plain functions.

    Args:
        mode: One of `MODES`.
        heads: Number of heads.
        width: Width of the representation.
        samples: Number of samples in the batch.
    """
    layers = [nn.Linear(9, width), Under(nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.2)), mode)]
    tasks = {
        f"t{n}": Task(Under(nn.Linear(width, 3), "autocast" if mode == "autocast" else "fp32"), F.mse_loss, f"y{n}")
        for n in range(heads)
    }
    batch = {"x": torch.randn(samples, 9)} | {f"y{n}": torch.randn(samples, 3) for n in range(heads)}
    return MultiTaskModel(nn.Sequential(*layers), tasks, "x"), batch


NETWORKS: dict[str, Callable[..., Network]] = {
    "convolutional": convolutional,
    "transformer": transformer,
    "many_heads": many_heads,
}
