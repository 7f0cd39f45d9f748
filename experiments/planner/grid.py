"""Networks, budgets and candidates of the planner's studies, fixed before a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Edition, MultiTaskModel, Task
from mtl_accum.planning import candidates, left_out
from mtl_accum.testing import NETWORKS

__all__ = ["MODELS", "SHARES", "schedules"]

SHARES = (0.05, 0.25, 0.5, 0.75)  # of the way from the smallest peak that exists to the summed loss's
Parts = tuple[MultiTaskModel, Any]


def _of_the_tests(name: str, **sizes: int) -> Callable[[], Parts]:
    return lambda: NETWORKS[name](**sizes)


def _dense_head(width: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, channels, 1))


def many_heads() -> Parts:
    """Build a small trunk over sequences, and 16 linear heads at every position."""
    samples, length = 48, 96
    tasks = {f"t{n}": Task(nn.Linear(48, 3), F.mse_loss, f"y{n}") for n in range(16)}
    trunk = nn.Sequential(nn.Linear(12, 96), nn.GELU(), nn.Dropout(0.1), nn.Linear(96, 48), nn.Tanh())
    targets = {f"y{n}": torch.randn(samples, length, 3) for n in range(16)}
    return MultiTaskModel(trunk, tasks, "x"), {"x": torch.randn(samples, length, 12), **targets}


def batchnorm() -> Parts:
    """Build convolutions with BatchNorm, whose batch cannot be cut in the trunk, and five dense heads without."""
    width = 24
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    tasks = {f"t{n}": Task(_dense_head(width, 2), nn.MSELoss(), "y") for n in range(5)}
    model = MultiTaskModel(nn.Sequential(*layers), tasks, "x")
    return model, {"x": torch.randn(24, 3, 32, 32), "y": torch.randn(24, 2, 32, 32)}


def huge_head() -> Parts:
    """Build a recommender: a small trunk, one head over 20,000 items, two small ones."""
    width, items, samples = 64, 20_000, 96
    tasks = {
        "item": Task(nn.Linear(width, items), nn.CrossEntropyLoss(), "item"),
        "rating": Task(nn.Linear(width, 1), nn.MSELoss(), "rating"),
        "bought": Task(nn.Linear(width, 2), nn.CrossEntropyLoss(), "bought"),
    }
    trunk = nn.Sequential(nn.Linear(512, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, width))
    batch = {
        "x": torch.randn(samples, 512),
        "item": torch.randint(0, items, (samples,)),
        "rating": torch.randn(samples, 1),
        "bought": torch.randint(0, 2, (samples,)),
    }
    return MultiTaskModel(trunk, tasks, "x"), batch


def contrastive() -> Parts:
    """Build a contrastive loss over the whole batch, which cannot be cut in the heads, and three tasks beside it."""
    width, samples = 48, 48

    def info_nce(z: Tensor, other: Tensor) -> Tensor:
        one, two = F.normalize(z, dim=1), F.normalize(other, dim=1)
        return F.cross_entropy(one @ two.T / 0.1, torch.arange(len(one)))

    trunk = nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        *(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.GELU()) for _ in range(4)),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
    )
    wide = 16 * width
    tasks = {
        "views": Task(nn.Linear(wide, 32), info_nce, "other", couples_samples=True),
        **{
            f"t{n}": Task(nn.Sequential(nn.Linear(wide, 256), nn.GELU(), nn.Linear(256, 9)), nn.CrossEntropyLoss(), "y")
            for n in range(3)
        },
    }
    batch = {
        "x": torch.randn(samples, 3, 48, 48),
        "other": torch.randn(samples, 32),
        "y": torch.randint(0, 9, (samples,)),
    }
    return MultiTaskModel(trunk, tasks, "x"), batch


MODELS: dict[str, Callable[[], Parts]] = {
    "convolutional": _of_the_tests("convolutional", width=24, size=40, samples=20),
    "transformer": _of_the_tests("transformer", width=128, depth=3, length=48, samples=16),
    "many_heads": many_heads,
    "huge_head": huge_head,
    "batchnorm": batchnorm,
    "contrastive": contrastive,
}


def schedules(model: MultiTaskModel, batch: Any) -> list[Edition]:
    """Return all candidates for a network on the CPU."""
    without = left_out(model.trunk, model.tasks, batch, on_gpu=False)
    return candidates(len(model.tasks), len(next(iter(batch.values()))), without)
