"""Small multi-task networks for exactness tests: dropout on, odd sizes, every kind of representation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum.models import ConvClassifier, ConvTrunk, DenseHead, MultiTaskModel, Task

__all__ = ["SAMPLES", "Head", "Workload", "images", "nested", "vector"]

SAMPLES = 7  # an odd prime: no chunk size divides it


@dataclass
class Workload:
    """A network, its tasks and a batch.

    Attributes:
        trunk: Function of the batch that returns the representation.
        tasks: Losses by name, modules or plain functions; untyped, since tests reach into them.
        batch: Batch to train on.
        modules: Module that owns every parameter and buffer; untyped, since tests index it.
    """

    trunk: Callable[[Any], Any]
    tasks: Mapping[str, Any]
    batch: Any
    modules: Any

    def gradients(self) -> dict[str, Tensor | None]:
        """Copy the gradients, by parameter; None where there is none."""
        return {n: None if p.grad is None else p.grad.clone() for n, p in self.modules.named_parameters()}

    def buffers(self) -> dict[str, Tensor]:
        """Copy the buffers, by name."""
        return {n: b.clone() for n, b in self.modules.named_buffers()}


class Head(nn.Module):
    """A head of two layers with dropout between them, and its mean squared error.

    Args:
        inputs: Width of the tensor that `pick` returns.
        outputs: Width of the target.
        pick: Function that takes the head's input out of the representation.
        target: Key of the target in the batch.
        dropout: Probability to drop a hidden unit.
    """

    def __init__(
        self, inputs: int, outputs: int, pick: Callable[[Any], Tensor], target: str, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 5), nn.Linear(5, outputs)
        self.pick, self.target, self.dropout = pick, target, dropout

    def forward(self, representation: Any, batch: Any) -> Tensor:
        """Return the loss."""
        hidden = F.dropout(torch.tanh(self.first(self.pick(representation))), self.dropout, self.training)
        return F.mse_loss(self.last(hidden), batch[self.target])


def vector(
    dtype: torch.dtype = torch.float64,
    tasks: int = 3,
    dropout: float = 0.25,
    trunk_dropout: float = 0.25,
    norm: nn.Module | None = None,
) -> Workload:
    """Build a trunk of two layers on vectors, whose representation is one tensor.

    Args:
        dtype: Data type of the weights and of the batch.
        tasks: Number of heads.
        dropout: Probability to drop a unit in a head.
        trunk_dropout: Probability to drop a unit in the trunk.
        norm: Normalisation between the trunk's layers; none by default.
    """
    torch.manual_seed(1)
    layers: list[nn.Module] = [
        nn.Linear(6, 9, bias=norm is None),
        *([norm] if norm else []),
        nn.Tanh(),
        nn.Dropout(trunk_dropout),
        nn.Linear(9, 8),
    ]
    trunk = nn.Sequential(*layers)
    heads = nn.ModuleDict({f"t{i}": Head(8, 2 + i, lambda z: z, f"y{i}", dropout) for i in range(tasks)})
    modules = nn.ModuleList([trunk, heads]).to(dtype)
    batch = {"x": torch.randn(SAMPLES, 6, dtype=dtype)}
    batch |= {f"y{i}": torch.randn(SAMPLES, 2 + i, dtype=dtype) for i in range(tasks)}
    return Workload(lambda b: trunk(b["x"]), dict(heads.items()), batch, modules)


def images(dtype: torch.dtype = torch.float64) -> Workload:
    """Build a convolutional trunk on images of odd size, with a classifier and a dense head.

    Args:
        dtype: Data type of the weights and of the images.
    """
    torch.manual_seed(2)
    tasks = {
        "digit": Task(ConvClassifier(8, 10, depth=1), nn.CrossEntropyLoss(), "digit"),
        "denoise": Task(DenseHead(8, depth=1), nn.MSELoss(), "clean", weight=3.0),
    }
    model = MultiTaskModel(ConvTrunk(width=8, depth=3, dropout=0.2), tasks, "image").to(dtype)
    batch = {
        "image": torch.randn(SAMPLES, 1, 5, 7, dtype=dtype),
        "clean": torch.randn(SAMPLES, 1, 5, 7, dtype=dtype),
        "digit": torch.randint(0, 10, (SAMPLES,)),
    }
    return Workload(model.trunk, model.tasks, batch, model)


def nested(container: Callable[[Tensor, Tensor, Tensor], Any], pick: Callable[[Any, int], Tensor]) -> Workload:
    """Build a network whose representation is two feature maps and an integer tensor in a container.

    Args:
        container: Function that makes the representation from (first, second, integers).
        pick: Function that takes the first (0) or second (1) tensor out of the representation.
    """
    load = vector()
    trunk = load.modules[0]

    def run(batch: Any) -> Any:
        z = trunk(batch["x"])
        return container(z, torch.sin(z), torch.arange(len(z)))

    for number, head in enumerate(load.tasks.values()):
        head.pick = lambda z, which=number % 2: pick(z, which)
    return Workload(run, load.tasks, load.batch, load.modules)
