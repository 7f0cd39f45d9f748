"""Situations of the field, each found in public reports: what the user's plain loop gives is the right value."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mtl_accum import PerSample, Task

SAMPLES = 7
PIECES = ("Cached", "head chunks", "Accumulated")
EVERY = ("SummedLoss", "Split", "PerTask", "Checkpointed", "Cached, one chunk", *PIECES)


@dataclass
class Network:
    """What a user's loop has: `sum(task(z, batch) for task in tasks).backward()` with `z = trunk(batch)`.

    Attributes:
        modules: Owner of the parameters.
        leaves: Other tensors that get a gradient, by name.
        plain: The user's own loop, where it is another one.
        autocast: Whether the loop runs under bfloat16 autocast.
    """

    trunk: Callable[[Any], Any]
    tasks: Mapping[str, Callable[[Any, Any], Tensor]]
    batch: Any
    modules: nn.Module
    leaves: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Callable[[], None] | None = None
    autocast: bool = False


@dataclass(frozen=True)
class Situation:
    """A situation, and what an edition must make of it.

    Attributes:
        make: Builds the network, the same one each time.
        right: Editions whose gradient must be the plain loop's.
        blind: Editions that cannot see the fault and are wrong; `check` must find it.
        by_pieces: Whether pieces draw other random numbers, or round to other 16-bit numbers, than the whole batch:
            editions in pieces are held against the summed loss over the same pieces.
        fix: What the user does where an edition refuses.
    """

    make: Callable[[], Network]
    right: Collection[str]
    blind: Collection[str] = ()
    by_pieces: bool = False
    fix: str = ""


def _vectors(*tasks: str, width: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = {"x": torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)}
    return batch | {t: torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64) for t in tasks}


def _heads(*tasks: str, loss: Callable[..., Tensor] = nn.MSELoss(), width: int = 1) -> dict[str, Task]:  # noqa: B008
    return {name: Task(nn.Linear(5, width), loss, name) for name in tasks}


def _network(trunk: nn.Module, tasks: dict[str, Any], batch: Any, *heads: nn.Module, **options: Any) -> Network:
    torch.manual_seed(0)
    modules = nn.ModuleList([trunk, *heads, *(task for task in tasks.values() if isinstance(task, nn.Module))]).double()
    for parameter in modules.parameters():
        nn.init.normal_(parameter, std=0.4)
    return Network(trunk, tasks, batch, modules, **options)


class Layers(nn.Module):
    """Two layers on `batch["x"]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 5)

    def forward(self, batch: Any) -> Any:
        return self.last(torch.tanh(self.first(self.look(batch["x"]))))

    def look(self, x: Tensor) -> Tensor:
        return x


# Counts, lists and rows


def _boxes(*counts: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [{"boxes": torch.rand(count, 4, generator=generator, dtype=torch.float64)} for count in counts]


def _detection_loss(out: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    rows = zip(out, targets, strict=True)
    return torch.stack([(row.sum() - target["boxes"].sum()) ** 2 for row, target in rows]).mean()


def detection(targets: Any) -> Network:
    batch = _vectors("depth") | {"boxes": targets}
    tasks = _heads("depth") | {"boxes": Task(nn.Linear(5, 4), _detection_loss, "boxes")}
    return _network(Layers(), tasks, batch)


def constant_target() -> Network:
    tasks = _heads("a") | {"kl": Task(nn.Identity(), lambda z, _: z.square().mean(), lambda batch: 0)}
    return _network(Layers(), tasks, _vectors("a"))


def count(of: Callable[[Any], Any]) -> Network:
    def masked(out: Tensor, mask: Tensor) -> Tensor:
        return (out.squeeze(1).square() * mask).sum() / mask.sum().clamp(min=1)

    batch = _vectors() | {"mask": torch.tensor([1.0, 0, 0, 0, 1, 1, 0], dtype=torch.float64)}
    return _network(Layers(), {"t": Task(nn.Linear(5, 1), masked, "mask", count=of)}, batch)


def weights_in_a_list() -> Network:
    head = nn.Linear(5, 1)

    def task(z: Tensor, batch: Any) -> Tensor:
        rows = zip(head(z), batch["y"], batch["weight"])  # noqa: B905  loops in the field do not check either
        return torch.stack([weight * (out - y).square().sum() for out, y, weight in rows]).mean()

    batch = _vectors("y") | {"weight": [0.1 * number for number in range(SAMPLES)]}
    return _network(Layers(), {"t": task}, batch, head)


class Images(Layers):
    """Pools a list of images of any size."""

    def look(self, x: Any) -> Tensor:
        return torch.stack([torch.cat([image.mean((1, 2)), image.amax((1, 2))]) for image in x])


def images_in_a_list() -> Network:
    images = [torch.rand(3, 4 + n % 3, 4, generator=torch.Generator().manual_seed(n)).double() for n in range(SAMPLES)]
    return _network(Images(), _heads("a"), _vectors("a") | {"x": images})


class Views(Layers):
    """Another number of rows than the batch has samples."""

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
    pick = (lambda z: z[0] + z[1]) if how == "feature maps" else (lambda z: z)
    return _network(Views(how), {"t": lambda z, batch: pick(z).sin().square().mean()}, _vectors())


# Denominators


def summed() -> Network:
    return _network(Layers(), _heads("a", loss=nn.MSELoss(reduction="sum"), width=3), _vectors("a", width=3))


def labels(loss: Callable[..., Tensor], ignored: int = -100) -> Network:
    batch = _vectors() | {"y": torch.tensor([0, ignored, ignored, 2, 1, ignored, 0])}
    return _network(Layers(), {"y": Task(nn.Linear(5, 3), loss, "y")}, batch)


def _inner_cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y)


class DiceLoss(nn.Module):
    """A ratio of sums over all samples (Milletari, Navab and Ahmadi, 2016, V-Net)."""

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        out = out.sigmoid()
        return 1 - 2 * (out * y).sum() / (out.sum() + y.sum())


def _overlap(out: Tensor, y: Tensor) -> Tensor:
    return DiceLoss()(out, y)


def dice(loss: Callable[..., Tensor]) -> Network:
    batch = _vectors("y")
    return _network(Layers(), _heads("y", loss=loss), batch | {"y": (batch["y"] > 0).double()})


# Replays


class LayerDrop(Layers):
    """Skips its layer by a generator that is not torch's."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def look(self, x: Tensor) -> Tensor:
        return x * (1 + self.draw())


class Stateful(Layers):
    """Carries a hidden state over batches in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.ones(6, dtype=torch.float64)

    def look(self, x: Tensor) -> Tensor:
        self.state = 0.5 * self.state + x.mean(0).detach()
        return x + self.state


class Picture(Layers):
    """Keeps its latest activation to look at, and counts its calls: harmless."""

    calls = 0

    def forward(self, batch: Any) -> Any:
        self.calls += 1
        self.picture = super().forward(batch)
        return self.picture


class InPlace(Layers):
    """Normalises its input in place."""

    def look(self, x: Tensor) -> Tensor:
        return x.div_(3)


class Balanced(Layers):
    """Keeps a loss of its own in an attribute, as mixtures of experts do."""

    def forward(self, batch: Any) -> Any:
        z = super().forward(batch)
        self.balance = z.softmax(-1).mean(0).square().sum()
        return z


def auxiliary() -> Network:
    trunk = Balanced()
    return _network(trunk, _heads("a", "b") | {"balance": lambda z, batch: trunk.balance}, _vectors("a", "b"))


def hooked() -> Network:
    trunk, kept = Layers(), {}
    trunk.first.register_forward_hook(lambda module, inputs, out: kept.update(h=out))
    return _network(trunk, _heads("a") | {"middle": lambda z, batch: kept["h"].square().mean()}, _vectors("a"))


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, loss: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones((), dtype=gradient.dtype)


class Injecting(Balanced):
    """Sends the gradient of its own loss into whatever backward comes by (DeepSpeed's and Megatron's mixtures)."""

    def forward(self, batch: Any) -> Any:
        return _Inject.apply(super().forward(batch), self.balance)


class Standardised(Layers):
    """Normalises by the batch's statistics, by hand."""

    def look(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-3).sqrt()


def spectral() -> Network:
    network = _network(Layers(), _heads("a", "b"), _vectors("a", "b"))
    spectral_norm(network.trunk.first)
    return network


# Losses


def log_variances() -> Network:
    network = _network(Layers(), _heads("a", "b"), _vectors("a", "b"))
    logs = {name: torch.zeros((), dtype=torch.float64, requires_grad=True) for name in network.tasks}

    def weighted(name: str, task: Any) -> Callable[[Any, Any], Tensor]:
        return lambda z, batch: torch.exp(-logs[name]) * task(z, batch) + logs[name]

    network.tasks = {name: weighted(name, task) for name, task in network.tasks.items()}
    network.leaves = logs
    return network


class Weighted(nn.Module):
    """A user's wrapper around a `Task`: uncertainty weighting (Kendall, Gal and Cipolla, 2018)."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.log = task, nn.Parameter(torch.zeros(()))

    def forward(self, z: Any, batch: Any) -> Tensor:
        return torch.exp(-self.log) * self.task(z, batch) + self.log


def wrapped() -> Network:
    tasks = {name: Weighted(task) for name, task in _heads("a", "rare").items()}
    batch = labels(nn.CrossEntropyLoss()).batch
    tasks["y"] = Weighted(Task(nn.Linear(5, 3), nn.CrossEntropyLoss(), "y"))
    network = _network(Layers(), tasks, _vectors("a") | {"y": batch["y"]})

    def plain() -> None:
        z = network.trunk(network.batch)
        sum(network.tasks[name](z, network.batch) for name in ("a", "y")).backward()  # "rare" is not in the batch

    network.plain = plain
    return network


def input_gradient() -> Network:
    batch = _vectors("a")
    network = _network(Layers(), _heads("a"), batch)
    batch["x"].requires_grad_()
    network.leaves = {"x": batch["x"]}
    return network


def physics() -> Network:
    """A loss on the derivative with respect to the input (Raissi, Perdikaris and Karniadakis, 2019)."""
    network = input_gradient()
    head = network.tasks["a"].head

    def residual(z: Tensor, batch: Any) -> Tensor:
        u = head(z)
        (slope,) = torch.autograd.grad(u.sum(), batch["x"], create_graph=True)
        return (slope.sum(1, keepdim=True) - u).square().mean()

    network.tasks = {"residual": residual}
    return network


class Float32Head(nn.Module):
    """Switches autocast off for its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.linear(z.float())


def autocast() -> Network:
    network = _network(Layers(), {"a": Task(Float32Head(), nn.MSELoss(), "a")}, _vectors("a"), autocast=True)
    network.modules.float()
    network.batch = {name: tensor.float() for name, tensor in network.batch.items()}
    return network


_ONE_PASS = ("SummedLoss", "Split", "head chunks")

SITUATIONS: dict[str, Situation] = {
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
    "numpy's generator": Situation(
        lambda: _network(LayerDrop(np.random.rand), _heads("a", "b"), _vectors("a", "b")), EVERY, by_pieces=True
    ),
    "Python's generator": Situation(
        lambda: _network(LayerDrop(random.random), _heads("a", "b"), _vectors("a", "b")), EVERY, by_pieces=True
    ),
    "state carried over in an attribute": Situation(
        lambda: _network(Stateful(), _heads("a", "b"), _vectors("a", "b")),
        _ONE_PASS,
        blind=("Accumulated",),
        fix="`Split`",
    ),
    "an attribute that keeps a picture": Situation(
        lambda: _network(Picture(), _heads("a", "b"), _vectors("a", "b")), EVERY
    ),
    "a trunk that writes into its batch": Situation(
        lambda: _network(InPlace(), _heads("a", "b"), _vectors("a", "b")),
        (*_ONE_PASS, "Accumulated"),
        fix="`x / 3` in place of `x.div_(3)`, or `Split`",
    ),
    "a loss of the trunk's own, in an attribute": Situation(
        auxiliary, ("SummedLoss", "PerTask"), fix="return it as a part of the representation"
    ),
    "features kept by a hook": Situation(
        hooked, ("SummedLoss", "PerTask"), fix="return them as a part of the representation"
    ),
    "a gradient injected into the backward": Situation(
        lambda: _network(Injecting(), _heads("a", "b"), _vectors("a", "b")),
        (*_ONE_PASS, "Checkpointed", "Cached, one chunk"),
        blind=("PerTask", "Cached", "Accumulated"),
        fix="`Split`",
    ),
    "spectral norm": Situation(spectral, (*_ONE_PASS, "PerTask", "Checkpointed", "Cached, one chunk"), fix="`Split`"),
    "batch statistics by hand": Situation(
        lambda: _network(Standardised(), _heads("a", "b"), _vectors("a", "b")),
        (*_ONE_PASS, "PerTask", "Checkpointed", "Cached, one chunk"),
        blind=("Cached", "Accumulated"),
        fix="`Split`",
    ),
    "log-variances in a closure": Situation(log_variances, EVERY),
    "a module around a `Task`": Situation(wrapped, EVERY),
    "an input that requires a gradient": Situation(input_gradient, EVERY),
    "a loss on the input's derivative": Situation(physics, ("SummedLoss", "PerTask"), fix="`PerTask`"),
    "a head that switches autocast off": Situation(autocast, EVERY, by_pieces=True),
}
