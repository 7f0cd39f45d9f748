"""Situations of batches: lists, rows, counts and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.exactness.situations._network import (
    EVERY,
    SAMPLES,
    Layers,
    Network,
    Situation,
    heads,
    network,
    vectors,
)
from mtl_accum import PerSample, Task


def _boxes(*counts: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [{"boxes": torch.rand(count, 4, generator=generator, dtype=torch.float64)} for count in counts]


def _detection_loss(out: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    rows = zip(out, targets, strict=True)
    return torch.stack([(row.sum() - target["boxes"].sum()) ** 2 for row, target in rows]).mean()


def detection(targets: Any) -> Network:
    batch = vectors("depth") | {"boxes": targets}
    tasks = heads("depth") | {"boxes": Task(nn.Linear(5, 4), _detection_loss, "boxes")}
    return network(Layers(), tasks, batch)


def constant_target() -> Network:
    tasks = heads("a") | {"kl": Task(nn.Identity(), lambda z, _: z.square().mean(), lambda batch: 0)}
    return network(Layers(), tasks, vectors("a"))


def count(of: Callable[[Any], Any]) -> Network:
    def masked(out: Tensor, mask: Tensor) -> Tensor:
        return (out.squeeze(1).square() * mask).sum() / mask.sum().clamp(min=1)

    batch = vectors() | {"mask": torch.tensor([1.0, 0, 0, 0, 1, 1, 0], dtype=torch.float64)}
    return network(Layers(), {"t": Task(nn.Linear(5, 1), masked, "mask", count=of)}, batch)


def weights_in_a_list() -> Network:
    head = nn.Linear(5, 1)

    def task(z: Tensor, batch: Any) -> Tensor:
        rows = zip(head(z), batch["y"], batch["weight"])  # noqa: B905  loops in the field do not check either
        return torch.stack([weight * (out - y).square().sum() for out, y, weight in rows]).mean()

    batch = vectors("y") | {"weight": [0.1 * number for number in range(SAMPLES)]}
    return network(Layers(), {"t": task}, batch, head)


class Images(Layers):
    """A trunk that pools a list of images of any size."""

    def transform(self, x: Any) -> Tensor:
        return torch.stack([torch.cat([image.mean((1, 2)), image.amax((1, 2))]) for image in x])


def images_in_a_list() -> Network:
    images = [torch.rand(3, 4 + n % 3, 4, generator=torch.Generator().manual_seed(n)).double() for n in range(SAMPLES)]
    return network(Images(), heads("a"), vectors("a") | {"x": images})


class Views(Layers):
    """A trunk whose output has another number of rows than the batch has samples."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, batch: Any) -> Any:
        z = super().forward(batch)
        if self.how == "two views":
            return torch.cat([z, 0.5 * z])
        if self.how == "feature maps":
            return [z, z.square()]
        return z.reshape(-1, 1).expand(-1, 5)


def rows(how: str) -> Network:
    def pick(z: Any) -> Any:
        return z[0] + z[1] if how == "feature maps" else z

    return network(Views(how), {"t": lambda z, batch: pick(z).sin().square().mean()}, vectors())


def summed() -> Network:
    return network(Layers(), heads("a", loss=nn.MSELoss(reduction="sum"), width=3), vectors("a", width=3))


def labels(loss: Callable[..., Tensor], ignored: int = -100) -> Network:
    batch = vectors() | {"y": torch.tensor([0, ignored, ignored, 2, 1, ignored, 0])}
    return network(Layers(), {"y": Task(nn.Linear(5, 3), loss, "y")}, batch)


def _inner_cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y)


class DiceLoss(nn.Module):
    """A ratio of sums over all samples (Milletari, Navab and Ahmadi, 2016, V-Net)."""

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        out = out.sigmoid()
        return 1 - 2 * (out * y).sum() / (out.sum() + y.sum())


def _overlap(out: Tensor, y: Tensor) -> Tensor:
    return DiceLoss().forward(out, y)


def dice(loss: Callable[..., Tensor]) -> Network:
    batch = vectors("y")
    return network(Layers(), heads("y", loss=loss), batch | {"y": (batch["y"] > 0).double()})


BATCHES: dict[str, Situation] = {
    "detection, the first image without boxes": Situation(lambda: detection(_boxes(0, 2, 3, 1, 0, 5, 4)), EVERY),
    "detection, no boxes at all": Situation(lambda: detection(_boxes(*[0] * SAMPLES)), EVERY),
    "7 images of 7 boxes in a list": Situation(
        lambda: detection(_boxes(*[7] * SAMPLES)),
        ("SummedLoss", "Split", "PerTask", "Checkpointed"),
        fix="`PerSample(list)` in the batch",
    ),
    "7 images of 7 boxes, declared": Situation(lambda: detection(PerSample(_boxes(*[7] * SAMPLES))), EVERY),
    "a target without a tensor": Situation(constant_target, EVERY),
    "a count that ignores the piece": Situation(
        lambda: count(lambda batch: 8),
        ("SummedLoss", "Split", "PerTask", "Checkpointed", "Cached", "Cached, one chunk"),
        fix="a count of the batch that it is given",
    ),
    "`mask.sum().clamp(min=1)`": Situation(lambda: count(lambda batch: batch["mask"].sum().clamp(min=1)), EVERY),
    "a weight a sample, in a list": Situation(weights_in_a_list, EVERY),
    "images in a list": Situation(images_in_a_list, EVERY),
    "a list of feature maps": Situation(lambda: rows("feature maps"), EVERY),
    "two views in one representation": Situation(
        lambda: rows("two views"),
        ("SummedLoss", "Split", "PerTask", "Checkpointed", "Accumulated"),
        fix="a representation of shape (samples, 2, ...)",
    ),
    "flattened tokens": Situation(
        lambda: rows("tokens"),
        ("SummedLoss", "Split", "PerTask", "Checkpointed", "Accumulated"),
        fix="`unflatten(0, (samples, -1))`",
    ),
    "`reduction='sum'`": Situation(summed, EVERY),
    "ignored labels": Situation(lambda: labels(nn.CrossEntropyLoss()), EVERY),
    "class weights and ignored labels": Situation(
        lambda: labels(nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.2]).double(), ignore_index=255), 255), EVERY
    ),
    "a function around a cross-entropy": Situation(
        lambda: labels(_inner_cross_entropy),
        ("SummedLoss", "Split", "PerTask", "Checkpointed", "Cached", "Cached, one chunk"),
        fix="`count=count_labels(target)`",
    ),
    "a Dice loss": Situation(
        lambda: dice(DiceLoss()),
        ("SummedLoss", "Split", "PerTask", "Checkpointed", "Cached", "Cached, one chunk"),
        fix="`couples_samples=True`; `Cached`",
    ),
    "a Dice loss that does not look like one": Situation(
        lambda: dice(_overlap),
        ("SummedLoss", "Split", "PerTask", "Checkpointed", "Cached", "Cached, one chunk"),
        blind=("head chunks", "Accumulated"),
        fix="`couples_samples=True`; `Cached`",
    ),
}
