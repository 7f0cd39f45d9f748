"""Script for an environment with torch alone: `cut`, `fold` and every edition against a plain backward.

Prints the names of the editions that it ran.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl_accum import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    MultiTaskModel,
    Offloaded,
    OverBatches,
    PerTask,
    Split,
    SummedLoss,
    Task,
    cut,
    fold,
)
from mtl_accum.editions import InBackward

EDITIONS = [
    SummedLoss(),
    PerTask(),
    Split(),
    Split(heads_per_graph=2, head_chunks=3),
    Cached(chunk_size=2),
    Checkpointed(Split()),
    Offloaded(Split()),
    Accumulated(Split(), micro_batches=3),
    OverBatches(Split()),
    AsLoss(Split()),
]


def network() -> MultiTaskModel:
    """Build two regressions and a classification in float64."""
    tasks = {name: Task(nn.Linear(8, 1), nn.MSELoss(), target=name) for name in ("price", "age")}
    tasks["kind"] = Task(nn.Linear(8, 3), nn.CrossEntropyLoss(), target="kind")
    return MultiTaskModel(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), tasks, inputs="x").double()


def make_batch(samples: int) -> dict[str, Tensor]:
    """Draw a batch for `network`."""
    real = {name: torch.randn(samples, width).double() for name, width in (("x", 4), ("price", 1), ("age", 1))}
    return {**real, "kind": torch.randint(3, (samples,))}


def gradients_after(model: MultiTaskModel) -> list[Tensor]:
    """Return the gradients, and set those of the model to None."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    assert len(gradients) == len(list(model.parameters()))
    assert all(gradient.any() for gradient in gradients)
    return gradients


def main() -> None:
    """Compare each way to compute the gradient with the plain loop."""
    torch.manual_seed(0)
    model, batch = network(), make_batch(7)
    torch.stack([task(model.trunk(batch), batch) for task in model.tasks.values()]).sum().backward()
    expected = gradients_after(model)

    with cut(model.trunk(batch)) as z:
        for task in model.tasks.values():
            task(z, batch).backward()
    torch.testing.assert_close(gradients_after(model), expected)

    z = model.trunk(batch)
    torch.stack([fold(task, z, batch) for task in model.tasks.values()]).sum().backward()
    torch.testing.assert_close(gradients_after(model), expected)

    for edition in EDITIONS:
        whole = not isinstance(edition, OverBatches)
        parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 5), slice(5, 7))]
        edition.forward_backward(model.trunk, model.tasks, batch if whole else parts)
        torch.testing.assert_close(gradients_after(model), expected)
        print(type(edition).__name__)

    before = [parameter.detach().clone() for parameter in model.parameters()]
    in_backward = InBackward(Split(), torch.optim.SGD(model.parameters(), lr=1.0))
    in_backward.forward_backward(model.trunk, model.tasks, batch)
    steps = [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]
    torch.testing.assert_close(steps, expected)
    print(type(in_backward).__name__)


if __name__ == "__main__":
    main()
